"""Runs attempts in a Kubernetes cluster: a `pipeline.records.attempt.Launcher` that makes Jobs of one pod each."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime

import structlog

from k8s.cluster import AlreadyThere, Cluster, Refused
from k8s.events import Events
from k8s.job_manifest import (
    ATTEMPT_LABEL,
    BATCH_ANNOTATION,
    CONTAINER,
    DIGEST_ANNOTATION,
    JOB_LABEL,
    SPEC_ANNOTATION,
    deployment_selector,
    job_manifest,
)
from k8s.outcome import read
from k8s.pod import PodSettings, pod_settings
from k8s.reading import Object, Reading, deleted_at, failed_containers
from k8s.warm_up import WarmUp
from k8s.watch import Watch
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.errors import RecordTooNew, RecordUnreadable, ServiceError
from pipeline.process.redact import redacted
from pipeline.records.attempt import (
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    LaunchResult,
    NameTaken,
    Observation,
)
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_record

EVENTS_EVERY_S = 10.0
AVOID_S = 3600.0

# Both forms: the second came with Kubernetes 1.27, the first is what older ones have.
_JOB_NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")

log = structlog.get_logger(__name__)


class KubernetesLauncher:
    """A `Launcher` over one namespace. Safe to share between threads.

    The cluster holds the state. Kept here is only what it forgets: an end that was observed (the pod may be gone at
    the next look), a Job that it refused, and for a while the nodes with bad GPUs.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        pod: PodSettings,
        *,
        now: Callable[[], datetime] | None = None,
        save_log: Callable[[str, str], None] = lambda _key, _text: None,
    ) -> None:
        self._cluster, self._settings, self._pod = cluster, settings, pod
        self._now, self._save_log = now or cluster.clock.now, save_log
        self._selector = deployment_selector(settings.redis_prefix)
        self._watches = [Watch(cluster, "jobs", self._selector), Watch(cluster, "pods", self._selector)]
        self._lock = threading.Lock()
        self._ended: dict[str, _End] = {}
        self._refused: dict[str, Observation] = {}
        self._bad_nodes: dict[str, float] = {}
        self._events = Events(cluster)
        self._warm_up = WarmUp(cluster, self._events, pod.models_job, settings.models)

    @classmethod
    def connect(cls, settings: Settings) -> KubernetesLauncher:
        """The launcher of a deployment. Raises SettingsError; makes no request."""
        pod = pod_settings(settings)
        artifacts = Artifacts(settings)

        def save(key: str, text: str) -> None:
            artifacts.put(key, text.encode(), content_type="text/plain; charset=utf-8")

        return cls(Cluster.connect(pod.namespace, pod.request_timeout_s), settings, pod, save_log=save)

    def awaits(self, models: Collection[str]) -> str | None:
        """Why attempts with these models have to wait: somebody still copies their weights."""
        return self._warm_up.awaits(models)

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Create the attempt's Job, or adopt the one that has exactly this spec."""
        manifest = job_manifest(
            spec, self._pod, self._settings, avoid_nodes={*spec.avoid_nodes, *self._nodes_to_avoid()}
        )
        try:
            self._cluster.create_job(manifest)
        except AlreadyThere:
            return self._adopt(spec)
        except Refused as error:
            # The attempt has ended before it began, and the next look of this worker shows that. Another worker sees
            # that there is no such attempt.
            log.warning("cluster refused a Job", name=spec.name, reason=str(error))
            code = Code.ADMISSION_DENIED if error.denied else Code.CONFIG_ERROR
            ended = AttemptOutcome(code, redacted(str(error)))
            with self._lock:
                self._refused[spec.name] = Observation(
                    spec.name, AttemptPhase.ENDED, ended.reason, ended, spec.batch_id, spec.job_index
                )
        return LaunchResult.CREATED

    def _adopt(self, spec: AttemptSpec) -> LaunchResult:
        job = self._cluster.job(spec.name)
        if job is None:
            raise NameTaken(spec.name, "none, for it was deleted", spec.digest)
        annotations = job["metadata"].get("annotations") or {}
        found = annotations.get(DIGEST_ANNOTATION, "none")
        if found != spec.digest:
            try:
                # Another version may have written the spec with another hash; read by us, it may be the same.
                text = annotations.get(SPEC_ANNOTATION, "")
                found = read_record(AttemptSpec, text, what=f"the spec of Job {spec.name}").digest
            except RecordTooNew:
                raise
            except RecordUnreadable:
                raise NameTaken(spec.name, found, spec.digest) from None
        if found != spec.digest or job["metadata"].get("deletionTimestamp"):
            raise NameTaken(spec.name, found, spec.digest)
        return LaunchResult.ADOPTED

    def observe(self) -> Mapping[str, Observation]:
        """Every attempt of this deployment, from one list of pods and one of Jobs, with events if they explain more."""
        # Pods first: if a pod is gone by then, its Job, which is listed later, says why.
        pods: dict[str, list[Object]] = defaultdict(list)
        for pod in self._cluster.pods(self._selector):
            labels = pod["metadata"].get("labels") or {}
            if name := next((labels[label] for label in _JOB_NAME_LABELS if label in labels), None):
                pods[name].append(pod)
        jobs = {job["metadata"]["name"]: job for job in self._cluster.jobs(self._selector)}
        with self._lock:
            self._ended = {name: end for name, end in self._ended.items() if end.is_still(jobs.get(name))}
            open_names = (jobs.keys() | pods.keys()) - self._ended.keys()
        # Not under the lock: who launches or deletes an attempt waits for no list.
        self._ask_for_events({name: (jobs.get(name), pods[name]) for name in open_names})
        with self._lock:
            seen = {**self._refused}
            for name in jobs.keys() | pods.keys():
                if (end := self._ended.get(name)) is not None:
                    seen[name] = end.observation
                elif (one := self._observe_one(name, jobs.get(name), pods[name])) is not None:
                    seen[name] = one
        return seen

    def quiet_since(self, moment: float) -> bool:
        """Whether watches on Jobs and pods are open and have reported no change since `moment` (time.monotonic())."""
        return all(watch.quiet_since(moment) for watch in self._watches)

    def close(self) -> None:
        """End the watches."""
        for watch in self._watches:
            watch.close()

    def delete(self, name: str) -> None:
        """Delete the attempt's Job and pod in the background; the end of the log of a failed one is kept.

        A pod that somebody detached from its Job is left: it ends by itself when its claim or its batch has ended.
        """
        with self._lock:
            end, self._refused = self._ended.get(name), {k: v for k, v in self._refused.items() if k != name}
        found = self._end_of_log(name, end) if end is not None else None
        self._cluster.delete_job(name)
        if found is not None:
            self._save(name, *found)

    def _observe_one(self, name: str, job: Object | None, pods: list[Object]) -> Observation | None:
        reading = read(job, pods, self._events.about(name))
        if reading is None:
            return None
        reading = reading.at(self._now(), self._pod.clocks)
        waits = reading.phase is AttemptPhase.PENDING and all(deleted_at(pod) is None for pod in pods)
        if job is None and (waits or reading.phase is AttemptPhase.ENDED):
            # Its Job is gone and nothing of it runs or will: a pod that starts now is refused its claim. Nothing more
            # can be done about a pod on a lost node.
            return None
        if reading.code is Code.CONFIG_ERROR and (failure := self._warm_up.failure) is not None:
            reading = replace(reading, reason=f"{reading.reason}; {failure}")
        metadata = (job or pods[0])["metadata"]
        index = (metadata.get("labels") or {}).get(JOB_LABEL, "")
        observation = Observation(
            name,
            reading.phase,
            redacted(reading.reason),
            reading.outcome,
            (metadata.get("annotations") or {}).get(BATCH_ANNOTATION),
            int(index) if index.isdigit() else None,
            _spec(job),
        )
        if reading.phase is AttemptPhase.ENDED and job is not None:
            self._remember_end(observation, job, pods)
        return observation

    def _remember_end(self, observation: Observation, job: Object, pods: list[Object]) -> None:
        number = (job["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, "0")
        pod = pods[0]["metadata"]["name"] if pods else None
        self._ended[observation.name] = _End(observation, job["metadata"]["uid"], number, pod)
        ended = observation.outcome
        if ended is not None and ended.code is Code.GPU_UNHEALTHY and ended.node:
            log.error("node with a bad GPU is avoided", node=ended.node, seconds=AVOID_S, reason=ended.reason)
            self._bad_nodes[ended.node] = time.monotonic() + AVOID_S

    def _nodes_to_avoid(self) -> list[str]:
        with self._lock:
            now = time.monotonic()
            self._bad_nodes = {node: until for node, until in self._bad_nodes.items() if until > now}
            return list(self._bad_nodes)

    def _ask_for_events(self, found: Mapping[str, tuple[Object | None, list[Object]]]) -> None:
        """Have events listed again, if they may explain one of these attempts."""
        readings = [(read(job, pods, self._events.about(name)), pods) for name, (job, pods) in found.items()]
        wanting = [reading for reading, pods in readings if reading is not None and _wants_events(reading, pods)]
        if wanting:
            fresh = any(reading.phase is AttemptPhase.ENDED for reading in wanting)
            self._events.refresh(min(self._settings.observe_s, EVENTS_EVERY_S) if fresh else EVENTS_EVERY_S)

    def _end_of_log(self, name: str, end: _End) -> tuple[str, str] | None:
        """The key for the log of an attempt that failed, and its end; None if there is none to keep."""
        ended, batch = end.observation.outcome, end.observation.batch_id
        if ended is None or ended.code in (Code.SUCCEEDED, Code.NODE_LOST) or end.pod is None or batch is None:
            return None  # a lost node cannot be asked
        try:
            pod = self._cluster.pod(end.pod)  # more of its containers may have ended since
            failed = (failed_containers(pod) or [CONTAINER]) if pod is not None else []
            tails = {container: self._cluster.log_tail(end.pod, container) for container in failed}
        except ServiceError as error:
            # Go on and free the GPUs: they are worth more than the log.
            log.warning("log could not be read", name=name, reason=str(error))
            return None
        text = "\n".join(_titled(tail, container, len(tails)) for container, tail in tails.items() if tail)
        if not text:
            log.info("no log to save", name=name)
            return None
        return f"{BatchObjects(batch).root}logs/{end.observation.job_index or 0:05d}-{end.number}.log", redacted(text)

    def _save(self, name: str, key: str, text: str) -> None:
        try:
            self._save_log(key, text)
        except ServiceError as error:
            log.warning("log could not be saved", name=name, reason=str(error))
        else:
            log.info("log saved", name=name, key=key)


def _titled(tail: str, container: str, of: int) -> str:
    return tail if of == 1 else f"== container {container}\n{tail}"


def _spec(job: Object | None) -> AttemptSpec | None:
    """The spec in a Job's annotation, if there is one that this version can read."""
    metadata = (job or {}).get("metadata", {})
    text = (metadata.get("annotations") or {}).get(SPEC_ANNOTATION)
    try:
        return read_record(AttemptSpec, text, what=f"the spec of Job {metadata.get('name')}") if text else None
    except RecordUnreadable:
        return None


class _End:
    """An end that was observed, of the Job with this UID."""

    def __init__(self, observation: Observation, uid: str, number: str, pod: str | None) -> None:
        self.observation, self.uid, self.number, self.pod = observation, uid, number, pod

    def is_still(self, job: Object | None) -> bool:
        """Whether `job` is the one that ended."""
        return job is not None and job["metadata"]["uid"] == self.uid


def _wants_events(reading: Reading, pods: list[Object]) -> bool:
    """Whether events may explain more: a refused pod, a volume or image that is missing, a pod that is gone."""
    if reading.phase is AttemptPhase.ENDED:
        return not pods and reading.code is not Code.SUCCEEDED
    return reading.phase is not AttemptPhase.RUNNING and reading.code is not Code.UNSCHEDULABLE
