"""The watch of a real API server: what it saves, and that nothing about it is needed for the truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from k8s.launcher import KubernetesLauncher
from pipeline.records.attempt import AttemptPhase, AttemptSpec
from tasks.process.observer import Observer
from tests.cluster.api import Namespace, until
from tests.cluster.proxy import DEAF, Proxy

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]

JOBS, OBSERVE_S, MEASURED_S = 20, 1.0, 12.0


def _running(launcher: KubernetesLauncher, namespace: Namespace, specs: list[AttemptSpec]) -> None:
    namespace.add_node(gpus=8 * len(specs))
    for spec in specs:
        launcher.launch(spec)
    for spec in specs:
        namespace.start(namespace.bound_pod_of(spec.name))
    running = {AttemptPhase.RUNNING}
    until(lambda: {one.phase for one in launcher.observe().values()} == running, "all attempts running")


def _is_open(launcher: KubernetesLauncher) -> bool:
    return launcher.quiet_since(time.monotonic())


def _lists(proxy: Proxy) -> int:
    return sum(method == "GET" and "watch=" not in path for method, path in proxy.seen)


def _lists_a_minute(proxy: Proxy, observer: Observer) -> float:
    """What a worker asks while as many threads as it has jobs look at them as `tasks.jobs.run_job` does."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(OBSERVE_S):
            observer.look()

    threads = [threading.Thread(target=look, daemon=True) for _ in range(JOBS)]
    observer.look()
    before, began = _lists(proxy), time.monotonic()
    for thread in threads:
        thread.start()
    over.wait(MEASURED_S)
    lists, took_s = _lists(proxy) - before, time.monotonic() - began
    over.set()
    for thread in threads:
        thread.join()
    return 60 * lists / took_s


def test_jobs_that_only_run_are_hardly_asked_for(
    make_launcher: MakeLauncher,
    namespace: Namespace,
    proxy: Proxy,
    make_spec: MakeSpec,
    record_testsuite_property: Callable[..., None],
) -> None:
    specs = [make_spec(index) for index in range(JOBS)]
    launcher, without = make_launcher(server=proxy.server), make_launcher(server=proxy.server)
    without.close()
    _running(launcher, namespace, specs)
    until(lambda: _is_open(launcher), "two watches")
    with_watch = _lists_a_minute(proxy, Observer(launcher, OBSERVE_S))
    without_watch = _lists_a_minute(proxy, Observer(without, OBSERVE_S))
    record_testsuite_property("lists_a_minute_with_watch", round(with_watch))
    record_testsuite_property("lists_a_minute_without_watch", round(without_watch))
    assert with_watch < without_watch / 4
    # What moves is seen at the next look.
    observer = Observer(launcher, 0.05)
    observer.look()
    namespace.end(namespace.pod_of(specs[3].name), 1)
    until(lambda: observer.look()[specs[3].name].phase is AttemptPhase.ENDED, "the end, by the watch")


def test_a_watch_that_hears_nothing_any_more_makes_a_look_late_and_not_wrong(
    make_launcher: MakeLauncher,
    namespace: Namespace,
    proxy: Proxy,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.process.observer.QUIET_LOOK_S", 3.0)
    launcher, spec = make_launcher(server=proxy.server), make_spec()
    _running(launcher, namespace, [spec])
    until(lambda: _is_open(launcher), "two watches")
    proxy.fault = lambda _method, path: DEAF if "watch=" in path else None
    observer = Observer(launcher, 0.05)
    assert observer.look()[spec.name].phase is AttemptPhase.RUNNING
    namespace.end(namespace.pod_of(spec.name), 1)
    until(lambda: observer.look()[spec.name].phase is AttemptPhase.ENDED, "the end, by the list")


def test_a_watch_whose_version_has_expired_begins_anew(
    make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.cluster.WATCH_S", 2)  # the server ends each so soon
    launcher = make_launcher(server=proxy.server)
    until(lambda: _is_open(launcher), "two watches")
    launcher.launch(make_spec())
    expired: list[str] = []

    def expire(_method: str, path: str) -> int | None:
        if "watch=" in path and "resourceVersion=" in path:
            expired.append(path)
            return 410
        return None

    proxy.fault = expire
    until(lambda: {"/pods?" in path for path in expired} == {True, False}, "both to go on from a version")
    began = time.monotonic()
    until(lambda: _is_open(launcher), "two new watches")
    assert not launcher.quiet_since(began - 1)


def test_a_watch_hears_of_a_pod_from_its_beginning_to_its_end(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    until(lambda: _is_open(launcher), "two watches")
    spec = make_spec()

    def heard(act: Callable[[], object], what: str) -> None:
        moment = time.monotonic()
        assert launcher.quiet_since(moment) or not _is_open(launcher)
        act()
        until(lambda: _is_open(launcher) and not launcher.quiet_since(moment), what)
        time.sleep(1)  # the rest of what follows from it

    namespace.add_node()
    heard(lambda: launcher.launch(spec), "a new Job")
    pod = namespace.bound_pod_of(spec.name)
    heard(lambda: namespace.start(pod), "its pod running")
    heard(lambda: namespace.end(pod, 0), "its end")
    heard(lambda: launcher.delete(spec.name), "its deletion")
