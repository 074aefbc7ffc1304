"""Check whether this container works, for the chart's probes and tests: `python -P -m tasks.probe QUESTION`.

`alive ROLE`   fails only if the worker does not answer while Redis does: restarting workers does not end an outage
`ready ROLE`   the worker takes work
`cluster`      the cluster lets us create the Job of a render pod, read it and delete it; it is suspended: no pod starts
"""

from __future__ import annotations

import argparse
import secrets
import socket
import sys

from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.deployment.broker import celery_app
from pipeline.deployment.broker_keys import beat_lock_key
from pipeline.deployment.layouts import planned_layout
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import LedgerUnavailable, TesseraError
from pipeline.ledger import Ledger
from pipeline.ledger.redis_client import redis_client
from pipeline.names import attempt_name
from pipeline.records.attempt import AttemptSpec

# Together less than the probes' timeout, or a Redis that does not answer would count as a dead worker.
REDIS_WITHIN_S = 3.0
ANSWER_WITHIN_S = 8.0


def works(settings: Settings, role: str, host: str) -> bool:
    """Whether the worker of this host takes work. Raises LedgerUnavailable if Redis does not answer."""
    retry = Retry(NoBackoff(), 0)
    client = redis_client(settings, connect_timeout_s=REDIS_WITHIN_S, timeout_s=REDIS_WITHIN_S, retry=retry)
    with client, Ledger(settings).store.errors():
        ticking = bool(client.exists(beat_lock_key(settings.redis_prefix)))
    if role == "beat":
        return ticking
    app = celery_app(settings)
    # A connection of our own, which is closed: one of Celery's pool would go on waiting for answers, also in processes
    # that are forked from this one.
    with app.connection_for_write() as connection:
        inspect = app.control.inspect(
            pattern=f"{role}@{host}-*", matcher="glob", timeout=ANSWER_WITHIN_S, limit=1, connection=connection
        )
        return bool(inspect.ping())


def try_cluster(settings: Settings) -> None:
    """Create the Job of a render pod, suspended, read it and delete it. Raises TesseraError."""
    from k8s.cluster import Cluster
    from k8s.job_manifest import job_manifest
    from k8s.pod import pod_settings

    pod = pod_settings(settings)
    manifest = job_manifest(_spec(settings), pod, settings)
    manifest["spec"]["suspend"] = True
    # Without labels no controller takes it for an attempt, and Kueue does not queue it.
    manifest["metadata"]["labels"] = {}
    name = manifest["metadata"]["name"]
    cluster = Cluster.connect(pod.namespace, pod.request_timeout_s)
    cluster.create_job(manifest)
    try:
        if cluster.job(name) is None:
            raise TesseraError(f"the cluster accepted {name}, but does not list it")
        cluster.pods(f"job-name={name}")
        cluster.events()
    finally:
        cluster.delete_job(name)


def _spec(settings: Settings) -> AttemptSpec:
    token = secrets.token_hex(4)
    return AttemptSpec(
        name=attempt_name(f"probe-{token}", 0, 1),
        batch_id="probe",
        incarnation=token,
        job_index=0,
        number=1,
        token=token,
        image=settings.image,
        gpus=settings.gpus,
        layout=planned_layout(settings.gpus, settings.layout),
        exact=settings.exact,
        warmup_steps=settings.warmup_steps,
        device=settings.device,
        dtype=settings.dtype,
        shard_key="probe",
        deadline_s=settings.deadline_s,
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 for yes, 1 for no, with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -P -m tasks.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    questions = parser.add_subparsers(dest="question", required=True)
    checks = {"alive": "does the worker answer, if Redis does?", "ready": "does the worker take work?"}
    for question, text in checks.items():
        role = questions.add_parser(question, help=text, description=text)
        role.add_argument("role", choices=["render", "control", "beat"], help="which worker of this host")
    text = "may we create, read and delete Jobs in the cluster?"
    questions.add_parser("cluster", help=text, description=text)
    asked = parser.parse_args(arguments)
    try:
        settings = load_settings()
        if asked.question == "cluster":
            try_cluster(settings)
        elif not works(settings, asked.role, socket.gethostname()):
            print(f"no {asked.role} worker of this host answers", file=sys.stderr)  # noqa: T201
            return 1
    except LedgerUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown by `kubectl describe pod`
        return 0 if asked.question == "alive" else 1
    except TesseraError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
