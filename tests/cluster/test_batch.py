"""Whole batches: real Redis, S3 and workers; pods made by the control plane, their commands run as processes here."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedded.model import NATIVE_PX, await_demo_model, demo_model, start_demo_model
from embedded.services.services import Services, no_proxy
from k8s.launcher import KubernetesLauncher
from pipeline import Client
from pipeline.bucket.artifacts import Artifacts
from pipeline.checkpoints.hashes import folder_revision
from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import NoDeployment
from pipeline.ledger import Ledger
from pipeline.records.attempt import AttemptSpec, Code
from pipeline.states import BatchState, ImageState, JobState
from tests.cluster.api import Api, Namespace, until
from tests.cluster.conftest import IMAGE
from tests.cluster.kubelet import Kubelet, kubelet_of
from tests.cluster.proxy import SWALLOW, Proxy

MakeLauncher = Callable[..., KubernetesLauncher]

_UNREACHABLE = "node.kubernetes.io/unreachable"

ROWS = [{"prompt": f"hill {number}", "width": 128, "height": 96, "steps": 3, "seed": number} for number in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "logs").mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    child = start_demo_model(folder, environment, trained=folder / "none")
    assert child is not None
    await_demo_model(child, folder, 120, lambda: False)
    return demo_model(folder)


@dataclass
class Deployment:
    """Workers of a deployment in the namespace, each a process."""

    client: Client
    settings: Settings
    environment: dict[str, str]
    folder: Path
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.workers[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "tasks.worker", role],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        self.workers[name].send_signal(number)
        self.workers.pop(name).wait(30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def deployment(  # noqa: PLR0917 - fixtures are named, not placed
    services: Services,
    settings: Settings,
    namespace: Namespace,
    api: Api,
    token: str,
    proxy: Proxy,
    model: Path,
    tmp_path: Path,
) -> Iterator[Deployment]:
    own = load_settings(
        settings.environment(),
        launcher="kubernetes",
        image=IMAGE,
        models={"demo": {"path": str(model), "revision": folder_revision(model), "native_px": NATIVE_PX}},
        images_per_job=2,
        worker_slots=1,
        lease_s=2.0,
        observe_s=0.2,
        tick_s=0.3,
        log_format="json",
        settling_steps=0,  # eight ranks of one machine would wait for one another hundreds of times an evaluation
        # The Secret has what the settings must not say; a pod's processes find the model where the test made it.
        pod={
            "env_from_secrets": ["tessera"],
            "node_selector": namespace.selector,
            "requests": {},
            "limits": {},
            "grace_s": 16,
            "tolerations": [{"key": _UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
            "clocks": {"node_lost_s": 1},
        },
    )
    secret = {"TESSERA_REDIS_URL": own.redis_url.get_secret_value(), **services.credentials}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in secret.items()}
    api.do("POST", namespace.core("secrets"), {"kind": "Secret", "metadata": {"name": "tessera"}, "data": data})
    config = api.access.written(tmp_path / "kubeconfig", namespace.name, server=proxy.server, token=token)
    environment = (
        {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        | own.environment()
        | services.credentials
        | no_proxy(os.environ)
        | {"KUBECONFIG": str(config), "OMP_NUM_THREADS": "1"}
    )
    client = Client(Connection(own, Ledger(own), Artifacts(own)))
    made = Deployment(client, own, environment, tmp_path)
    try:
        for role in ("control", "render", "beat"):
            made.start(role, role)
        until(lambda: _announced(Ledger(own)), "controller and render worker")
        yield made
    finally:
        for name in list(made.workers):
            made.kill(name)


def _announced(ledger: Ledger) -> bool:
    try:
        ledger.deployment()
    except NoDeployment:
        return False
    return bool(ledger.workers.free_slots())


@pytest.fixture
def kubelet(namespace: Namespace, tmp_path: Path) -> Iterator[Kubelet]:
    (tmp_path / "pods").mkdir()
    namespace.add_node()
    with kubelet_of(namespace, tmp_path / "pods") as running:
        yield running


def test_a_batch_is_rendered_by_pods_and_a_killed_worker_costs_no_pod(
    deployment: Deployment, kubelet: Kubelet, namespace: Namespace, record_testsuite_property: Callable[..., None]
) -> None:
    began = time.monotonic()
    deployment.start("render", "second")
    batch = deployment.client.submit(ROWS, batch_id="Hills.2026")
    until(lambda: kubelet.started, "a pod")
    ledger = Ledger(deployment.settings)
    first = kubelet.started[0]
    ref = f"Hills.2026/{int(first.split('-')[2]):05d}"

    def holder() -> str | None:
        log = {name: deployment.log(name) for name in ("render", "second")}
        return next((name for name, text in log.items() if f'"name": "{first}"' in text), None)

    # Whoever launched the first pod is killed while that runs; somebody else adopts it.
    until(lambda: (job := ledger.jobs.get(ref)) is not None and job.state is JobState.RUNNING, "a running job")
    deployment.kill(until(holder, "the worker that launched it"))
    status = until(lambda: now if (now := batch.status()).state is BatchState.COMPLETED else None, "completion")
    record_testsuite_property("batch_s", round(time.monotonic() - began, 1))
    assert status.images[ImageState.SUCCEEDED] == len(ROWS)
    assert {image.result.custom_id for image in batch.images()} == {"row-1", "row-2", "row-3", "row-4"}
    for index in range(2):
        job = ledger.jobs.get(f"Hills.2026/{index:05d}")
        assert job is not None
        assert job.attempt is not None
        assert (job.state, job.attempt.number, job.spent) == (JobState.SUCCEEDED, 1, 0)
    assert len(kubelet.started) == len(set(kubelet.started)) == 2
    until(lambda: not namespace.jobs() and not namespace.pods(), "a namespace with nothing in it")
    password = deployment.settings.redis_url.get_secret_value()
    assert all(environment["TESSERA_REDIS_URL"] == password for environment in kubelet.environments.values())


def test_a_batch_passes_an_outage_of_the_api_server_without_a_second_pod(
    deployment: Deployment, kubelet: Kubelet, proxy: Proxy
) -> None:
    swallowed: list[str] = []

    def swallow_each_first_create(method: str, path: str) -> str | None:
        if method == "POST" and len(swallowed) < 2:
            swallowed.append(path)
            return SWALLOW
        return None

    proxy.fault = swallow_each_first_create
    batch = deployment.client.submit([row | {"steps": 30} for row in ROWS], batch_id="outage")
    until(lambda: batch.status().images[ImageState.RUNNING], "a pod that renders")
    proxy.fault = lambda _method, _path: 503
    until(lambda: "the cluster answers 503" in deployment.log("render"), "a worker that has noticed")
    time.sleep(3 * deployment.settings.lease_s)  # longer than a lease lasts: it must be kept up meanwhile
    proxy.fault = lambda _method, _path: None
    until(lambda: batch.status().state is BatchState.COMPLETED, "completion")
    assert swallowed
    assert batch.status().images[ImageState.SUCCEEDED] == len(ROWS)
    ledger = Ledger(deployment.settings)
    for index in range(2):
        job = ledger.jobs.get(f"outage/{index:05d}")
        assert job is not None
        assert job.attempt is not None
        assert (job.state, job.attempt.number, job.spent) == (JobState.SUCCEEDED, 1, 0)
    assert len(kubelet.started) == 2


def test_a_cancelled_batch_ends_its_pods(deployment: Deployment, kubelet: Kubelet, namespace: Namespace) -> None:
    rows = [row | {"steps": 200} for row in ROWS]
    batch = deployment.client.submit(rows, batch_id="cancelled")
    ledger = Ledger(deployment.settings)
    job = f"{batch.id}/00000"
    until(lambda: (found := ledger.jobs.get(job)) is not None and found.state is JobState.RUNNING, "a running job")
    batch.cancel()
    until(lambda: batch.status().state is BatchState.CANCELLED, "the cancelled batch")
    until(lambda: not namespace.jobs() and not namespace.pods(), "a namespace with nothing in it")
    found = ledger.jobs.get(job)
    assert found is not None
    assert found.state is JobState.CANCELLED


def test_an_attempt_that_no_job_has_on_record_is_deleted(
    deployment: Deployment, namespace: Namespace, make_launcher: MakeLauncher, make_spec: Callable[..., AttemptSpec]
) -> None:
    """No node is there, so nothing runs; the controller compares what the cluster has with the ledger all the same."""
    batch = deployment.client.submit(ROWS[:2], batch_id="orphans")
    ledger = Ledger(deployment.settings)
    until(lambda: (job := ledger.jobs.get("orphans/00000")) is not None and job.confirmed, "an attempt")
    job = ledger.jobs.get("orphans/00000")
    assert job is not None
    assert job.attempt is not None
    launcher = make_launcher(redis_prefix=deployment.settings.redis_prefix)
    orphan, unknown = make_spec(0, 9, batch_id=batch.id), make_spec(1, 1, batch_id="unknown")
    launcher.launch(unknown)  # of a batch that the ledger may have lost: left alone
    launcher.launch(orphan)

    def names() -> set[str]:
        return {one["metadata"]["name"] for one in namespace.jobs()}

    until(lambda: orphan.name not in names(), "the end of the orphan")
    assert names() == {job.attempt.name, unknown.name}
    until(lambda: "nodes" in batch.jobs()[0].detail, "the scheduler's words")
    assert batch.jobs()[0].state is JobState.PENDING


def test_a_pod_that_lost_its_node_is_fenced_and_comes_back_to_nothing(
    deployment: Deployment, kubelet: Kubelet, namespace: Namespace
) -> None:
    batch = deployment.client.submit([row | {"steps": 20} for row in ROWS[:2]], batch_id="lost")
    ledger = Ledger(deployment.settings)
    until(lambda: batch.status().images[ImageState.RUNNING], "a pod that renders")
    (pod,) = namespace.pods()
    uid, node = pod["metadata"]["uid"], pod["spec"]["nodeName"]
    for _ in range(2):  # were most nodes lost, the cluster would suspect itself and wait
        namespace.add_node(chosen=False)
    kubelet.lost.add(node)
    kubelet.signal(uid, signal.SIGSTOP)
    namespace.lose_node(node)
    until(lambda: (job := ledger.jobs.get("lost/00000")) is not None and job.ended, "the end of the first attempt")
    namespace.add_node()
    until(lambda: batch.status().state is BatchState.COMPLETED, "completion")
    job = ledger.jobs.get("lost/00000")
    assert job is not None
    assert job.attempt is not None
    assert [end.code for end in job.ended] == [Code.NODE_LOST, Code.SUCCEEDED]
    assert (job.attempt.number, job.spent) == (2, 0)
    before = {image.result.image_id: image.bytes() for image in batch.images()}
    assert len(before) == 2
    # The node was only out of reach: its pod wakes, finds its claim gone, and ends without leaving a trace.
    kubelet.signal(uid, signal.SIGCONT)
    until(lambda: not kubelet.is_running(uid), "the end of the pod that came back")
    assert {image.result.image_id: image.bytes() for image in batch.images()} == before
    assert batch.status().images[ImageState.SUCCEEDED] == 2
