"""A kubelet as far as an attempt needs one: it runs a pod's own command as processes and reports how they ended."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedded.processes.marked import kill_marked, marked
from pipeline.records.attempt import REPORT_LIMIT_BYTES
from tests.cluster.api import Json, Namespace

_LOOK_S = 0.1
_LOG_LIMIT_BYTES = 2048  # what a kubelet takes of a log in place of a message
_UID = "TESSERA_POD_UID"


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    message: Path
    log: Path
    asked: bool = False


class Kubelet:
    """The pods of one namespace, on this machine. A container's /scratch is a folder of its own here."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._namespace, self._folder = namespace, folder
        self._running: dict[str, _Running] = {}
        self.started: list[str] = []  # Jobs, once for each pod
        self.environments: dict[str, dict[str, str]] = {}
        self.lost: set[str] = set()  # nodes whose pods go on, and of which nothing is heard
        self._over = threading.Event()

    def serve(self) -> None:
        """Until told to stop."""
        while not self._over.wait(_LOOK_S):
            for pod in self._namespace.pods():
                if pod["spec"].get("nodeName") not in self.lost:
                    self._check_on(pod)

    def stop(self) -> None:
        """End everything at once."""
        self._over.set()
        for uid in self._running:
            kill_marked(_UID, uid, 5)

    def signal(self, uid: str, number: signal.Signals) -> None:
        """Send a signal to every process of a pod."""
        for pid in marked(_UID, uid):
            os.kill(pid, number)

    def is_running(self, uid: str) -> bool:
        """Whether a process of the pod lives."""
        self._running[uid].process.poll()
        return bool(marked(_UID, uid))

    def _check_on(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        running = self._running.get(uid)
        leaving = pod["metadata"].get("deletionTimestamp")
        if running is None:
            if leaving and pod["spec"].get("nodeName"):
                self._namespace.confirm_deletion(pod)
            elif pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending":
                self._start(pod)
            return
        code = running.process.poll()
        if code is None and leaving and not running.asked:
            running.process.terminate()
            running.asked = True
        if code is not None and pod["status"]["phase"] == "Running":
            kill_marked(_UID, uid, 5)
            self._namespace.end(pod, code if code >= 0 else 128 - code, self._message(running, code))
        elif code is not None and leaving:
            self._namespace.confirm_deletion(pod)

    def _start(self, pod: Json) -> None:
        (container,) = pod["spec"]["containers"]
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        folder = self._folder / name
        folder.mkdir()
        message, log = folder / "termination-log", folder / "log"
        environment = self._environment(pod, container, folder) | {"TESSERA_TERMINATION_LOG": str(message)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                container["command"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[uid] = _Running(process, message, log)
        self.started.append(pod["metadata"]["labels"]["job-name"])
        self.environments[name] = environment
        self._namespace.start(pod)

    def _environment(self, pod: Json, container: Json, folder: Path) -> dict[str, str]:
        # A container has what its pod says and no more; the interpreter is this test's.
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "NO_PROXY": "127.0.0.1",
        }
        for source in container.get("envFrom") or ():
            secret = self._namespace.api.do("GET", self._namespace.core(f"secrets/{source['secretRef']['name']}"))
            environment |= {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
        for item in container["env"]:
            if "value" in item:
                environment[item["name"]] = item["value"].replace("/scratch", str(folder)).replace("$$(", "$(")
            else:
                assert item["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
                environment[item["name"]] = pod["metadata"]["uid"]
        return environment

    def _message(self, running: _Running, code: int) -> str:
        written = running.message.read_bytes()[:REPORT_LIMIT_BYTES] if running.message.exists() else b""
        if not written and code != 0:
            written = running.log.read_bytes()[-_LOG_LIMIT_BYTES:]
        return written.decode(errors="replace")


@contextmanager
def kubelet_of(namespace: Namespace, folder: Path) -> Iterator[Kubelet]:
    """A kubelet for the length of a `with` block."""
    kubelet = Kubelet(namespace, folder)
    thread = threading.Thread(target=kubelet.serve, name="kubelet", daemon=True)
    thread.start()
    try:
        yield kubelet
    finally:
        kubelet.stop()
        thread.join()
