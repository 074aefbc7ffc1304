"""Learn from a finished job how fast this deployment is, for estimates and job sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import structlog

from pipeline.deployment.cost import tera_operations
from pipeline.deployment.speed import Speed, SpeedKey
from pipeline.errors import ServiceError
from pipeline.records.results import ImageOutcome, ImageResult
from pipeline.records.usage import Usage
from tasks.process.context import Context

log = structlog.get_logger(__name__)


def learn(context: Context, outcomes: Iterable[ImageOutcome], usage: Usage | None, ranks: int) -> None:
    """Add the times of a job's images, and the idle time of its last pod. In an outage they are just lost."""
    sums: defaultdict[SpeedKey, Speed] = defaultdict(Speed)
    for outcome in outcomes:
        model = context.settings.models.get(outcome.model) if isinstance(outcome, ImageResult) else None
        if isinstance(outcome, ImageResult) and model is not None:
            made, pixels = outcome.provenance, outcome.width * outcome.height
            key = SpeedKey.of(
                outcome.model,
                made.layout,
                exact=made.exact,
                device=made.device,
                pixels=pixels,
                together=1 + made.others,
                exchange=made.displacement.exchange,
            )
            known = sums[key]
            sums[key] = replace(
                known,
                images=known.images + 1,
                tera=known.tera + tera_operations(outcome, model.native_px),
                seconds=known.seconds + outcome.seconds,
                pixels=known.pixels + pixels,
                bytes=known.bytes + outcome.size_bytes,
            )
    if not sums:
        return
    if usage is not None:
        key = next(iter(sums))
        rendering_s = sum(speed.seconds for speed in sums.values()) / key.layout.data
        idle_s = max(0.0, usage.rank_seconds / ranks - rendering_s)
        sums[key] = replace(sums[key], pods=1, idle_s=idle_s)
    try:
        context.ledger.speeds.learn(sums)
    except ServiceError as error:
        log.warning("speed of this job was not recorded", reason=str(error))
