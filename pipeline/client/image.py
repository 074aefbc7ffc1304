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
from pipeline.process.folder import TargetFolder
from pipeline.records.results import ImageResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.client.connection import Connection

# What asks the bucket is imported where it is asked: an image may be of this machine.
_LIFE = timedelta(hours=1)
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_SHOWN_PX = 4096  # a notebook holds the whole file as text


def _check_suffix(path: Path, own: str) -> None:
    found = ".jpg" if path.suffix.lower() == ".jpeg" else path.suffix.lower()
    if found != (".jpg" if own == ".jpeg" else own):
        raise RequestError(
            f"{path.name!r} found, and the image is {own}: name it so, or render it as {found[1:]} (format)"
        )


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
            target: a file, such as hero.png, whose suffix must be that of the image; or a folder, where it becomes
                `<image id>.<suffix>`. Folders are made if need be.

        It is whole or not there, also when this process is killed. A file of this name is replaced. Raises RequestError
        if the suffix is another format's, FileRefused if anything but a file has the name.
        """
        path = Path(target)
        name = self.result.key.rpartition("/")[2]
        if path.suffix.lower() in _SUFFIXES and not path.is_dir():
            _check_suffix(path, self.suffix)
            path, name = path.parent, path.name
        folder = TargetFolder(path)
        with folder.write(name, replace=True) as file:
            file.write(self.bytes())
        return folder.path / name


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
