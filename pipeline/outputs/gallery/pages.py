"""Pages to look at a batch's images: static HTML that works from a folder, offline, with any prompt in it.

A page shows thumbnails, which the browser loads as they come into view, and lays out only what is near. Its one script
filters what is on the page; the policy allows that script by its digest, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from textwrap import indent

from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult

# As many as a browser filters and scrolls without a pause; a batch of this size is one page.
PER_PAGE = 10_000


@dataclass(frozen=True)
class _Files:
    """What the files beside this one hold: the page above the figures and below them, its style and its script."""

    above: str
    below: str
    style: str
    script: str

    @property
    def script_digest(self) -> str:
        """As a content security policy names the script that it allows."""
        return base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()


@cache
def _files() -> _Files:
    folder = files("pipeline.outputs.gallery")
    above, below = (folder / "page.html").read_text().split("{figures}\n")
    style = indent((folder / "gallery.css").read_text(), "  ")
    return _Files(above, below, "\n" + style, "\n" + (folder / "gallery.js").read_text())


def gallery_pages(
    objects: BatchObjects, outcomes: Iterable[ImageOutcome], per_page: int = PER_PAGE
) -> Iterator[tuple[str, Iterator[str]]]:
    """The pages one after the other, each as its key and its pieces, so that a large batch never stands in memory.

    A page's pieces must be used up before the next page is asked for. Links are relative to the gallery's folder.
    """
    page = _files()
    rest = iter(outcomes)
    ahead = next(rest, None)

    def pieces(number: int) -> Iterator[str]:
        nonlocal ahead
        title = f"Batch {html.escape(objects.batch_id)}" + (f", page {number}" if number > 1 else "")
        yield page.above.format(title=title, style=page.style, digest=page.script_digest)
        for _ in range(per_page):
            if ahead is None:
                break
            yield _image(objects, ahead) if isinstance(ahead, ImageResult) else _failure(ahead)
            ahead = next(rest, None)
        links = _link(objects, number - 1, "previous page") if number > 1 else ""
        links += _link(objects, number + 1, "next page") if ahead is not None else ""
        yield page.below.format(links=links, script=page.script)

    number = 1
    while number == 1 or ahead is not None:
        yield objects.gallery_page(number), pieces(number)
        number += 1


def _link(objects: BatchObjects, number: int, text: str) -> str:
    return f'<a href="{objects.gallery_page(number).rpartition("/")[2]}">{text}</a> '


def _image(objects: BatchObjects, result: ImageResult) -> str:
    link, small = _relative(objects, result.key), _relative(objects, result.thumbnail or result.key)
    name, negative = html.escape(result.custom_id), ""
    if result.negative_prompt:
        negative = f'<p dir="auto"><small>not: {html.escape(result.negative_prompt)}</small></p>'
    return (
        f'<figure><a href="{link}"><img src="{small}" width="{result.width}" height="{result.height}" loading="lazy" '
        f'decoding="async" alt="{name}"></a><figcaption><p dir="auto">{html.escape(result.prompt)}</p>{negative}'
        f"<small><bdi>{name}</bdi> &middot; {result.width}&times;{result.height} &middot; seed {result.seed} &middot; "
        f"{result.steps} steps &middot; guidance {result.guidance_scale:g}</small></figcaption></figure>\n"
    )


def _failure(failure: ImageFailure) -> str:
    again = "; tessera retry may mend it" if failure.retryable else ""
    return (
        f'<figure class="failed"><figcaption><p><strong>failed: {html.escape(failure.code.value)}</strong></p>'
        f"<p>{html.escape(failure.message)}</p><small><bdi>{html.escape(failure.custom_id)}</bdi> &middot; "
        f"image {failure.number}{again}</small></figcaption></figure>\n"
    )


def _relative(objects: BatchObjects, key: str) -> str:
    return html.escape("../" + key.removeprefix(objects.root))
