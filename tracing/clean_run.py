"""Runs an unpacked archive as TorchServe would, without TorchServe, Java or the kit: a script for a clean interpreter.

    python -I clean_run.py FOLDER [FOLDER-FOR-THE-PATH...] < requests.json

Reads ``[[{"body": base64, "type": content type}, ...], ...]``, a list of batches, and writes one line of JSON:
``{"state": ..., "batches": [[{"status", "type", "body": base64}, ...], ...]}``, or ``{"fault": ...}``.
"""

import base64
import importlib
import inspect
import json
import os
import sys

# An archive that needs the build half works on the packer's machine only.
_KIT = ("tracing", "serving", "benchmarking", "cli", "ts", "model_archiver")


class Blocker:
    """Refuses the imports that a stock container does not have."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in _KIT:
            raise ImportError("%s is not part of the archive" % name)
        return


class StandInContext:
    """What a handler sees of TorchServe: the part of ``ts.context.Context`` that is in every release since 0.5."""

    def __init__(self, folder, manifest, batch_size):
        self.manifest = manifest
        self.model_name = manifest["model"]["modelName"]
        self.system_properties = {"model_dir": folder, "gpu_id": None, "batch_size": batch_size}
        self.system_properties.update(server_name="MMS", server_version="stand-in", limit_max_image_pixels=True)
        self.model_yaml_config = {}
        self.metrics = None
        self.begin([])

    def begin(self, headers):
        """Start a batch whose requests have these headers."""
        self.headers = headers
        self.request_ids = {index: "request-%d" % index for index in range(len(headers))}
        self.statuses = [(200, "")] * len(headers)
        self.response_headers = [{} for _ in headers]

    def get_request_header(self, index, name):
        return self.headers[index].get(name)

    def get_all_request_header(self, index):
        return self.headers[index]

    def set_response_status(self, code=200, phrase="", idx=0):
        self.statuses[idx] = (code, phrase)

    def set_response_header(self, index, name, value):
        self.response_headers[index][name] = value

    def set_response_content_type(self, index, value):
        self.set_response_header(index, "content-type", value)


def find_handler_class(module):
    """Return the one class that the entry defines, by TorchServe's rule."""
    classes = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    if len(classes) != 1:
        names = ", ".join(kind.__name__ for kind in classes) or "none"
        raise ValueError("the entry defines %d classes (%s), TorchServe takes exactly one" % (len(classes), names))
    return classes[0]


def run(folder, batches, more_path=()):
    """Return the worker's state and its answers to batches of requests; ``more_path`` is searched last."""
    sys.path.insert(0, folder)
    sys.path.extend(more_path)
    sys.meta_path.insert(0, Blocker())
    os.chdir(folder)
    with open(os.path.join(folder, "MAR-INF", "MANIFEST.json"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    entry = manifest["model"]["handler"]
    module = importlib.import_module(entry[:-3] if entry.endswith(".py") else entry)
    context = StandInContext(folder, manifest, max([len(batch) for batch in batches] or [1]))
    handler = find_handler_class(module)()
    handler.initialize(context)
    state = json.loads(_answer(handler, context, [({}, {"describe": "True"})])[0])
    if state.get("status") != "ready":
        return {"state": state, "batches": []}
    return {"state": state, "batches": [_answer_batch(handler, context, batch) for batch in batches]}


def _answer_batch(handler, context, batch):
    rows = []
    for request in batch:
        headers = {"Content-Type": request["type"], "body": {"content-type": request["type"]}}
        rows.append(({"body": bytearray(base64.b64decode(request["body"]))}, headers))
    bodies = _answer(handler, context, rows)
    return [
        {"status": status, "type": headers.get("content-type", ""), "body": base64.b64encode(body).decode()}
        for (status, _), headers, body in zip(context.statuses, context.response_headers, bodies)
    ]


def _answer(handler, context, rows):
    context.begin([headers for _, headers in rows])
    answers = handler.handle([row for row, _ in rows], context)
    if not isinstance(answers, list) or len(answers) != len(rows):
        raise ValueError("handle() gave %r for %d requests, expected a list of as many" % (answers, len(rows)))
    return [answer if isinstance(answer, bytes) else json.dumps(answer).encode() for answer in answers]


if __name__ == "__main__":
    # Whatever the archive prints is not to be mixed with the result.
    result_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        result = run(sys.argv[1], json.load(sys.stdin), sys.argv[2:])
    except Exception as error:
        result = {"fault": "%s: %s" % (type(error).__name__, error)}
    result_stream.write(json.dumps(result) + "\n")
    result_stream.flush()
