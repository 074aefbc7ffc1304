"""Check a prompt set as `submit` would, without submitting it."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.announcement import Deployment
from pipeline.errors import RowError
from pipeline.operations.batch_pictures import inputs_of
from pipeline.operations.submit import Submission
from pipeline.outputs.pictures import open_prompts
from pipeline.promptset.validate import Validation, resolved_rows


def validated(
    submission: Submission,
    deployment: Deployment,
    artifacts: Artifacts | None,
    on_error: Callable[[RowError], object] | None = None,
) -> Validation:
    """What a pass over the prompt set found; every error is given to `on_error`. Raises RequestError, ServiceError."""
    source = open_prompts(
        submission.prompts,
        input_format=submission.input_format,
        bucket=artifacts,
        models=deployment.models,
        options=submission.reading,
    )
    found = Validation(source.name, sink=on_error)
    if submission.skip_invalid:
        found.most_invalid = deployment.max_rows
    found.inputs = inputs_of(
        artifacts, submission.tenant, submission.folders, submission.check_url, sent=submission.sent
    )
    rows = resolved_rows(source, submission.defaults, deployment, found, batch_seed=0, overrides=submission.overrides)
    for _row in rows:
        pass
    return found
