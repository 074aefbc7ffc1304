"""Pages to look at a batch's images: static HTML that works from a folder, offline, with any prompt in it.

A page shows thumbnails, which the browser loads as they come into view, and lays out only what is near. Its one script
filters what is on the page; the policy allows that script by its digest, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator

from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult, Outcome

# What a browser still filters and scrolls without a pause; a batch of this size is one page.
PER_PAGE = 10_000

_SCRIPT = """
const box = document.querySelector("input"), count = document.querySelector("output");
const cards = [...document.querySelectorAll("figure")];
const texts = cards.map(card => card.textContent.toLowerCase());
function filter() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  cards.forEach((card, at) => {
    card.hidden = !words.every(word => texts[at].includes(word));
    shown += !card.hidden;
  });
  count.value = `${shown} of ${cards.length}`;
}
let timer;
box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 150); });
box.parentElement.hidden = false;
filter();
"""
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

_STYLE = """
  :root { color-scheme: light dark; }
  [hidden] { display: none !important; }
  body { font: 14px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 100rem; padding: 0 1rem; }
  header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center;
    padding: .8rem 0; background: Canvas; }
  h1 { font-size: 1.2rem; margin: 0; }
  label { display: flex; gap: .6rem; align-items: center; flex: 1; }
  input { flex: 1; max-width: 32rem; font: inherit; padding: .35rem .6rem; border: 1px solid #8888;
    border-radius: .4rem; }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
  figure { margin: 0; border: 1px solid #8884; border-radius: .5rem; overflow: hidden; content-visibility: auto;
    contain-intrinsic-size: auto 22rem; }
  figure a { display: block; background: #8882; }
  img { width: 100%; height: 15rem; object-fit: contain; display: block; }
  figcaption { padding: .6rem .8rem; overflow-wrap: anywhere; }
  p { margin: 0 0 .3rem; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
  figure:hover p, figure:focus-within p, .failed p { -webkit-line-clamp: none; }
  small { opacity: .75; display: block; }
  .failed { border-color: #c33; }
  .failed strong { color: #c33; }
  nav { display: flex; gap: 1.5rem; padding: 1.5rem 0; }
"""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<label hidden>Filter <input type="search" placeholder="words of a prompt, an id, a seed, or: failed">
<output></output></label>
</header>
<main>
"""

_TAIL = """</main>
<nav>{links}</nav>
<script>{script}</script>
</body>
</html>
"""


def gallery_pages(
    objects: BatchObjects, outcomes: Iterable[Outcome], per_page: int = PER_PAGE
) -> Iterator[tuple[str, Iterator[str]]]:
    """The pages one after the other, each as its key and its pieces, so that a large batch never stands in memory.

    A page's pieces must be used up before the next page is asked for. Links are relative to the gallery's folder.
    """
    rest = iter(outcomes)
    ahead = next(rest, None)

    def pieces(number: int) -> Iterator[str]:
        nonlocal ahead
        title = f"Batch {html.escape(objects.batch_id)}" + (f", page {number}" if number > 1 else "")
        yield _HEAD.format(title=title, style=_STYLE, digest=_DIGEST)
        for _ in range(per_page):
            if ahead is None:
                break
            yield _image(objects, ahead) if isinstance(ahead, ImageResult) else _failure(ahead)
            ahead = next(rest, None)
        links = _link(objects, number - 1, "previous page") if number > 1 else ""
        links += _link(objects, number + 1, "next page") if ahead is not None else ""
        yield _TAIL.format(links=links, script=_SCRIPT)

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
