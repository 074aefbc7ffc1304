"""The pictures that the rows of one prompt set begin with: each read once, and kept until the batch is accepted.

What lies around a picture on a canvas is filled and masked here, so that a pod knows pictures and masks alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from PIL import Image, ImageChops

from pipeline.errors import RequestError, StoreRefused
from pipeline.input_picture import InputMask, InputPicture
from pipeline.inputs.masks import RESEMBLED, around, filled, on_canvas, opened_mask, place_of, transparent
from pipeline.inputs.paths import NOTHING_SENT, SentPaths, opened_path
from pipeline.inputs.plain import MAX_BYTES, OpenedPicture, opened_picture, plain_picture, png_of, read_bounded
from pipeline.inputs.reference import ALPHA, InBucket, OfBatch, OfInput, OfUpload, OnDisk, WantedPlace, parsed

MAX_NAME_CHARACTERS = 120


class Bucket(Protocol):
    """What opens an s3:// URL: `pipeline.bucket.artifacts.Artifacts`."""

    def chunks_of(self, url: str) -> Iterator[bytes]:
        """The object's bytes as they come. Raises RequestError if there is none, StoreUnavailable."""


@dataclass(frozen=True)
class Gathered:
    """A picture and what of it is painted anew; and what the user should know of them, each with its field."""

    picture: InputPicture
    mask: InputMask | None = None
    notes: tuple[tuple[str, str], ...] = ()


class InputPictures:
    """Reads what rows name, and keeps it as plain PNGs in a folder.

    Args:
        folders: where paths of rows begin, the first one that has the file; none reads no file of this machine, as for
            rows that came from elsewhere.
        bucket: opens s3:// URLs; None opens none.
        of_batch: the image file of another batch. Raises RequestError.
        sent: what paths mean where there are no folders.
        of_upload: an uploaded file by its id, and what its user calls it. Raises RequestError.
        check_url: raises RequestError if a URL is not for whoever submits.
        keep: folder for the PNGs; None checks pictures without keeping them.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        bucket: Bucket | None = None,
        *,
        of_batch: Callable[[OfBatch | OfInput], bytes] | None = None,
        sent: SentPaths = NOTHING_SENT,
        of_upload: Callable[[str], tuple[bytes, str]] | None = None,
        check_url: Callable[[str], object] = lambda _: None,
        keep: Path | None = None,
    ) -> None:
        self._folders, self._bucket = folders, bucket
        self._of_batch, self._of_upload, self._sent = of_batch, of_upload, sent
        self._check_url, self._keep = check_url, keep
        self._found: dict[tuple[str, str | None, WantedPlace | None], Gathered | tuple[str, str]] = {}

    def take(self, image: str, mask: str | None = None, canvas: WantedPlace | None = None) -> Gathered:
        """The picture that a row names, and its mask.

        Args:
            image: where it lies.
            mask: where its mask lies, or `ALPHA`; None is without one.
            canvas: that it lies on; what is around it is masked, too.

        Raises ValueError with (field, message) that says why there is none, ServiceError.
        """
        key = image, mask, canvas
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._taken(image, mask, canvas)
        if isinstance(found, Gathered):
            return found
        raise ValueError(*found)

    def take_mask(self, mask: str) -> Gathered:
        """The mask of a reference, by itself: both parts of a `Gathered`. Raises as `take` does."""
        key = "", mask, None
        found = self._found.get(key)
        if found is None:
            try:
                body, name = self._read(mask)
                white, notes = opened_mask(body, RESEMBLED)
            except (ValueError, RequestError, StoreRefused) as error:
                found = "mask", str(error)
            else:
                kept = self._kept_mask(white, name)
                found = Gathered(kept, kept, tuple(("mask", note) for note in notes))
            self._found[key] = found
        if isinstance(found, Gathered):
            return found
        raise ValueError(*found)

    def kept(self, digests: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """Of pictures that were taken, by their digests, the files."""
        if self._keep is not None:
            yield from ((digest, self._keep / f"{digest}.png") for digest in digests)

    def _taken(self, image: str, mask: str | None, canvas: WantedPlace | None) -> Gathered | tuple[str, str]:
        field = "image"
        try:
            body, name = self._read(image)
            if mask is None and canvas is None:
                plain = plain_picture(body)
                notes = tuple(("image", note) for note in plain.notes)
                return Gathered(self._picture(plain.png, name, (plain.width, plain.height)), notes=notes)
            opened = opened_picture(body)
            noted = [("image", note) for note in opened.notes]
            colours, painted, of_mask = opened.colours, None, name
            if mask is not None:
                field = "mask"
                painted, of_mask = self._mask(mask, opened, name, noted)
            if mask == ALPHA and painted is not None:
                colours = filled(colours, painted)
            elif opened.alpha is not None:
                noted.append(("image", "its transparent parts were laid on white"))
                colours = Image.composite(colours, Image.new("RGB", colours.size, (255, 255, 255)), opened.alpha)
            if canvas is not None:
                field = "canvas"
                place = place_of(colours.size, canvas)
                outside = around(colours.size, place)
                colours = filled(on_canvas(colours, place, (0, 0, 0)), outside)
                painted = outside if painted is None else ImageChops.lighter(on_canvas(painted, place, 0), outside)
        except (ValueError, RequestError, StoreRefused) as error:
            return field, str(error)
        picture = self._picture(png_of(colours), name, colours.size)
        if painted is None:
            raise AssertionError("neither mask nor canvas was let through")
        return Gathered(picture, self._kept_mask(painted, of_mask), tuple(noted))

    def _mask(
        self, mask: str, opened: OpenedPicture, of_picture: str, noted: list[tuple[str, str]]
    ) -> tuple[Image.Image, str]:
        """What of a picture is painted anew, and the name of the file that says it."""
        if mask == ALPHA:
            return transparent(opened), of_picture
        body, name = self._read(mask)
        found, notes = opened_mask(body)
        if found.size != (size := opened.colours.size):
            raise ValueError(
                f"{found.width}x{found.height} pixels found, and the image has {size[0]}x{size[1]}; equal sizes wanted"
            )
        noted += [("mask", note) for note in notes]
        return found, name

    def _picture(self, png: bytes, name: str, size: tuple[int, int]) -> InputPicture:
        """Keep a file, by its digest."""
        digest = hashlib.sha256(png).hexdigest()
        if self._keep is not None:
            (self._keep / f"{digest}.png").write_bytes(png)
        return InputPicture(sha256=digest, width=size[0], height=size[1], name=name[-MAX_NAME_CHARACTERS:])

    def _kept_mask(self, white: Image.Image, name: str) -> InputMask:
        box = white.getbbox()
        if box is None:
            raise AssertionError("a mask without white was let through")
        return InputMask(**self._picture(png_of(white), name, white.size).model_dump(), box=box)

    def _read(self, text: str) -> tuple[bytes, str]:
        """A file that a row names, and its name without a folder."""
        reference = parsed(text)
        if isinstance(reference, OfUpload):
            return self._uploaded(reference.id)
        return self._body(reference), text.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]

    def _uploaded(self, file_id: str) -> tuple[bytes, str]:
        if self._of_upload is None:
            raise ValueError("an uploaded picture found, and no deployment is configured that could be asked")
        return self._of_upload(file_id)

    def _body(self, reference: OfBatch | OfInput | InBucket | OnDisk) -> bytes:
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
            return self._uploaded(self._sent.upload_of(name))[0]
        with opened_path(name, self._folders) as file:
            return read_bounded(file)


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
