"""The file that TorchServe imports from an archive: verifies the archive's files, then hands over to the service.

It lies at the archive's root and imports nothing of the archive before the files are verified. It never raises: a
worker that dies while it loads leaves clients hanging in TorchServe's retry loop, so the reason is answered instead.
"""

import json
import re
import socket
import sys
import time
import traceback
from pathlib import Path

# Bytecode in the model folder would be one more thing to trust.
sys.dont_write_bytecode = True


class Entry:
    """What TorchServe drives; the only class here, because TorchServe takes a module with exactly one."""

    def __init__(self):
        self.service = None
        self.reason = "the worker is still starting"
        self.kind = "CannotServe"

    def initialize(self, context):
        """Verify the archive and start the service."""
        try:
            folder = Path(context.system_properties["model_dir"]).resolve()
            from handlers import integrity

            integrity.verify_files(folder)
            from handlers import frontend
            from handlers.service import Service

            service = Service(folder)
            service.frontend = frontend.install()
            service.initialize(context)
            self.service = service
        except Exception as exc:
            traceback.print_exc()
            self.kind = type(exc).__name__
            # Our own errors are sentences for people; of others the kind is half of the message.
            self.reason = str(exc) if self.kind == "BrokenArchive" else "the archive does not start: %r" % exc
            if isinstance(exc, ImportError):
                self.reason += "; install what is missing in the Python that runs TorchServe, then restart it"
            _report_unable(context)

    def handle(self, rows, context):
        """Return one answer for each row."""
        if self.service is not None:
            return self.service.handle(rows, context)
        _report_unable(context)
        return [self._refuse(context, index) for index in range(len(rows))]

    def _refuse(self, context, index):
        context.set_response_content_type(index, "application/json")
        if context.get_request_header(index, "describe"):
            return json.dumps({"status": "cannot serve", "type": self.kind, "reason": self.reason}).encode()
        context.set_response_status(503, "Service Unavailable", index)
        return json.dumps({"code": 503, "type": self.kind, "message": self.reason}).encode()


def _report_unable(context):
    """Tell TorchServe's metrics that this worker cannot serve; what ``handlers.reporting`` does for all others."""
    if getattr(context, "metrics", None) is None:
        return
    version = (context.manifest or {}).get("model", {}).get("modelVersion", "")
    name, version = (re.sub(r"[^A-Za-z0-9_.+/-]", "_", str(each)) or "none" for each in (context.model_name, version))
    labels = "model_name:%s,model_version:%s,core:none,target:none,emulated:false,Level:Model" % (name, version)
    host = "#hostname:%s,%d" % (socket.gethostname(), time.time())
    print("[METRICS]tsn_worker_ready.Count:0|#%s|#type:GAUGE|%s" % (labels, host), flush=True)
