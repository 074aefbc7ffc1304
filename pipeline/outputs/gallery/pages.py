"""Pages to look at a batch's images: static HTML that works from a folder, offline, with any prompt in it.

A page shows thumbnails, which the browser loads as they come into view, and lays out only what is near. Its one script
filters what is on the page; the policy allows that script by its digest, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator
from importlib.resources import files
from textwrap import indent

from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult

# What a browser still filters and scrolls without a pause; a batch of this size is one page.
PER_PAGE = 10_000

_FILES = files("pipeline.outputs.gallery")
_STYLE = "\n" + indent((_FILES / "gallery.css").read_text(), "  ")
_SCRIPT = "\n" + (_FILES / "gallery.js").read_text()
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_ABOVE, _BELOW = (_FILES / "page.html").read_text().split("{figures}\n")


def gallery_pages(
    objects: BatchObjects, outcomes: Iterable[ImageOutcome], per_page: int = PER_PAGE
) -> Iterator[tuple[str, Iterator[str]]]:
    """The pages one after the other, each as its key and its pieces, so that a large batch never stands in memory.

    A page's pieces must be used up before the next page is asked for. Links are relative to the gallery's folder.
    """
    rest = iter(outcomes)
    ahead = next(rest, None)

    def pieces(number: int) -> Iterator[str]:
        nonlocal ahead
        title = f"Batch {html.escape(objects.batch_id)}" + (f", page {number}" if number > 1 else "")
        yield _ABOVE.format(title=title, style=_STYLE, digest=_DIGEST)
        for _ in range(per_page):
            if ahead is None:
                break
            yield _image(objects, ahead) if isinstance(ahead, ImageResult) else _failure(ahead)
            ahead = next(rest, None)
        links = _link(objects, number - 1, "previous page") if number > 1 else ""
        links += _link(objects, number + 1, "next page") if ahead is not None else ""
        yield _BELOW.format(links=links, script=_SCRIPT)

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
