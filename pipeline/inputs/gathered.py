"""The pictures that the rows of one prompt set begin with: each read once, and kept until the batch is accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from pipeline.errors import RequestError, StoreRefused
from pipeline.inputs.plain import MAX_BYTES, plain_picture, read_bounded
from pipeline.inputs.reference import InBucket, OfBatch, OfInput, OnDisk, Reference, parsed
from pipeline.picture import InputPicture

MAX_NAME_CHARACTERS = 120


class Bucket(Protocol):
    """What opens an s3:// URL: `pipeline.bucket.artifacts.Artifacts`."""

    def chunks_of(self, url: str) -> Iterator[bytes]:
        """The object's bytes as they come. Raises RequestError if there is none, StoreUnavailable."""


@dataclass(frozen=True)
class Gathered:
    """A picture, and what the user should know of how it was read."""

    picture: InputPicture
    notes: tuple[str, ...] = ()


class InputPictures:
    """Reads what rows name, and keeps it as plain PNGs in a folder.

    Args:
        folders: where paths of rows begin, the first one that has the file; none reads no file of this machine, as for
            rows that came from elsewhere.
        bucket: opens s3:// URLs; None opens none.
        of_batch: the image file of another batch. Raises RequestError.
        check_url: raises RequestError if a URL is not for whoever submits.
        keep: folder for the PNGs; None checks pictures without keeping them.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        bucket: Bucket | None = None,
        *,
        of_batch: Callable[[OfBatch | OfInput], bytes] | None = None,
        check_url: Callable[[str], object] = lambda _: None,
        keep: Path | None = None,
    ) -> None:
        self._folders, self._bucket, self._of_batch = folders, bucket, of_batch
        self._check_url, self._keep = check_url, keep
        self._found: dict[str, Gathered | str] = {}

    def take(self, text: str) -> Gathered:
        """The picture that a row names. Raises ValueError that says why there is none, ServiceError."""
        found = self._found.get(text)
        if found is None:
            try:
                found = self._read(text)
            except (ValueError, RequestError, StoreRefused) as error:
                found = str(error)
            self._found[text] = found
        if isinstance(found, Gathered):
            return found
        raise ValueError(found)

    def kept(self, digests: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """Of pictures that were taken, by their digests, the files."""
        if self._keep is not None:
            yield from ((digest, self._keep / f"{digest}.png") for digest in digests)

    def _read(self, text: str) -> Gathered:
        reference = parsed(text)
        plain = plain_picture(self._body(reference))
        digest = hashlib.sha256(plain.png).hexdigest()
        if self._keep is not None:
            (self._keep / f"{digest}.png").write_bytes(plain.png)
        name = text.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1][-MAX_NAME_CHARACTERS:]
        return Gathered(InputPicture(sha256=digest, width=plain.width, height=plain.height, name=name), plain.notes)

    def _body(self, reference: Reference) -> bytes:
        if isinstance(reference, OnDisk):
            return self._of_file(reference.path)
        if isinstance(reference, InBucket):
            if self._bucket is None:
                raise ValueError("an s3:// URL found, and no deployment is configured whose S3 could be asked")
            self._check_url(reference.url)
            return _joined(self._bucket.chunks_of(reference.url))
        if self._of_batch is None:
            raise ValueError("a picture of a batch found, and no deployment is configured that could be asked")
        return self._of_batch(reference)

    def _of_file(self, name: str) -> bytes:
        if not self._folders:
            raise ValueError("a path found; rows that are not read on your machine need an s3:// URL or batch://ID/ROW")
        paths = [folder / Path(name).expanduser() for folder in self._folders]
        path = next((path for path in paths if path.is_file()), None)  # nor anything that a read would wait for
        if path is None:
            kind = "a folder found" if any(path.is_dir() for path in paths) else "no such file"
            raise ValueError(f"{kind}; a path that begins at the prompt set's folder, or here, wanted")
        try:
            with path.open("rb") as file:
                return read_bounded(file)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from error


@contextmanager
def kept_for_a_while() -> Iterator[Path]:
    """A folder for `keep`, which is gone afterwards."""
    with TemporaryDirectory(prefix="tessera-inputs-") as folder:
        yield Path(folder)


def _joined(chunks: Iterable[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_BYTES:
            break  # it is refused for its size
    return bytes(body)
