"""A page to look at a batch's images: one static HTML file that works from a folder, offline, with any prompt in it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from pipeline.objects import BatchObjects
from pipeline.results import ImageFailure, ImageResult, Outcome

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
  h1 {{ font-size: 1.3rem; margin-bottom: 1.5rem; }}
  main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.2rem; }}
  figure {{ margin: 0; border: 1px solid #8884; border-radius: .5rem; overflow: hidden; }}
  figure a {{ display: block; background: #8882; }}
  img {{ width: 100%; height: 15rem; object-fit: contain; display: block; }}
  figcaption {{ padding: .6rem .8rem; overflow-wrap: anywhere; }}
  p {{ margin: 0 0 .3rem; }}
  small {{ opacity: .7; }}
  .failed {{ border-color: #c33; }}
</style>
</head>
<body>
<h1>{title}</h1>
<main>
"""

_TAIL = "</main>\n</body>\n</html>\n"


def gallery_parts(objects: BatchObjects, outcomes: Iterable[Outcome]) -> Iterator[str]:
    """The page piece by piece, so that a large batch never stands in memory. Links are relative to its folder."""
    yield _HEAD.format(title=f"Batch {html.escape(objects.batch_id)}")
    for outcome in outcomes:
        yield _image(objects, outcome) if isinstance(outcome, ImageResult) else _failure(outcome)
    yield _TAIL


def _image(objects: BatchObjects, result: ImageResult) -> str:
    link = "../" + result.key.removeprefix(objects.root)
    negative = f"<p><small>not: {html.escape(result.negative_prompt)}</small></p>" if result.negative_prompt else ""
    return (
        f'<figure><a href="{link}"><img src="{link}" width="{result.width}" height="{result.height}" loading="lazy" '
        f'alt="{html.escape(result.prompt)}"></a><figcaption><p>{html.escape(result.prompt)}</p>{negative}'
        f"<small>{html.escape(result.custom_id)} &middot; {result.width}&times;{result.height} &middot; "
        f"seed {result.seed} &middot; {result.steps} steps &middot; guidance {result.guidance_scale:g}</small>"
        "</figcaption></figure>\n"
    )


def _failure(failure: ImageFailure) -> str:
    return (
        f'<figure class="failed"><figcaption><p>{failure.code.value}</p><p>{html.escape(failure.message)}</p>'
        f"<small>{html.escape(failure.custom_id)} &middot; image {failure.number}</small></figcaption></figure>\n"
    )
