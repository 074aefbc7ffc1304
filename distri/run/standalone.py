"""Leads where no stack runs: one picture, whose row, beginning and outcome are files of the attempt's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import structlog

from distri.model.image import Rendered
from distri.run.input_pixels import pixels_of
from distri.run.signals import LeaderSignal, LoadedShard
from distri.run.translate import outcome_of
from distri.sampling.control import Control
from pipeline.bucket.imagefile import image_file
from pipeline.bucket.trace import Trace
from pipeline.errors import StoreUnavailable
from pipeline.input_picture import InputPicture
from pipeline.process.files import write_whole
from pipeline.records.attempt import AttemptSpec, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.records.provenance import Provenance
from pipeline.records.results import FailureCode, ImageFailure, ImageOutcome, failure_of
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.records.standalone import PictureFolder

log = structlog.get_logger(__name__)


class StandaloneLeader:
    """What leads a replica for one picture. See `distri.run.signals.Leads`."""

    def __init__(self, spec: AttemptSpec, folder: PictureFolder) -> None:
        self.stopped_because: str | None = None
        self.stop_code = Code.DELETED
        self.claimed = True
        self.kept_tokens = None  # nobody else renders this
        self._spec, self._folder, self._objects = spec, folder, BatchObjects(spec.batch_id)
        self._outcomes: dict[int, ImageOutcome] = {}

    @property
    def outcomes(self) -> Mapping[int, ImageOutcome]:
        """What became of each image, by index."""
        return self._outcomes

    def begin(self) -> LoadedShard:
        """The row. Raises StoreUnavailable, RecordUnreadable."""
        path = self._folder.shard
        try:
            body = path.read_bytes()
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror}") from error
        return LoadedShard(body, images_of(parsed_shard(body, str(path))))

    def stop(self, reason: str, *, let_finish: bool = False) -> None:
        """End before the next evaluation."""
        del let_finish
        self.stopped_because = self.stopped_because or reason
        log.info("stopping", reason=reason)

    def end(self) -> None:
        """The job is over."""

    def decide(self, task: ImageTask, *, wait: bool = True) -> LeaderSignal:
        """Whether to render this image."""
        del wait
        if self.stopped_because is not None:
            return LeaderSignal.STOP
        try:
            for picture in task.row.inputs:
                pixels_of(self.input_png(picture), picture)
        except (OSError, ValueError) as error:
            self.fail(task, FailureCode.INPUT_LOST, f"what the image begins with: {error}")
            return LeaderSignal.SKIP
        return LeaderSignal.RENDER

    def control(self) -> Control:
        """Whether to go on."""
        return Control.GO if self.stopped_because is None else Control.STOP

    def read_ahead(self, task: ImageTask) -> None:
        """Nothing: there is one image."""

    def input_png(self, picture: InputPicture) -> bytes:
        """The file of a picture that the image is made of."""
        return self._folder.input_picture(picture.sha256).read_bytes()

    def commit(self, task: ImageTask, rendered: Rendered, provenance: Provenance) -> None:
        """Write the file, then the outcome; or why there is none."""
        outcome = outcome_of(task, self._objects, rendered, provenance)
        if isinstance(outcome, ImageFailure):
            self._write(task, outcome)
            return
        file = image_file(rendered.pixels, outcome)
        write_whole(self._folder.image, file.body)
        stands = {"sha256": hashlib.sha256(file.body).hexdigest(), "size_bytes": len(file.body)}
        self._write(task, outcome.model_copy(update=stands))

    def fail(self, task: ImageTask, code: FailureCode, message: str) -> None:
        """Write why this image cannot be rendered."""
        self._write(task, failure_of(task, code, message, retryable=False))

    def _write(self, task: ImageTask, outcome: ImageOutcome) -> None:
        self._outcomes[task.index] = outcome
        self._folder.write_outcome(outcome)

    def finish(self, fragment: int | None) -> None:
        """Nothing: what was rendered is written."""

    def wait_until_finished(self) -> LeaderSignal:
        """Everything is where it belongs."""
        return LeaderSignal.STOP

    def flush(self) -> None:
        """Nothing: what was rendered is written."""

    def store_trace(self, trace: Trace) -> None:
        """Nobody could ask for it."""
