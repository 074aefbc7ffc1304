"""Print the Kubernetes Job of a job's latest attempt: `python -P -m k8s.show BATCH/JOB`, which `tessera pod` runs.

The Job is built from the recorded spec and the deployment's settings: those of this environment where it says how pods
look, as a worker's does, else those that the controller announces. --live asks the cluster instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from k8s.job_manifest import job_manifest
from k8s.pod import pod_settings
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import RequestError, TesseraError
from pipeline.ledger import Ledger
from pipeline.names import job_ref, parsed_job_ref
from pipeline.process.redact import redacted
from pipeline.records.attempt import AttemptSpec


def latest_attempt(ledger: Ledger, ref: str) -> AttemptSpec:
    """The latest attempt of a job, by `BATCH/JOB` with or without leading zeros. Raises RequestError."""
    batch_id, index = parsed_job_ref(ref)
    job = ledger.jobs.get(job_ref(batch_id, index))
    if job is None:
        raise RequestError(f"no job {ref!r}: `tessera status {batch_id}` says how many there are")
    if job.attempt is None:
        raise RequestError(f"job {ref} is {job.state.value} and has had no attempt yet")
    return job.attempt


def settings_of_pods(environ: Mapping[str, str]) -> Settings:
    """The settings that pods are built with. Raises SettingsError, NoDeployment, ServiceError."""
    settings = load_settings(environ)
    if "pod" in settings.model_fields_set:
        return settings
    announced = Ledger(settings).deployment().pods
    # A newer controller may announce settings that are not known here.
    return load_settings({**announced, **environ}, newer=True) if announced else settings


def job_to_show(settings: Settings, spec: AttemptSpec, *, live: bool) -> Mapping[str, Any]:
    """The Job built from these settings, or the cluster's. Raises SettingsError, ServiceError, RequestError."""
    pod = pod_settings(settings)
    if not live:
        return job_manifest(spec, pod, settings)
    from k8s.cluster import Cluster

    job = Cluster.connect(pod.namespace, pod.request_timeout_s).job(spec.name)
    if job is None:
        raise RequestError(f"{spec.name} is not in the cluster, or not any more")
    return job


def main(arguments: list[str] | None = None) -> int:
    """Print one Job as JSON, which kubectl reads too; 2 if there is none to print."""
    parser = argparse.ArgumentParser(prog="tessera pod", description="Print the Kubernetes Job of a job as JSON.")
    parser.add_argument("job", help="which job, as BATCH/JOB: summer-catalogue/3")
    parser.add_argument(
        "--live", action="store_true", help="print the Job that the cluster has; else it is built from the record"
    )
    options = parser.parse_args(arguments)
    try:
        settings = settings_of_pods(os.environ)
        job = job_to_show(settings, latest_attempt(Ledger(settings), options.job), live=options.live)
    except TesseraError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # The token of the attempt is in its spec, and this goes to terminals and tickets.
    sys.stdout.write(redacted(json.dumps(job, indent=2)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
