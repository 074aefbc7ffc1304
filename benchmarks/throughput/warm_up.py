"""What the warm-up Job does the first time, and what it and the pods' first container do once the weights are there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.throughput.control import deployment
from pipeline.bucket.artifacts import Artifacts

FILE_MB = 256
FOLDER = "models/sdxl"
# Runs it in a process of its own, and says what that took: bytes by its own calls, sockets not among them.
_PROGRAM = """
import json, resource, sys, time
from k8s.weights import main
began = time.monotonic()
code = main(sys.argv[1:])
counts = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
used = resource.getrusage(resource.RUSAGE_SELF)
took = {"s": time.monotonic() - began, "cpu_s": used.ru_utime + used.ru_stime}
print(json.dumps({"read_mb": int(counts["rchar"]) / 1e6, "written_mb": int(counts["wchar"]) / 1e6, **took}))
sys.exit(code)
"""


def measured() -> dict[str, Any]:
    """Copies of a single file from the bucket: first, again with `--check` as the Job, again as a pod does."""
    with ExitStack() as stack:
        _, settings, environment = deployment(stack)
        artifacts = Artifacts(settings)
        body = os.urandom(FILE_MB << 20)
        artifacts.put(f"{FOLDER}/model.safetensors", body, content_type="application/octet-stream")
        sums = f"{hashlib.sha256(body).hexdigest()}  model.safetensors\n"
        artifacts.put(f"{FOLDER}/SHA256SUMS", sums.encode(), content_type="text/plain")
        target = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {
            "first run of the Job": ["--check"],
            "second run of the Job": ["--check"],
            "a pod's first container": [],
        }
        found: dict[str, Any] = {"file_mb": round(len(body) / 1e6)}
        for name, options in runs.items():
            command = [sys.executable, "-c", _PROGRAM, "--source", FOLDER, "--target", str(target), *options]
            ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            figures = json.loads(ran.stdout.splitlines()[-1])
            copied = (ran.stdout + ran.stderr).count("file copied")
            found[name] = {"files_copied": copied, **{key: round(value, 2) for key, value in figures.items()}}
        return found
