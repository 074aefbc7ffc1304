"""How soon the page of a batch of 100,000 images can be used, in a headless Chromium."""

import io
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.bucket.artifacts import Artifacts
from pipeline.ledger import Ledger
from pipeline.records.object_keys import BatchObjects
from tests.browser import CHROMIUM, Tab, browser

IMAGES = 100_000
_LOOK_S, _PATIENCE_S = 0.02, 60.0
# Of each place that is looked at, more than a window shows.
_SHOWN = 200

_READY = """(() => {
  const seen = [...document.querySelectorAll('.tile')].filter(one => {
    const at = one.getBoundingClientRect(); return at.bottom > 0 && at.top < innerHeight; });
  return seen.length > 5 && seen.every(one => one.querySelector('img')?.naturalWidth > 0); })()"""


def put_pictures(ledger: Ledger, artifacts: Artifacts, batch_id: str) -> None:
    """Have all images of this batch succeed, and have those be there that will be looked at."""
    redis, keys = ledger.store.redis, ledger.store.keys
    redis.set(keys.images(batch_id), b"\x22" * (IMAGES // 2))  # four bits each: succeeded
    redis.hset(keys.counts(batch_id), mapping={"image.queued": 0, "image.succeeded": IMAGES})
    picture = io.BytesIO()
    noise = random.Random(0).randbytes(32 * 32 * 3)
    Image.frombytes("RGB", (32, 32), noise).resize((256, 256)).save(picture, "JPEG", quality=80)
    for first in (0, IMAGES // 2 - _SHOWN // 2, IMAGES - _SHOWN):
        for row in range(first, first + _SHOWN):
            artifacts.put(BatchObjects(batch_id).thumbnail(row, 0), picture.getvalue(), content_type="image/jpeg")


def page_figures(url: str, token: str, batch_id: str) -> dict[str, Any]:
    """Seconds from opening the page until every picture in the window is there; and after going far down."""
    if shutil.which(CHROMIUM) is None:
        return {"skipped": f"no {CHROMIUM} on this machine"}
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as tab:
        tab.ask("Page.enable")
        tab.ask("Page.navigate", url=f"{url}/login")
        _seconds_until(tab, "Boolean(document.querySelector('#token'))")
        tab.evaluate(f"document.querySelector('#token').value = '{token}'; document.querySelector('form').submit()")
        _seconds_until(tab, "location.pathname === '/' && document.readyState === 'complete'")
        found: dict[str, Any] = {"images": IMAGES}
        for name in ("first_s", "again_s"):
            tab.ask("Page.navigate", url="about:blank")
            _seconds_until(tab, "location.href === 'about:blank'")
            began = time.monotonic()
            tab.ask("Page.navigate", url=f"{url}/batches/{batch_id}")
            _seconds_until(tab, f"location.href !== 'about:blank' && {_READY}")
            found[name] = round(time.monotonic() - began, 2)
        for name, where in (("to_the_middle_s", "/ 2"), ("to_the_end_s", "")):
            began = time.monotonic()
            tab.evaluate(f"scrollTo(0, document.documentElement.scrollHeight {where})")
            _seconds_until(tab, _READY)
            found[name] = round(time.monotonic() - began, 2)
        found["elements"] = tab.evaluate("document.querySelectorAll('*').length")
        return found


def _seconds_until(tab: Tab, condition: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not tab.evaluate(condition):
        if time.monotonic() > deadline:
            raise SystemExit(f"never: {condition}; the page says {tab.evaluate('document.body.innerText')[:300]}")
        time.sleep(_LOOK_S)
