"""The API server away, busy, silent, or answering when nobody hears: never a failed render, never a second pod."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s.cluster import ClusterUnavailable
from k8s.launcher import KubernetesLauncher
from pipeline.records.attempt import AttemptPhase, AttemptSpec, LaunchResult
from tests.cluster.api import Namespace, until
from tests.cluster.proxy import SILENCE, SWALLOW, Proxy

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_api_server_is_an_outage(
    make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec, status: int
) -> None:
    launcher = make_launcher(server=proxy.server)
    spec = make_spec()
    proxy.fault = lambda _method, _path: status
    for act in (lambda: launcher.launch(spec), launcher.observe, lambda: launcher.delete(spec.name)):
        with pytest.raises(ClusterUnavailable, match=str(status)):
            act()
    proxy.fault = lambda _method, _path: None
    assert launcher.launch(spec) is LaunchResult.CREATED


def test_a_create_whose_answer_is_lost_is_adopted(
    make_launcher: MakeLauncher, namespace: Namespace, proxy: Proxy, make_spec: MakeSpec
) -> None:
    launcher = make_launcher(server=proxy.server)
    proxy.fault = lambda method, _path: SWALLOW if method == "POST" else None
    with pytest.raises(ClusterUnavailable):
        launcher.launch(make_spec())
    proxy.fault = lambda _method, _path: None
    assert launcher.launch(make_spec()) is LaunchResult.ADOPTED
    assert len(namespace.jobs()) == 1
    assert sum(method == "POST" for method, _ in proxy.seen) == 2  # the client itself asked only once


def test_a_silent_api_server_does_not_hold_a_worker(
    make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec
) -> None:
    launcher = make_launcher({"request_timeout_s": 0.5}, server=proxy.server)
    proxy.fault = lambda _method, _path: SILENCE
    with pytest.raises(ClusterUnavailable, match="timed out"):
        launcher.observe()  # the proxy itself never hangs up


def test_half_a_list_is_no_list(make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec) -> None:
    launcher = make_launcher(server=proxy.server)
    launcher.launch(make_spec())
    # Pods can be listed, Jobs cannot: that must not read as Jobs that are gone.
    proxy.fault = lambda _method, path: 503 if "/jobs" in path else None
    with pytest.raises(ClusterUnavailable):
        launcher.observe()


def test_no_events_are_no_outage(make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec) -> None:
    launcher = make_launcher(server=proxy.server)
    launcher.launch(make_spec())
    proxy.fault = lambda _method, path: 503 if "/events" in path else None
    assert launcher.observe()[make_spec().name].phase is AttemptPhase.PENDING


def test_an_api_server_that_stops_and_starts_in_mid_job(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec, cluster_processes: Path
) -> None:
    namespace.add_node()
    spec = make_spec()
    launcher.launch(spec)
    pod = namespace.bound_pod_of(spec.name)
    namespace.start(pod)
    until(lambda: launcher.observe()[spec.name].phase is AttemptPhase.RUNNING, "running")
    command, old = _stopped_api_server(cluster_processes)
    try:
        with pytest.raises(ClusterUnavailable):
            launcher.observe()
        with pytest.raises(ClusterUnavailable):
            launcher.launch(spec)
    finally:
        _started_api_server(cluster_processes, command, old)

    def back() -> bool:
        try:
            return launcher.observe()[spec.name].phase is AttemptPhase.RUNNING
        except ClusterUnavailable:
            return False

    until(back, "the same pod, running")
    assert launcher.launch(spec) is LaunchResult.ADOPTED
    assert [one["metadata"]["uid"] for one in namespace.pods()] == [pod["metadata"]["uid"]]


def _stopped_api_server(folder: Path) -> tuple[list[str], str]:
    for pid in (folder / "pids").read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        if command[0].endswith(b"kube-apiserver"):
            os.kill(int(pid), signal.SIGKILL)
            until(lambda: not Path(f"/proc/{pid}/cwd").exists() or _is_zombie(pid), "its end")  # noqa: B023
            return [part.decode() for part in command], pid
    pytest.fail("no API server among the cluster's processes")


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _started_api_server(folder: Path, command: list[str], old: str) -> None:
    with (folder / "kube-apiserver.log").open("ab") as log:
        started = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    pids = (folder / "pids").read_text().split()
    (folder / "pids").write_text("\n".join(str(started.pid) if pid == old else pid for pid in pids) + "\n")
