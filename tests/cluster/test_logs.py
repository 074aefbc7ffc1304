"""The log of an attempt that failed is kept before its pod goes; nothing about it keeps the pod from going."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from k8s.launcher import KubernetesLauncher
from pipeline.errors import StoreUnavailable
from pipeline.records.attempt import AttemptPhase, AttemptSpec, Code, PodReport
from tests.cluster.api import Namespace, until
from tests.cluster.proxy import Proxy

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]

LOG = b"rank 3: connecting to redis://:hunter2@redis.example\nrank 3: CUDA error\n"


def _ended(launcher: KubernetesLauncher, namespace: Namespace, spec: AttemptSpec, exit_code: int, code: Code) -> None:
    namespace.add_node()
    launcher.launch(spec)
    namespace.end(namespace.bound_pod_of(spec.name), exit_code, PodReport(code=code, message="m").to_message())
    until(lambda: launcher.observe()[spec.name].phase is AttemptPhase.ENDED, "the end")


def _log_server(_method: str, path: str) -> bytes | None:
    # No kubelet serves logs here.
    return LOG if "/log?" in path and "container=render" in path else None


def test_the_log_of_a_failed_attempt_is_saved_without_credentials(
    make_launcher: MakeLauncher, namespace: Namespace, proxy: Proxy, make_spec: MakeSpec
) -> None:
    saved: dict[str, str] = {}
    launcher = make_launcher(server=proxy.server, save_log=saved.__setitem__)
    proxy.fault = _log_server
    spec = make_spec(job_index=7, number=2)
    _ended(launcher, namespace, spec, 1, Code.ENGINE_ERROR)
    launcher.delete(spec.name)
    assert list(saved) == ["batches/Summer.Catalogue_2026/logs/00007-2.log"]
    (text,) = saved.values()
    assert "CUDA error" in text
    assert "hunter2" not in text
    until(lambda: not namespace.jobs(), "the end of the Job")


def test_the_log_of_a_success_is_not_kept(
    make_launcher: MakeLauncher, namespace: Namespace, proxy: Proxy, make_spec: MakeSpec
) -> None:
    saved: dict[str, str] = {}
    launcher = make_launcher(server=proxy.server, save_log=saved.__setitem__)
    proxy.fault = _log_server
    _ended(launcher, namespace, make_spec(), 0, Code.SUCCEEDED)
    launcher.delete(make_spec().name)
    assert not saved


@pytest.mark.parametrize("broken", ["log", "store"])
def test_a_log_that_cannot_be_saved_holds_no_gpus(
    make_launcher: MakeLauncher, namespace: Namespace, proxy: Proxy, make_spec: MakeSpec, broken: str
) -> None:
    def refuse(_key: str, _text: str) -> None:
        raise StoreUnavailable("no bucket")

    launcher = make_launcher(server=proxy.server, save_log=refuse)
    proxy.fault = _log_server if broken == "store" else lambda _method, path: 503 if "/log?" in path else None
    _ended(launcher, namespace, make_spec(), 1, Code.ENGINE_ERROR)
    launcher.delete(make_spec().name)
    assert until(lambda: not namespace.jobs(), "the end of the Job")
