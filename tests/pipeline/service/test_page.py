"""What a person does in a browser: sign in, submit, see pictures arrive, share, cancel; in a real Chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from pipeline.records.tokens import Scope
from pipeline.service.page.tiles import tiles
from tests.browser import CHROMIUM, Tab, browser
from tests.pipeline.service.served import Served

needs_chromium = pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="no Chromium on this machine")


class Person:
    """Somebody at the browser."""

    def __init__(self, tab: Tab, served: Served) -> None:
        self.tab, self.served = tab, served
        tab.ask("Page.enable")

    def sees(self, condition: str, timeout_s: float = 30.0) -> None:
        """Return when a condition of the page holds, given as a script."""
        deadline = time.monotonic() + timeout_s
        while not self.tab.evaluate(f"document.readyState === 'complete' && Boolean({condition})"):
            if time.monotonic() > deadline:
                pytest.fail(f"never: {condition}; the page says {self.tab.evaluate('document.body.innerText')[:500]}")
            time.sleep(0.05)

    def goes_to(self, path: str, sees: str = "true") -> None:
        self.tab.evaluate("window.left = true")
        self.tab.ask("Page.navigate", url=self.served.url + path)
        self.sees(f"window.left === undefined && ({sees})")

    def types(self, where: str, text: str) -> None:
        self.tab.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(where)}); one.value = {json.dumps(text)}; "
            "one.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def drops(self, name: str, text: str) -> None:
        self.tab.evaluate(
            f"(() => {{ const held = new DataTransfer(); held.items.add(new File([{json.dumps(text)}], "
            f"{json.dumps(name)})); window.dispatchEvent(new DragEvent('drop', {{dataTransfer: held}})); }})()"
        )

    def clicks(self, where: str) -> None:
        self.sees(f"document.querySelector({json.dumps(where)})")
        self.tab.evaluate(f"document.querySelector({json.dumps(where)}).click()")

    def signs_in(self) -> None:
        self.goes_to("/batches/nothing", "location.pathname === '/login'")
        self.types("#token", self.served.token)
        self.clicks(".card button")
        self.sees("location.pathname === '/batches/nothing'")

    def problems(self) -> list[str]:
        """What axe finds serious on this page."""
        self.tab.evaluate((files("axe_core_python") / "axe.min.js").read_text() + ";0")
        found: list[str] = self.tab.evaluate(
            "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => `${v.id}: ${v.nodes[0].html.slice(0, 200)}`))"
        )
        return found


@pytest.fixture
def person(served: Served, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path) as tab:
        yield Person(tab, served)


@needs_chromium
@pytest.mark.timeout(240)
def test_a_batch_from_the_form_to_its_pictures_and_a_link_to_them(person: Person) -> None:
    person.signs_in()
    assert "tess_" not in person.tab.evaluate("document.cookie")  # no script can read the session
    person.goes_to("/submit")
    assert person.problems() == []
    person.drops(
        "bad.jsonl", '{"prompt": 1}\n{"prompt": "a", "steps": -1}\n{"prompt": "b", "sampler": "none of ours"}\n'
    )
    person.sees("document.querySelectorAll('.errors tbody tr').length === 3")  # all, before anything is accepted
    person.types("#prompts", "a <img src=x onerror=alert(1)> fox\na harbour")
    person.types("#size", "64x64")
    person.sees("document.querySelector('.estimate').textContent.includes('2 images')")
    with person.served.held():
        person.clicks(".send button")
        person.sees("location.pathname.startsWith('/batches/') && document.querySelectorAll('.tile').length === 2")
        assert person.tab.evaluate("document.querySelectorAll('.tile img').length") == 0
    person.sees("document.querySelectorAll('.tile img').length === 2")  # they come by themselves
    person.sees("document.querySelector('.pill').textContent === 'completed'")
    assert person.problems() == []
    batch_id = person.tab.evaluate("location.pathname").rpartition("/")[2]
    person.clicks("[data-share]")
    person.sees("document.querySelector('dialog[open] input')?.value")
    link = person.tab.evaluate("document.querySelector('#share-url').value").removeprefix(person.served.url)
    person.clicks(".tile")
    person.sees("document.querySelector('.frame img').naturalWidth === 64")
    assert person.tab.evaluate("document.querySelector('.prompt').textContent").startswith("a <img src=x")
    assert person.problems() == []
    person.clicks("[data-again]:not([data-keep-seed])")
    person.sees(f"location.pathname.startsWith('/batches/') && !location.pathname.startsWith('/batches/{batch_id}')")
    person.tab.ask("Network.clearBrowserCookies")
    person.goes_to(link, f"location.pathname === '/shared/{batch_id}' && document.querySelectorAll('.tile img').length")
    person.sees("document.querySelector('.tile img').naturalWidth > 0")
    assert person.tab.evaluate("document.querySelectorAll('[data-act], [data-share]').length") == 0
    person.goes_to(f"/batches/{batch_id}", "location.pathname === '/login'")  # it opens nothing else
    assert person.served.ask("DELETE", f"/api/batches/{batch_id}/share").status == 204
    person.goes_to(f"/shared/{batch_id}", "document.querySelector('[data-error=\"404\"]')")


@needs_chromium
@pytest.mark.timeout(240)
def test_cancel_and_what_an_outage_looks_like(person: Person) -> None:
    person.signs_in()
    with person.served.held():
        rows = [{"prompt": "p", "width": 64, "height": 64}] * 3
        made = person.served.ask("POST", "/api/batches", {"prompts": rows, "labels": {"of": "<b>"}}).json["batch"]
        person.goes_to(f"/batches/{made}", "document.querySelector('[data-confirm]')")
        person.tab.evaluate("window.confirm = () => true")
        person.clicks("[data-confirm]")
        person.sees("document.querySelector('.pill').textContent === 'cancelling'")
    person.sees("document.querySelector('.pill').textContent === 'cancelled'")
    with person.served.without_redis():
        person.sees("!document.querySelector('.outage').hidden")
    person.sees("document.querySelector('.outage').hidden")


def test_pages_are_for_who_has_a_session_of_this_very_site(served: Served) -> None:
    batch = served.ask("POST", "/api/batches", {"prompts": [{"prompt": "<script>", "width": 64, "height": 64}]}).json
    page = served.ask("GET", f"/batches/{batch['batch']}")
    assert page.status == 200
    assert "script-src" in page.headers["content-security-policy"] or "default-src 'self'" in str(page.headers)
    assert b"style=" not in page.body  # which that policy would not let in
    assert b"onclick" not in page.body
    other = served.new_token("two", Scope.READ)
    assert served.ask("GET", f"/batches/{batch['batch']}", token=other).status == 404
    assert served.ask("POST", f"/api/batches/{batch['batch']}/share", token=other).status == 403
    form = f"token={served.token}".encode()
    kind = {"content_type": "application/x-www-form-urlencoded"}
    refused = served.ask("POST", "/login", body=form, token=None, origin="https://evil.example", **kind)
    assert refused.status == 403
    wrong = served.ask("POST", "/login", body=b"token=tess_no&next=//evil.example", token=None, **kind)
    assert wrong.status == 401
    assert b"evil.example" not in wrong.body


def test_tiles_of_rows_with_several_images_are_found_without_reading_them_again(served: Served) -> None:
    rows = [{"prompt": "p", "width": 64, "height": 64, "num_images": n} for n in (2, 1, 3)]
    batch = served.ask("POST", "/api/batches", {"prompts": rows}).json["batch"]
    served.ended(batch)
    manifest = served.stage.ledger.batches.get(batch).manifest
    found = tiles(served.stage.ledger, served.stage.artifacts, manifest, 1, 100)
    assert [one for one, _ in found] == ["0000000-001", "0000001-000", "0000002-000", "0000002-001", "0000002-002"]
    assert {state for _, state in found} == {"succeeded"}
