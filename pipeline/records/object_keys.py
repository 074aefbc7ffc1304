"""Where everything lies in S3: keys relative to the deployment's prefix.

    batches/<id>/batch.json             the accepted batch; when it is there, the batch is accepted
                 staged/<token>/input.jsonl     its rows, resolved, one a line
                 staged/<token>/invalid.jsonl   rows that --skip-invalid left out, with the reasons
                 inputs/<sha256>.png    a picture that rows begin with
                 inputs/<digest>.tokens what an IP-Adapter sees of one (distri/run/kept_tokens.py)
                 plan.json              how the batch is cut into jobs
                 shards/00003.jsonl     the rows of one job
                 images/00000/0000012-000.png   image 0 of row 12 (or .jpg, .webp); its PUT is the commit
                 images/00000/0000012-000.json  what is known about it; written first
                 thumbnails/00000/0000012-000.jpg  the image small; written before it
                 failures/00000/0000012-000.json  why there is no such image
                 fragments/00003.jsonl  the outcome of every image of one job
                 traces/00003-1.json    what each rank of attempt 1 of job 3 did and when
                 results.jsonl          the outcome of every image that succeeded
                 errors.jsonl           the others, with code and reason
                 gallery/index.html     a page to look at them; then page-0002.html, ...
                 _SUCCESS               last of all, when the batch is completed; or _CANCELLED, or _FAILED: what it
                                        vouches for (pipeline/records/end_marker.py)

    listed-files.json      for which base models LoRAs and embeddings are (pipeline/records/listed_files.py)
    uploads/<tenant>/      files that were uploaded over HTTP (pipeline/records/uploads.py)

Each submission stages under a token of its own, and `batch.json` names the one that was accepted: two that submit at
the same moment never write over each other. What others left is removed after a day (tasks/control/clean_staged.py).

Nothing that a user writes is part of a key but the batch id, whose characters `checked_batch_id` restricts. What is
read is believed as little: a key enters as an `ObjectKey`, and `batch_of_key` says whose it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter

from pipeline.names import ID, image_id
from pipeline.picture import Format
from pipeline.states import BatchState

_ROWS_PER_FOLDER = 1_000
_OF_JOB = re.compile(r"([0-9]{5,10})\.jsonl")

BATCHES = "batches/"
SUFFIXES = {Format.PNG: "png", Format.JPEG: "jpg", Format.WEBP: "webp"}
MARKERS = {BatchState.COMPLETED: "_SUCCESS", BatchState.CANCELLED: "_CANCELLED", BatchState.FAILED: "_FAILED"}

_CHARACTER = r"[^/\\\x00-\x1f\x7f-\x9f]"
_PART = rf"\.*[^./\\\x00-\x1f\x7f-\x9f]{_CHARACTER}*"

# A key that somebody else wrote, in a record or in a list of weights, is relative: its parts are not empty and not only
# dots, and hold no backslash and no control character. S3 takes no longer one.
ObjectKey = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART})*$", max_length=1024)]

_OBJECT_KEY: TypeAdapter[str] = TypeAdapter(ObjectKey)


@dataclass(frozen=True)
class BatchObjects:
    """The keys of one batch."""

    batch_id: str

    @property
    def root(self) -> str:
        return f"{BATCHES}{self.batch_id}/"

    @property
    def manifest(self) -> str:
        return self.root + "batch.json"

    @property
    def staged(self) -> str:
        """The folder of what submissions staged, each under its token."""
        return self.root + "staged/"

    def input(self, token: str) -> str:
        return f"{self.staged}{token}/input.jsonl"

    def invalid(self, token: str) -> str:
        return f"{self.staged}{token}/invalid.jsonl"

    def input_picture(self, sha256: str) -> str:
        return f"{self.root}inputs/{sha256}.png"

    def reference_tokens(self, digest: str) -> str:
        return f"{self.root}inputs/{digest}.tokens"

    @property
    def plan(self) -> str:
        return self.root + "plan.json"

    @property
    def fragments(self) -> str:
        return self.root + "fragments/"

    @property
    def outcome_folders(self) -> tuple[str, ...]:
        """Folders that are empty as long as no image has an outcome."""
        return self.fragments, self.root + "images/", self.root + "failures/"

    @property
    def user_files(self) -> tuple[str, ...]:
        """Folders and files that users look at."""
        return *(f"{self.root}{folder}/" for folder in ("images", "thumbnails", "gallery")), self.results, self.errors

    @property
    def shards(self) -> str:
        return self.root + "shards/"

    def shard(self, job: int) -> str:
        return f"{self.shards}{job:05d}.jsonl"

    def fragment(self, job: int) -> str:
        return f"{self.fragments}{job:05d}.jsonl"

    def job_of(self, key: str, images: int) -> int | None:
        """The job of a batch of so many images whose shard or fragment lies under this key; None if none's does."""
        found = _OF_JOB.fullmatch(key.rpartition("/")[2])
        job = int(found[1]) if found else -1
        return job if 0 <= job < images and key in (self.shard(job), self.fragment(job)) else None

    @property
    def traces(self) -> str:
        return self.root + "traces/"

    def trace(self, job: int, attempt: int) -> str:
        return f"{self.traces}{job:05d}-{attempt}.json"

    def image(self, row: int, number: int, kind: Format) -> str:
        return self._of_image("images", row, number, SUFFIXES[kind])

    def sidecar(self, row: int, number: int) -> str:
        return self._of_image("images", row, number, "json")

    def thumbnail(self, row: int, number: int) -> str:
        return self._of_image("thumbnails", row, number, "jpg")

    def failure(self, row: int, number: int) -> str:
        return self._of_image("failures", row, number, "json")

    def _of_image(self, folder: str, row: int, number: int, suffix: str) -> str:
        return f"{self.root}{folder}/{row // _ROWS_PER_FOLDER:05d}/{image_id(row, number)}.{suffix}"

    @property
    def results(self) -> str:
        return self.root + "results.jsonl"

    @property
    def errors(self) -> str:
        return self.root + "errors.jsonl"

    @property
    def gallery(self) -> str:
        """The first page of the gallery."""
        return self.gallery_page(1)

    def gallery_page(self, number: int) -> str:
        """Page `number` of the gallery, from 1."""
        return self.root + "gallery/" + ("index.html" if number == 1 else f"page-{number:04d}.html")

    def marker(self, state: BatchState) -> str:
        """The last object of a batch that ended in this state."""
        return self.root + MARKERS[state]


def checked_key(key: str) -> str:
    """The key itself. Raises ValueError if it is no ObjectKey."""
    return _OBJECT_KEY.validate_python(key)


def check_rows_key(key: str, schedule: str) -> None:
    """Raise ValueError if digests of a schedule's rows cannot lie there: the controller deletes what is outdated."""
    if not re.fullmatch(rf"schedules/{re.escape(schedule)}/rows/[A-Za-z0-9._-]+\.bin", key):
        raise ValueError("no key of digests of this schedule's rows")


def batch_of_key(key: str) -> BatchObjects:
    """The batch that an object belongs to. Raises ValueError if the key is of none."""
    folder, _, name = key.removeprefix(BATCHES).partition("/")
    if not (name and key.startswith(BATCHES)):
        raise ValueError("no key of a batch")
    return _batch_of_id(folder)


@lru_cache  # a million images of one batch are read
def _batch_of_id(batch_id: str) -> BatchObjects:
    if not ID.fullmatch(batch_id):
        raise ValueError("no key of a batch")
    return BatchObjects(batch_id)
