"""An image of a batch: its file, a link to it, and how a notebook shows it."""

from __future__ import annotations

import base64
import builtins
import html
import io
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RequestError
from pipeline.picture import Format
from pipeline.process.saved import check_folder, save, save_beside
from pipeline.records.results import ImageResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.client.connection import Connection

# What asks the bucket is imported where it is asked: an image may be of this machine.
_LIFE = timedelta(hours=1)
_FORMATS = {".png": Format.PNG, ".jpg": Format.JPEG, ".jpeg": Format.JPEG, ".webp": Format.WEBP}
# A folder is seldom called so.
_OTHER_FORMATS = frozenset({".avif", ".bmp", ".exr", ".gif", ".heic", ".jxl", ".psd", ".tif", ".tiff"})
_SHOWN_PX = 4096  # a notebook holds the whole file as text


def format_of(target: Path) -> Format | None:
    """The format that a file's name says; None for a folder. Raises RequestError for one that no image has."""
    suffix = target.suffix.lower()
    if target.is_dir():
        return None
    if suffix in _OTHER_FORMATS:
        raise RequestError(f"{target.name!r} found; a name that ends in {', '.join(_FORMATS)}, or a folder, wanted")
    return _FORMATS.get(suffix)


def check_format(target: Path, own: Format) -> None:
    """Raise RequestError if an image of this format may not be called so."""
    found = format_of(target)
    if found not in (None, own):
        raise RequestError(
            f"{target.name!r} found, and the image is {own.value}: name it so, or render it as {found} (format)"
        )


def check_target(target: Path) -> None:
    """Raise RequestError if no image can be saved there; asked before one is rendered."""
    check_folder(target if format_of(target) is None else target.parent)


class RenderedImage:
    """An image: in the bucket, or in memory where it was rendered without a stack."""

    def __init__(self, result: ImageResult, connection: Connection) -> None:
        self.result = result
        self._connection = connection

    def __repr__(self) -> str:
        return f"RenderedImage({self.result.image_id!r}, custom_id={self.result.custom_id!r})"

    def bytes(self) -> bytes:
        """The file, checked against its recorded digest."""
        from pipeline.bucket import outcomes

        return outcomes.image_bytes(self._connection.artifacts, self.result)

    def open(self) -> Image:
        """The image for Pillow, however large it is."""
        from pipeline.bucket.opened import opened

        return opened(self.bytes())

    def pil(self) -> Image:
        """The image for Pillow, read whole."""
        image = self.open()
        image.load()
        return image

    def url(self, life: timedelta = _LIFE) -> str:
        """A link that fetches it without credentials for so long, 7 days at most: treat it like a password."""
        from pipeline.outputs.links import links

        [link] = links(self._connection.artifacts, [self.result], life)
        return link.url

    @property
    def suffix(self) -> str:
        """Of its file's name, with the dot."""
        return Path(self.result.key).suffix

    def thumbnail_html(self) -> str:
        """An `img` element with its thumbnail inside."""
        small = base64.b64encode(self._thumbnail()).decode()
        name = html.escape(self.result.custom_id, quote=True)
        return f'<img src="data:image;base64,{small}" alt="{name}" title="{name}" style="height: 96px; margin: 2px">'

    def _thumbnail(self) -> builtins.bytes:
        from pipeline.bucket import outcomes

        return outcomes.thumbnail_bytes(self._connection.artifacts, self.result)

    def _repr_png_(self) -> builtins.bytes:
        """How a notebook shows it: smaller where a browser would not."""
        image, body = self.open(), io.BytesIO()
        image.reduce(-(-max(image.size) // _SHOWN_PX)).convert("RGB").save(body, "PNG")
        return body.getvalue()

    def save(self, target: str | Path) -> Path:
        """Write its file, as it is; returns the path.

        Args:
            target: a file, such as hero.png, whose suffix must be that of the image: a file of this name is replaced.
                Or a folder, where it becomes `<image id>.<suffix>`, or `<image id>-2.<suffix>` beside another picture
                of that name: every batch has an image 0000000-000. Folders are made if need be.

        It is whole or not there, also when this process is killed. Raises RequestError if the suffix is another
        format's or the place cannot be written, FileRefused if anything but a file has the name.
        """
        path = Path(target)
        check_format(path, self.result.file.format)
        if format_of(path) is not None:
            return save(path, self.bytes())
        return save_beside(path / self.result.key.rpartition("/")[2], self.bytes())


class ImageInMemory(RenderedImage):
    """An image that was rendered without a stack: in no bucket, and of no batch that anybody knows."""

    def __init__(self, result: ImageResult, body: builtins.bytes) -> None:
        self.result = result
        self._body = body

    def bytes(self) -> builtins.bytes:
        """The file."""
        return self._body

    def url(self, life: timedelta = _LIFE) -> str:
        """The image itself as a `data:` URL, which does not expire."""
        del life
        kind = self.result.file.format.value
        return f"data:image/{kind};base64,{base64.b64encode(self._body).decode()}"

    def _thumbnail(self) -> builtins.bytes:
        from pipeline.bucket.thumbnail import thumbnail

        return thumbnail(self.pil())
