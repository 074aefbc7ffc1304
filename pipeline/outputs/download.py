"""Download a batch into a folder: images, thumbnails, results, and the gallery.

The bucket is not believed (see `pipeline.process.folder`): what it names lands in the folder or nowhere, and a record
or file that is no good costs itself only.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.bodies import split_lines
from pipeline.bucket.opened import UNREADABLE, is_picture, opened
from pipeline.bucket.outcomes import OnUnreadable, failures, failures_in, missing_or_damaged, results, results_in
from pipeline.bucket.thumbnail import thumbnail
from pipeline.errors import DownloadIncomplete, FileRefused, RecordUnreadable, RequestError
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.process.folder import TargetFolder
from pipeline.process.saved import check_folder, writing
from pipeline.records.object_keys import BatchObjects
from pipeline.records.object_sizes import RECORD_BYTES, THUMBNAIL_BYTES
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult

OWNER = "tessera-batch.txt"  # a file that says whose a folder is

_PARALLEL = 8
_SHOWN_PROBLEMS = 20


def download(
    artifacts: Artifacts,
    batch_id: str,
    folder: Path,
    on_image: Callable[[ImageResult], None] | None = None,
    *,
    overwrite: bool = False,
    accepted_at: datetime | None = None,
) -> Path:
    """Download images, thumbnails, results and gallery into `folder`, laid out as in the bucket.

    Images that are there already with the right digest are not fetched again, so a broken download goes on where it
    stopped. The results get their names last, when all their images are there. Memory holds a few requests, however
    large the batch is. Returns the gallery's path.

    A folder into which a batch was downloaded is that batch's, and its files are replaced. Other files that are there
    stay as they are, unless `overwrite`; so does what is no regular file, always. `accepted_at` tells the batch from a
    purged one that had its id.

    Raises RequestError if the folder is another batch's or cannot be written, DownloadIncomplete with everything that
    could not be downloaded when all else was, StoreUnavailable.
    """
    owner = FolderOwner(batch_id, accepted_at.isoformat() if accepted_at else "")
    with writing(folder):  # errors of S3 have become ours
        return _Download(artifacts, BatchObjects(batch_id), TargetFolder(folder), owner, overwrite).run(on_image)


def check_download(folder: Path, batch_id: str | None) -> None:
    """Raise RequestError if a batch could not be downloaded there; asked before it is submitted.

    It is a new one if it has no id yet. Makes nothing.
    """
    check_folder(folder)
    found = folder / OWNER
    if found.is_file() and (owner := FolderOwner.parsed(found.read_bytes())).batch_id != batch_id:
        raise RequestError(f"{folder} holds batch {owner.batch_id!a}: choose another folder for a new one")


@dataclass(frozen=True)
class FolderOwner:
    """The batch that a folder is of. An id is free again after a purge, so when it was accepted belongs to it."""

    batch_id: str
    accepted_at: str = ""  # empty where nobody knows

    @classmethod
    def parsed(cls, text: bytes) -> FolderOwner:
        """What the file of that name says, whoever wrote it."""
        batch_id, _, accepted_at = text.decode(errors="replace").strip().partition("\n")
        return cls(batch_id, accepted_at)

    def to_bytes(self) -> bytes:
        """The lines of that file."""
        return "".join(f"{line}\n" for line in (self.batch_id, self.accepted_at) if line).encode()

    def is_same(self, other: FolderOwner) -> bool:
        """Whether it is the same batch, as far as both say; earlier versions wrote the id alone."""
        known = "" not in (self.accepted_at, other.accepted_at)
        return self.batch_id == other.batch_id and not (known and self.accepted_at != other.accepted_at)


class _Unfit(Exception):
    """What came is not the file that was wanted."""


@dataclass
class _Download:
    artifacts: Artifacts
    objects: BatchObjects
    folder: TargetFolder
    owner: FolderOwner
    overwrite: bool
    replace: bool = False
    lock: Lock = field(default_factory=Lock)
    problems: list[str] = field(default_factory=list)
    total: int = 0
    unreadable: int = 0
    missing: set[int] = field(default_factory=set)  # indices of images

    def run(self, on_image: Callable[[ImageResult], None] | None) -> Path:
        self._claim()
        objects, path = self.objects, self.folder.path
        with tempfile.TemporaryFile(dir=path) as rendered, tempfile.TemporaryFile(dir=path) as failed:
            # First of all: a connection to S3 does not stay open for as long as the images take.
            copied = [self.artifacts.copy_to(objects.results, rendered), self.artifacts.copy_to(objects.errors, failed)]
            finalized = None not in copied

            def results_again(on_unreadable: OnUnreadable) -> Iterator[ImageResult]:
                if not finalized:
                    return results(self.artifacts, objects, on_unreadable)
                return results_in(_lines(rendered), objects.results, objects, on_unreadable)

            def failures_again(on_unreadable: OnUnreadable) -> Iterator[ImageFailure]:
                if not finalized:
                    return failures(self.artifacts, objects, on_unreadable)
                return failures_in(_lines(failed), objects.errors, on_unreadable)

            for result in _in_parallel(self._bring, results_again(self._note_unreadable)):
                if result.index not in self.missing and on_image is not None:
                    on_image(result)
            there = (result for result in results_again(_ignore) if result.index not in self.missing)
            self._write_gallery(there, failures_again(self._note_unreadable))
            if finalized and not self.missing:
                whole = _raw(rendered) if not self.unreadable else _readable(rendered, objects)
                self._write(objects.results, lambda file: file.writelines(whole))
                self._write(objects.errors, lambda file: file.writelines(_raw(failed)))
        gallery = path / self._name(objects.gallery)
        if self.total:
            raise DownloadIncomplete(objects.batch_id, gallery, self.problems, self.total)
        self._own()
        return gallery

    def _claim(self) -> None:
        """Find out whether files that are in the folder are this batch's, and make it the batch's if nothing is."""
        text = self.folder.read(OWNER, 200)
        found = None if text is None else FolderOwner.parsed(text)
        own = found is not None and found.is_same(self.owner)
        if found is not None and not own and not self.overwrite:
            before = " as it was before its purge" if found.batch_id == self.owner.batch_id else ""
            raise RequestError(
                f"{self.folder.path} holds batch {found.batch_id!a}{before}, not {self.objects.batch_id!r}: choose "
                "another folder, or replace its files with --overwrite (overwrite=True)"
            )
        names = {self._name(key).partition("/")[0] for key in self.objects.user_files}
        there = {path.name for path in self.folder.path.iterdir()}
        self.replace = self.overwrite or own or names.isdisjoint(there)
        if self.replace:
            self._own()

    def _own(self) -> None:
        with self.folder.write(OWNER, replace=True) as file:
            file.write(self.owner.to_bytes())

    def _name(self, key: str) -> str:
        return key.removeprefix(self.objects.root)

    def _note(self, problem: str) -> None:
        with self.lock:
            self.total += 1
            if len(self.problems) < _SHOWN_PROBLEMS:
                self.problems.append(problem if problem.isprintable() else ascii(problem))

    def _note_unreadable(self, error: RecordUnreadable) -> None:
        self.unreadable += 1
        self._note(str(error))

    def _write(self, key: str, fill: Callable[[IO[bytes]], None], *, of: ImageResult | None = None) -> None:
        """Write a file of the folder; if that cannot be, or if what came is not what it should hold, note it."""
        try:
            with self.folder.write(self._name(key), replace=self.replace) as file:
                fill(file)
        except (FileRefused, _Unfit) as problem:
            hint = "; choose another folder, or replace it with --overwrite (overwrite=True)"
            self._note(f"{problem}{hint if isinstance(problem, FileRefused) and not self.replace else ''}")
            if of is not None:
                self.missing.add(of.index)

    def _bring(self, result: ImageResult) -> ImageResult:
        """Download an image and its thumbnail, unless they are there; beside a new image its own thumbnail."""
        anew = not self._is_there(result)
        if anew:

            def fill(file: IO[bytes]) -> None:
                digest = self.artifacts.copy_to(result.key, file, result.size_bytes)
                if digest != result.sha256:
                    raise _Unfit(missing_or_damaged(self.artifacts, result, gone=digest is None))

            self._write(result.key, fill, of=result)
        if result.thumbnail is not None and result.index not in self.missing:
            self._bring_thumbnail(result, result.thumbnail, anew=anew)
        return result

    def _is_there(self, result: ImageResult) -> bool:
        try:
            return self.folder.has(self._name(result.key), result.size_bytes, result.sha256)
        except FileRefused:
            return False  # writing it says so

    def _bring_thumbnail(self, result: ImageResult, key: str, *, anew: bool) -> None:
        with suppress(FileRefused):  # writing it says so
            if not anew and self.folder.has_any(self._name(key)):
                return

        def fill(file: IO[bytes]) -> None:
            digest = self.artifacts.copy_to(key, file, THUMBNAIL_BYTES)
            size_bytes = file.tell()
            file.seek(0)
            if digest is None or size_bytes > THUMBNAIL_BYTES or not is_picture(file.read()):
                file.seek(0)
                file.truncate()
                file.write(_made_small(self.folder.read(self._name(result.key), result.size_bytes) or b"", key))

        self._write(key, fill)

    def _write_gallery(self, rendered: Iterator[ImageResult], failed: Iterator[ImageFailure]) -> None:
        outcomes: Iterator[ImageOutcome] = heapq.merge(
            rendered, failed, key=lambda outcome: (outcome.row, outcome.number)
        )
        for key, pieces in gallery_pages(self.objects, outcomes):
            self._write(key, partial(_write_page, pieces))
            deque(pieces, maxlen=0)  # of a page that was not written


def _write_page(pieces: Iterator[str], file: IO[bytes]) -> None:
    file.writelines(map(str.encode, pieces))


def _made_small(body: bytes, key: str) -> bytes:
    try:
        with opened(body) as image:
            return thumbnail(image)
    except UNREADABLE as error:
        raise _Unfit(f"{key} is not in the bucket, and its image cannot be read: {error}") from error


def _in_parallel(bring: Callable[[ImageResult], ImageResult], results: Iterator[ImageResult]) -> Iterator[ImageResult]:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        pending: set[Future[ImageResult]] = set()
        try:
            for result in results:
                pending.add(pool.submit(bring, result))
                if len(pending) >= 2 * _PARALLEL:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in pending)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _raw(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(1 << 20):
        yield chunk


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    return split_lines(_raw(file), RECORD_BYTES)


def _readable(file: IO[bytes], objects: BatchObjects) -> Iterator[bytes]:
    """The lines of a results.jsonl that are results of the batch."""
    return (line + b"\n" for line in _lines(file) if any(results_in([line], objects.results, objects, _ignore)))


def _ignore(_error: RecordUnreadable) -> None:
    """It is noted already."""
