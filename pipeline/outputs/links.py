"""Links to a batch's images that work for a short time without credentials.

A link is a credential: whoever has it may fetch that one object until it expires. So links are made only on request,
are never written to a file or log by us, and do not show in a `repr`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError
from pipeline.records.results import ImageResult

DEFAULT_LIFE = timedelta(hours=1)
LONGEST_LIFE = timedelta(days=7)  # S3's own limit for signatures of version 4

# What makes a spreadsheet read a cell as a formula, also after blanks, which it strips; full-width forms count in some.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True)
class Link:
    """A link to one image."""

    custom_id: str
    image_id: str
    seed: int
    expires_at: datetime
    url: str = field(repr=False)

    def as_dict(self) -> dict[str, str | int]:
        """JSON-able, for scripts."""
        return asdict(self) | {"expires_at": self.expires_at.isoformat()}


def links(artifacts: Artifacts, images: Iterable[ImageResult], life: timedelta = DEFAULT_LIFE) -> Iterator[Link]:
    """A link to each image, streamed. Raises RequestError for a life longer than S3 allows."""
    if not timedelta(seconds=1) <= life <= LONGEST_LIFE:
        raise RequestError(f"links that live {life} wanted; from 1 second to {LONGEST_LIFE.days} days possible")
    return (_link(artifacts, image, life) for image in images)


def _link(artifacts: Artifacts, image: ImageResult, life: timedelta) -> Link:
    # The clock of this machine, which is the one that signs.
    expires_at = datetime.now(UTC).replace(microsecond=0) + life
    return Link(image.custom_id, image.image_id, image.seed, expires_at, artifacts.presigned(image.key, life))


def csv_lines(found: Iterable[Link]) -> Iterator[str]:
    """Links as CSV with a header, in which no cell is read as a formula."""
    yield _row([column.name for column in fields(Link)])
    for link in found:
        yield _row([_not_a_formula(str(value)) for value in link.as_dict().values()])


def _not_a_formula(cell: str) -> str:
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) or cell[:1] in ("\t", "\r", "\n") else cell


def _row(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
