"""What became of each image: the lines of sidecars, failures, fragments, results.jsonl and errors.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, ValidationInfo, field_validator

from pipeline.errors import RecordForeign, RecordUnreadable, RowError
from pipeline.names import MAX_IMAGES_OF_BATCH, image_id
from pipeline.picture import Picture, RenderDetails
from pipeline.promptset.fields.values import MAX_IMAGES_PER_ROW, CustomId
from pipeline.records.object_keys import BatchObjects, ObjectKey, batch_of_key
from pipeline.records.object_sizes import largest_image
from pipeline.records.provenance import Provenance, RenderSeconds
from pipeline.records.shards import WINDOW_IMAGES, ImageTask
from pipeline.schema import OpenCode, Versioned, read_each

SCHEMA_VERSION = 1


class FailureCode(OpenCode):
    """Why there is no picture. The values are part of the product: scripts read them from errors.jsonl."""

    INVALID = "E_INVALID"  # the row was left out under --skip-invalid
    PROMPT_TOO_LONG = "E_PROMPT_TOO_LONG"
    UNSUPPORTED = "E_UNSUPPORTED"  # the engine cannot render this combination, and says why
    INPUT_LOST = "E_INPUT_LOST"  # the picture that it begins with is gone from the bucket, or another one
    BLACK = "E_BLACK"  # the picture is not finite, or of one colour, also after the repair
    OOM = "E_OOM"  # it does not fit into memory, not even in the leaner layout
    ATTEMPTS_EXHAUSTED = "E_ATTEMPTS_EXHAUSTED"  # its job failed as often as it may; the message says how at last
    POISON = "E_POISON"  # the pod died twice while it rendered this image; its neighbours went on without it
    INTERNAL = "E_INTERNAL"  # our own program failed over its job again and again; the message says how
    LOST = "E_LOST"  # it was committed, its file is gone from the bucket, and nobody can render it again by itself
    UNREADABLE = "E_UNREADABLE"  # its picture is there, and what is known of it cannot be read by this version
    CANCELLED = "E_CANCELLED"


class _Line(Versioned):
    schema_version: int = SCHEMA_VERSION
    custom_id: CustomId
    image_id: str
    index: int = Field(ge=0, lt=MAX_IMAGES_OF_BATCH)
    row: int = Field(ge=0, lt=MAX_IMAGES_OF_BATCH)
    number: int = Field(ge=0, lt=MAX_IMAGES_PER_ROW)

    @field_validator("number")
    @classmethod
    def _check_image_id(cls, number: int, others: ValidationInfo) -> int:
        known = others.data
        if {"row", "image_id"} <= known.keys() and known["image_id"] != image_id(known["row"], number):
            raise ValueError("row and number of another image_id")
        return number


class ImageResult(_Line, Picture):
    """An image that is there, whose keys are those that follow from its batch, row and number."""

    status: Literal["succeeded"] = "succeeded"
    key: ObjectKey = Field(description="Relative to the deployment's prefix.")
    thumbnail: ObjectKey | None = Field(None, description="Its key likewise; images of earlier versions have none.")
    seed: int
    made: RenderDetails = RenderDetails()
    provenance: Provenance
    seconds: RenderSeconds
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    size_bytes: int = Field(0, ge=0)

    @property
    def batch_id(self) -> str:
        """The batch that it is an image of."""
        return batch_of_key(self.key).batch_id

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: str, others: ValidationInfo) -> str:
        known = others.data
        if not {"row", "number", "file"} <= known.keys():
            return key  # refused already
        if key != batch_of_key(key).image(known["row"], known["number"], known["file"].format):
            raise ValueError("not the key of this image")
        return key

    @field_validator("thumbnail")
    @classmethod
    def _check_thumbnail(cls, key: str | None, others: ValidationInfo) -> str | None:
        known = others.data
        if key is None or not {"row", "number", "key"} <= known.keys():
            return key
        if key != batch_of_key(known["key"]).thumbnail(known["row"], known["number"]):
            raise ValueError("not the key of this image's thumbnail")
        return key

    @field_validator("size_bytes")
    @classmethod
    def _check_size(cls, size_bytes: int, others: ValidationInfo) -> int:
        known = others.data
        if {"width", "height"} <= known.keys() and size_bytes > largest_image(known["width"], known["height"]):
            raise ValueError("larger than a file of so many pixels can be")
        return size_bytes


class ImageFailure(_Line):
    """An image that is not there, and why."""

    status: Literal["failed"] = "failed"
    code: FailureCode
    message: str
    retryable: bool = Field(description="Whether `tessera retry` could change it without another request.")


class RefusedLine(Versioned):
    """A line of errors.jsonl for a row that was left out under --skip-invalid."""

    schema_version: int = SCHEMA_VERSION
    status: Literal["invalid"] = "invalid"
    line: int
    field: str | None
    code: FailureCode = FailureCode.INVALID
    message: str
    retryable: bool = False

    @classmethod
    def of(cls, error: RowError) -> RefusedLine:
        """The line for what was wrong with a row."""
        return cls(line=error.line, field=error.field, message=error.message)


ImageOutcome = ImageResult | ImageFailure


class OutcomeLine(RootModel[Annotated[ImageOutcome, Field(discriminator="status")]]):
    """A line of a fragment."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


def is_retried(outcome: ImageOutcome, codes: Collection[str]) -> bool:
    """Whether `tessera retry` renders this image again: a failure that may change, of one of these codes if any."""
    return isinstance(outcome, ImageFailure) and outcome.retryable and (not codes or outcome.code.value in codes)


def result_of(
    task: ImageTask, objects: BatchObjects, provenance: Provenance, seconds: float, made: RenderDetails | None = None
) -> ImageResult:
    """The result of an image whose file is not made yet: digest and size follow."""
    return ImageResult(
        **{name: getattr(task.row, name) for name in Picture.model_fields},
        custom_id=task.row.custom_id,
        image_id=task.id,
        index=task.index,
        row=task.row.row,
        number=task.number,
        key=task.key(objects),
        thumbnail=objects.thumbnail(task.row.row, task.number),
        seed=task.seed,
        made=made or RenderDetails(),
        provenance=provenance,
        seconds=seconds,
    )


def is_result_of(task: ImageTask, objects: BatchObjects, result: ImageResult) -> bool:
    """Whether a result, wherever it was read, speaks of this image: of its key, its place and its row, and no other."""
    said = (result.key, result.image_id, result.index, result.row, result.number, result.custom_id)
    ours = (task.key(objects), task.id, task.index, task.row.row, task.number, task.row.custom_id)
    return said == ours and result.thumbnail in (None, objects.thumbnail(task.row.row, task.number))


def failure_of(task: ImageTask, code: FailureCode, message: str, *, retryable: bool) -> ImageFailure:
    """Why this image is not there."""
    return ImageFailure(
        custom_id=task.row.custom_id,
        image_id=task.id,
        index=task.index,
        row=task.row.row,
        number=task.number,
        code=code,
        message=message,
        retryable=retryable,
    )


def lost_failure(result: ImageResult) -> ImageFailure:
    """Why an image that was committed is not there any more."""
    return ImageFailure(
        custom_id=result.custom_id,
        image_id=result.image_id,
        index=result.index,
        row=result.row,
        number=result.number,
        code=FailureCode.LOST,
        message=f"{result.key} was committed and is gone from the bucket",
        retryable=True,
    )


# Rows move within a window when a batch is cut; one that is further ahead of its turn waits for what is not there.
_MOST_EARLY = 2 * WINDOW_IMAGES


def in_row_order(outcomes: Iterable[ImageOutcome]) -> Iterator[ImageOutcome]:
    """Outcomes of all images of a batch in the order of its rows; memory holds those that came before their turn.

    Their number is bounded, also if a fragment is gone and the turn of its images never comes.
    """
    early: dict[int, ImageOutcome] = {}
    turn = 0
    for outcome in outcomes:
        early[outcome.index] = outcome
        if len(early) > _MOST_EARLY:
            turn = min(early)
        while turn in early:
            yield early.pop(turn)
            turn += 1
    yield from (early[index] for index in sorted(early))


def outcome_lines(outcomes: Iterable[ImageOutcome]) -> bytes:
    """Outcomes as a fragment: one JSON object a line."""
    return b"".join(outcome.model_dump_json().encode() + b"\n" for outcome in outcomes)


def parsed_outcomes(
    lines: Iterable[bytes],
    what: str,
    objects: BatchObjects,
    *,
    on_unreadable: Callable[[RecordUnreadable], object] | None = None,
) -> Iterator[ImageOutcome]:
    """The outcomes of the images of a batch, from the lines of its file `what`.

    A line that cannot be read, or is of another batch, is given to `on_unreadable`, and the others are read all the
    same; without it, it raises RecordUnreadable.
    """
    for number, line in read_each(OutcomeLine, lines, what=what, on_unreadable=on_unreadable):
        outcome = line.root
        if isinstance(outcome, ImageResult) and not outcome.key.startswith(objects.root):
            foreign = RecordForeign(f"{what}, line {number}", "an image of another batch", f"one of {objects.batch_id}")
            if on_unreadable is None:
                raise foreign
            on_unreadable(foreign)
        else:
            yield outcome
