"""The closed loop driven by wrk instead of the benchmark's own generator: a check on its rates and latencies.

wrk (https://github.com/wg/wrk) cannot compare answers and has no open loop: answers are compared in a short run of the
own generator before, at the same concurrency, which is the warm-up too, and open loops stay with it altogether.
"""

import json
import math
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.load import LoadPlan, make_headers
from serving.errors import ServerError

PERCENTILES = ("50", "90", "99", "99.9")
_TIMEOUT = 30  # seconds after which wrk counts an answer as late; its default of two is shorter than a long queue
_SPARE = 60.0  # seconds that wrk may take beyond its time
_MARK = "figures: "
# wrk's own summary stops at 99 %; its Lua interface has every percentile (wrk: SCRIPTING). Bodies come from files,
# because a script with pictures in it would have to escape them.
_SCRIPT = """
local requests, nextone = {}, 0
function init(args)
  for index = 1, #args, 2 do
    local stream = assert(io.open(args[index], "rb"))
    local headers = {}
    for line in args[index + 1]:gmatch("[^\\n]+") do
      local name, value = line:match("^([^:]+): (.*)$")
      headers[name] = value
    end
    requests[#requests + 1] = wrk.format("POST", nil, headers, stream:read("*a"))
    stream:close()
  end
end
function request()
  nextone = nextone % #requests + 1
  return requests[nextone]
end
function done(summary, latency, requests)
  local parts = {}
  for _, each in ipairs({50, 90, 99, 99.9}) do
    parts[#parts + 1] = string.format('"%s": %d', tostring(each), latency:percentile(each))
  end
  local errors = summary.errors
  io.write(string.format(
    'figures: {"requests": %d, "microseconds": %d, "latency": {%s}, "connect": %d, "read": %d, "write": %d, '
    .. '"status": %d, "timeout": %d}\\n', summary.requests, summary.duration, table.concat(parts, ", "),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""


@dataclass(frozen=True)
class WrkResult:
    """What wrk says of one run."""

    answers: int  # of a status below 400
    seconds: float
    latency_ms: Mapping[str, float]  # by percentile; of every answer, whatever its status
    errors: Mapping[str, int]  # "status of 400 or more", and what went wrong with connections
    cpu_seconds: float  # of wrk itself


def find_wrk() -> str:
    """Return the name and version of the wrk on PATH; raise ``ServerError`` where there is none."""
    if shutil.which("wrk") is None:
        raise ServerError("there is no wrk on PATH; install Debian's package wrk, or leave out --generator wrk")
    # It prints its version with a usage, and ends with status 1.
    told = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    words = (told.stdout + told.stderr).split()
    return " ".join(words[:2])


def run_wrk(plan: LoadPlan) -> WrkResult:
    """Return what wrk measured, without a warm-up, in whole seconds; raise ``ServerError`` if it failed."""
    seconds = max(1, math.ceil(plan.seconds))
    with tempfile.TemporaryDirectory(prefix="wrk-") as name:
        folder = Path(name)
        script = folder / "golden.lua"
        script.write_text(_SCRIPT)
        command = ["wrk", "--threads", "1", "--connections", str(plan.concurrency), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{_TIMEOUT}s", "--latency", "--script", str(script)]
        command += [f"http://127.0.0.1:{plan.port}{plan.path}", "--"]
        for number, (body, kind) in enumerate(zip(plan.bodies, plan.content_types, strict=True)):
            path = folder / f"{number}.body"
            path.write_bytes(body)
            headers = make_headers(plan, kind)
            command += [str(path), "".join(f"{key}: {value}\n" for key, value in headers.items())]
        before = _children_seconds()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _SPARE)
        except subprocess.TimeoutExpired as exc:
            raise ServerError(f"wrk was asked for {seconds} s and has not ended after {exc.timeout:.0f} s") from exc
        spent = _children_seconds() - before
    if done.returncode:
        raise ServerError(f"wrk failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return read_result(done.stdout, spent)


def read_result(text: str, cpu_seconds: float) -> WrkResult:
    """Return the figures in what wrk has printed; raise ``ServerError`` where there are none."""
    found = [line.removeprefix(_MARK) for line in text.splitlines() if line.startswith(_MARK)]
    if not found:
        raise ServerError(f"wrk printed no figures, but: {text.strip()[-2000:]}")
    told: dict[str, Any] = json.loads(found[0])  # Any: numbers, and the latencies
    names = {"status": "status of 400 or more", "timeout": "late", "read": "no answer"}
    names |= {"connect": "no connection", "write": "not sent"}
    return WrkResult(
        answers=max(0, told["requests"] - told["status"]),
        seconds=told["microseconds"] / 1e6,
        latency_ms={name: told["latency"][name] / 1e3 for name in PERCENTILES},
        errors={words: told[name] for name, words in names.items() if told[name]},
        cpu_seconds=cpu_seconds,
    )


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
