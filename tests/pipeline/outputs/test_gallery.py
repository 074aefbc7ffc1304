"""The pages to look at a batch's images."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from pipeline.outputs.gallery.pages import gallery_pages
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageOutcome, ImageResult, failure_of
from pipeline.records.shards import ImageTask
from tests.factories import image_result, resolved_row

OBJECTS = BatchObjects("b")
HOSTILE = '"><script>alert(1)</script>{title}%s'


def _image(row: int = 0) -> ImageResult:
    row_ = resolved_row(row, prompt=HOSTILE, negative_prompt=HOSTILE, custom_id=HOSTILE)
    return image_result(ImageTask(row_, 0))


def _failed(row: int, message: str = "why", *, retryable: bool = True) -> ImageFailure:
    return failure_of(ImageTask(resolved_row(row), 0), FailureCode.BLACK, message, retryable=retryable)


def _pages(outcomes: list[ImageOutcome], per_page: int = 100) -> dict[str, str]:
    return {key: "".join(pieces) for key, pieces in gallery_pages(OBJECTS, outcomes, per_page)}


def _page(*outcomes: ImageOutcome) -> str:
    (text,) = _pages(list(outcomes)).values()
    return text


def test_hostile_text_is_text_and_links_stay_within_the_folder() -> None:
    text = _page(_image(), _failed(1, message=HOSTILE))
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;{title}%s") == 5
    assert '<a href="../images/00000/0000000-000.png"><img src="../thumbnails/00000/0000000-000.jpg"' in text
    assert "http" not in text.replace("http-equiv", "")  # nothing from elsewhere


def test_the_policy_allows_the_one_script_by_its_digest_and_nothing_else() -> None:
    text = _page(_image())
    script = re.search("<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-%s'"
    assert f'content="{policy % digest}"' in text


def test_an_image_of_before_thumbnails_shows_itself() -> None:
    text = _page(_image().model_copy(update={"thumbnail": None}))
    assert '<img src="../images/00000/0000000-000.png"' in text


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_shows_its_code_its_reason_and_whether_a_retry_may_mend_it(retryable: bool) -> None:
    text = _page(_failed(0, "one colour", retryable=retryable))
    assert "failed: E_BLACK" in text
    assert "one colour" in text
    assert ("tessera retry may mend it" in text) is retryable


@pytest.mark.parametrize(("images", "per_page"), [(5, 2), (4, 2), (1, 1), (7, 100)])
def test_every_image_is_on_one_page_and_the_pages_are_linked(images: int, per_page: int) -> None:
    pages = _pages([_failed(row) if row % 2 else _image(row) for row in range(images)], per_page)
    count = -(-images // per_page)
    names = ["index.html", *(f"page-{number:04d}.html" for number in range(2, count + 1))]
    assert [key.removeprefix("batches/b/gallery/") for key in pages] == names
    texts = list(pages.values())
    assert sum(text.count("<figure") for text in texts) == images
    for at, text in enumerate(texts):
        wanted = {names[near] for near in (at - 1, at + 1) if 0 <= near < count}
        assert set(re.findall(r'<a href="([a-z0-9-]+\.html)"', text)) == wanted


def test_a_page_without_images_is_a_page() -> None:
    text = _page()
    assert "<title>Batch b</title>" in text
    assert text.endswith("</html>\n")
