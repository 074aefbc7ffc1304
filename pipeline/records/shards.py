"""Cut a batch into jobs: images of one model, few enough for one pod, those of one LoRA set and size together.

A pod that changes its LoRAs fuses weights anew, and one that changes size needs other buffers. So rows that agree move
together, but never further than a window: memory holds one window, and the first rows are rendered first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import Field

from pipeline.names import image_id
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.promptset.fields.values import MAX_IMAGES_PER_ROW
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_lines
from pipeline.stored import Record


@dataclass(frozen=True)
class ImageTask:
    """One image to render: image `number` of a row."""

    row: ResolvedRow
    number: int

    @property
    def index(self) -> int:
        """Its position among all images of the batch: its place in the ledger."""
        return self.row.first_image + self.number

    @property
    def id(self) -> str:
        return image_id(self.row.row, self.number)

    @property
    def seed(self) -> int:
        """The row's seed plus the image's number."""
        return self.row.seed + self.number

    def key(self, objects: BatchObjects) -> str:
        """Where its picture goes."""
        return objects.image(self.row.row, self.number, self.row.file.format)


class _StoredLine(Record):
    """A line of a shard file, as it is stored."""

    row: ResolvedRow
    start: int = Field(ge=0)
    stop: int = Field(ge=1, le=MAX_IMAGES_PER_ROW)


def row_json(row: ResolvedRow) -> bytes:
    """The row as JSON."""
    return row.model_dump_json().encode()


@dataclass(frozen=True, slots=True)
class ShardLine:
    """A line of a shard: a row, and which of its images are this job's.

    Attributes:
        start: the first.
        stop: one past the last.
        json: the row as JSON, where it is known; it goes into the file as it is.
    """

    row: ResolvedRow
    start: int
    stop: int
    json: bytes | None = field(default=None, compare=False, repr=False)

    def to_bytes(self) -> bytes:
        """The line as it stands in the shard's file."""
        return b'{"row":%b,"start":%d,"stop":%d}\n' % (self.json or row_json(self.row), self.start, self.stop)

    def images(self) -> Iterator[ImageTask]:
        """Its images, in order."""
        return (ImageTask(self.row, number) for number in range(self.start, self.stop))


Shard = list[ShardLine]


WINDOW_IMAGES = 4096


@dataclass(frozen=True)
class Bounds:
    """What one job may hold at most; one image it always may.

    Attributes:
        images: how many.
        seconds: of rendering.
        seconds_of: what one image of a row takes.
    """

    images: int
    seconds: float = math.inf
    seconds_of: Callable[[ResolvedRow], float] = lambda _: 0.0


def cut(
    rows: Iterable[ResolvedRow], bounds: Bounds, json_of: Callable[[ResolvedRow], bytes] = row_json
) -> Iterator[Shard]:
    """Shards of rows that agree; the same rows always give the same shards, so that cutting twice is harmless.

    Of each WINDOW_IMAGES images, those of one model, LoRA set and size stand together, in the order in which the first
    of them came. A row with more images than fit goes over several shards. `json_of` is asked once for each row.
    """
    shard: Shard = []
    images, seconds = 0, 0.0
    for row in _together(rows):
        each_s, text = bounds.seconds_of(row), json_of(row)
        start = 0
        while start < row.num_images:
            room = bounds.images - images
            if each_s > 0 and bounds.seconds < math.inf:
                room = min(room, int((bounds.seconds - seconds) / each_s))
            if shard and (room < 1 or _rendered_by(shard[-1].row) != _rendered_by(row)):
                yield shard
                shard, images, seconds = [], 0, 0.0
                continue
            stop = min(start + max(1, room), row.num_images)
            shard.append(ShardLine(row, start, stop, text))
            images += stop - start
            seconds += (stop - start) * each_s
            start = stop
    if shard:
        yield shard


def _rendered_by(row: ResolvedRow) -> tuple[object, ...]:
    """What all images of a job have in common, for an attempt has one of each."""
    return row.model, row.resync, row.norm_mode, row.most_work, row.settling_steps


def _together(rows: Iterable[ResolvedRow]) -> Iterator[ResolvedRow]:
    window: list[ResolvedRow] = []
    images = 0
    for row in rows:
        window.append(row)
        images += row.num_images
        if images >= WINDOW_IMAGES:
            yield from _grouped(window)
            window, images = [], 0
    yield from _grouped(window)


def _grouped(window: list[ResolvedRow]) -> list[ResolvedRow]:
    first: dict[tuple[object, ...], int] = {}

    def place(row: ResolvedRow) -> list[int]:
        steered = tuple(one.model for one in row.control)
        resembles = tuple((one.adapter, one.mask is not None) for one in row.reference)
        traits = (_rendered_by(row), row.loras, row.width, row.height, (steered, resembles))
        return [first.setdefault(traits[:length], row.row) for length in (1, 2, 5)]

    return sorted(window, key=place)


def shard_bytes(shard: Shard) -> bytes:
    """The shard as its file."""
    return b"".join(line.to_bytes() for line in shard)


def parsed_shard(body: bytes, what: str = "a shard") -> Shard:
    """The shard from its file, whose key is `what`. Raises RecordUnreadable."""
    stored = read_lines(_StoredLine, body.splitlines(), what=what)
    return [ShardLine(line.row, line.start, line.stop) for line in stored]


def index_ranges(tasks: Iterable[ImageTask]) -> str:
    """Which images of the batch these are, by their indices, as in 0-99,120: what the ledger lets their pod move."""
    ranges: list[tuple[int, int]] = []
    for index in sorted(task.index for task in tasks):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def images_of(shard: Shard) -> list[ImageTask]:
    """All images of a job, in order."""
    return [task for line in shard for task in line.images()]
