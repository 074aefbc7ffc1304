"""Check what only a container of the chart can: `python -P -m tasks.probe QUESTION`; its `helm test` does.

`cluster`   the cluster lets us create the Job of a render pod, read it and delete it; it is suspended: no pod starts
"""

from __future__ import annotations

import argparse
import secrets
import sys

from pipeline.deployment.layouts import planned_layout
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import TesseraError
from pipeline.names import attempt_name
from pipeline.records.attempt import AttemptSpec


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
    text = "may we create, read and delete Jobs in the cluster?"
    questions.add_parser("cluster", help=text, description=text)
    parser.parse_args(arguments)
    try:
        try_cluster(load_settings())
    except TesseraError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
