"""The gallery of a large batch in headless Chromium, driven over its debugging pipe: does it choke?"""

import base64
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.bucket.thumbnail import thumbnail
from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageOutcome, failure_of
from pipeline.records.shards import ImageTask
from tests.browser import Tab, browser
from tests.factories import image_result, resolved_row

BATCH = "gallery"

# Resolves when the browser has painted what was changed before.
_PAINTED = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"


def opened(images: int, screenshot: Path) -> dict[str, Any]:
    """Milliseconds and megabytes of opening a page of so many images, filtering it and going to its end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = _page(Path(folder), images)
        with browser(Path(folder) / "profile") as tab:
            tab.ask("Page.enable")
            began = time.monotonic()
            tab.ask("Page.navigate", url=page.as_uri())
            tab.await_event("Page.loadEventFired")
            tab.evaluate(f"(async () => {{ {_PAINTED} }})()")
            loaded_s = time.monotonic() - began
            shown = tab.evaluate("document.querySelectorAll('figure').length")
            assert shown == images, shown
            first = tab.evaluate("document.images[0].complete && document.images[0].naturalWidth > 0")
            assert first is True
            filter_ms = tab.evaluate(_filter("lanterns 17"))
            left = tab.evaluate("[...document.querySelectorAll('figure')].filter(one => !one.hidden).length")
            assert tab.evaluate("document.querySelector('output').value") == f"{left} of {images}"
            tab.evaluate(_filter(""))
            end_ms = tab.evaluate(
                f"(async () => {{ const began = performance.now(); scrollTo(0, document.body.scrollHeight); {_PAINTED} "
                "return performance.now() - began; })()"
            )
            tab.evaluate("scrollTo(0, 0)")
            tab.evaluate(f"(async () => {{ {_PAINTED} }})()")
            _save(tab, screenshot)
            return {
                "images": images,
                "page_mb": round(page.stat().st_size / 1e6, 1),
                "loaded_s": round(loaded_s, 2),
                "filter_ms": round(filter_ms),
                "found": left,
                "end_ms": round(end_ms),
                "heap_mb": round(tab.evaluate("performance.memory.usedJSHeapSize") / 1e6, 1),
            }


def _filter(words: str) -> str:
    """Types into the box; milliseconds until the page shows the answer, without the pause for further typing."""
    return (
        "(async () => { const box = document.querySelector('input'), count = document.querySelector('output');"
        f"count.value = 'waits'; box.value = {json.dumps(words)}; box.dispatchEvent(new Event('input'));"
        "const began = performance.now();"
        "while (count.value === 'waits') await new Promise(done => setTimeout(done, 1));"
        f"{_PAINTED} return performance.now() - began - 150; }})()"
    )


def _page(folder: Path, images: int) -> Path:
    """A downloaded batch: pages as the product writes them, thumbnails in a few colours, some images failed."""
    objects = BatchObjects(BATCH)
    colours = [thumbnail(Image.new("RGB", (320, 320), f"hsl({hue}, 60%, 55%)")) for hue in range(0, 360, 10)]

    def outcomes() -> Iterator[ImageOutcome]:
        for number, place in zip(range(images), itertools.cycle(range(len(colours))), strict=False):
            prompt = f"a market street lit by lanterns, watercolour, long shadows, study {number} of a series"
            task = ImageTask(resolved_row(number, prompt=prompt, negative_prompt="blurry", width=320, height=320), 0)
            if number % 50 == 49:
                yield failure_of(task, FailureCode.BLACK, "the picture is of one colour", retryable=True)
                continue
            result = image_result(task, BATCH)
            small = folder / str(result.thumbnail).removeprefix(objects.root)
            small.parent.mkdir(parents=True, exist_ok=True)
            small.write_bytes(colours[place])
            yield result

    for key, pieces in gallery_pages(objects, outcomes()):
        path = folder / key.removeprefix(objects.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
    return folder / objects.gallery.removeprefix(objects.root)


def _save(tab: Tab, path: Path) -> None:
    answer = tab.ask("Page.captureScreenshot", format="jpeg", quality=60)
    path.write_bytes(base64.b64decode(answer["data"]))
