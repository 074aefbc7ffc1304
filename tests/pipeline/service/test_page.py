"""What a person does in a browser: sign in, submit, see pictures arrive, share, cancel; in a real Chromium."""

from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from PIL import Image

from pipeline.deployment.allowed import AllowedControlNet
from pipeline.operations.tokens import create_sign_in
from pipeline.records.tokens import Scope
from pipeline.service.page.tiles import found_tiles, tiles
from pipeline.states import ImageState
from tests.pipeline.service.person import Person, needs_chromium
from tests.pipeline.service.served import Answer, Served


@needs_chromium
def test_a_batch_from_the_form_to_its_pictures_and_a_link_to_them(person: Person) -> None:
    person.signs_in()
    assert "tess_" not in person.tab.evaluate("document.cookie")  # no script can read the session
    person.goes_to("/submit")
    assert person.problems() == []
    person.drops(
        "bad.jsonl", '{"prompt": 1}\n{"prompt": "a", "steps": -1}\n{"prompt": "b", "sampler": "none of ours"}\n'
    )
    person.sees("document.querySelectorAll('.errors tbody tr').length === 3")  # all, before anything is accepted
    person.drops("own.jsonl", '{"prompt": "a (red:1.3) hill", "steps": 9, "size": "64x64"}\n{"prompt": "b"}\n')
    person.types("#steps", "3")
    person.sees(
        "document.querySelector('.notes:not([hidden])')?.textContent.startsWith('steps: 1 of 2 rows say their own')"
    )
    person.sees("document.querySelector('.notes').textContent.includes('Line 1: prompt: ')")  # looks like syntax
    assert person.problems() == []
    person.clicks("#override")
    person.sees("!document.querySelector('.notes').textContent.includes('steps')")
    person.clicks("#override")
    person.types("#steps", "")
    person.types("#prompts", "a <img src=x onerror=alert(1)> fox\na harbour")
    person.types("#size", "64x64")
    person.sees("document.querySelector('.estimate').textContent.includes('2 images')")
    with person.served.held():
        person.clicks(".send button")
        person.sees("location.pathname.startsWith('/batches/') && document.querySelectorAll('.tile').length === 2")
        assert person.tab.evaluate("document.querySelectorAll('.tile img').length") == 0
        person.types(".search select", "succeeded")
        person.sees("/^0 images/.test($('[data-found]').textContent)")
    person.sees("document.querySelectorAll('.tile img').length === 2")  # they come by themselves, to a search, too
    person.sees("/^2 images/.test($('[data-found]').textContent)")
    person.types(".search select", "")
    person.sees("document.querySelector('.pill')?.textContent === 'completed'")
    assert person.problems() == []
    batch_id = person.tab.evaluate("location.pathname").rpartition("/")[2]
    person.types(".search input", "HARB")
    person.sees("document.querySelectorAll('.tile').length === 1 && /^1 image/.test($('[data-found]').textContent)")
    person.types(".search input", "<img src=")
    person.sees("document.querySelector('.tile').dataset.id === '0000000-000'")
    person.types(".search select", "failed")
    person.sees("document.querySelectorAll('.tile').length === 0")
    person.types(".search select", "")
    person.types(".search input", "")
    person.sees("document.querySelectorAll('.tile img').length === 2")
    person.clicks("[data-dialog='#share']")
    person.types("#share-hours", "24")
    assert person.problems() == []
    person.clicks("[data-share]")
    person.sees("document.querySelector('#share-url').value")
    link = person.tab.evaluate("document.querySelector('#share-url').value").removeprefix(person.served.url)
    person.clicks(".tile")
    person.sees("document.querySelector('.frame img')?.naturalWidth === 64")
    assert person.tab.evaluate("document.querySelector('.prompt').textContent").startswith("a <img src=x")
    assert person.problems() == []
    person.clicks("[data-again]:not([data-longer-side])")
    person.sees(f"location.pathname.startsWith('/batches/') && !location.pathname.startsWith('/batches/{batch_id}')")
    person.tab.ask("Network.clearBrowserCookies")
    person.goes_to(link, f"location.pathname === '/shared/{batch_id}' && document.querySelectorAll('.tile img').length")
    person.sees("document.querySelector('.tile img')?.naturalWidth > 0")
    assert person.tab.evaluate("document.querySelectorAll('[data-act], [data-share]').length") == 0
    person.goes_to(f"/batches/{batch_id}", "location.pathname === '/login'")  # it opens nothing else
    assert person.served.ask("DELETE", f"/api/batches/{batch_id}/share").status == 204
    person.goes_to(f"/shared/{batch_id}", "document.querySelector('[data-error=\"404\"]')")


@needs_chromium
def test_pictures_to_begin_with_and_to_steer_by_are_said_in_the_form(person: Person) -> None:
    ledger = person.served.stage.ledger
    announced = ledger.deployment()
    nets = {"edges": AllowedControlNet(), "old": AllowedControlNet(base="Stable Diffusion 1.x")}
    ledger.announce(announced.model_copy(update={"controlnets": nets}))
    try:
        person.signs_in()
        person.goes_to("/submit")
        person.clicks("details summary")
        assert person.problems() == []
        assert person.tab.evaluate("[...document.querySelectorAll('#net option')].map(one => one.text)") == [
            "none",
            "edges",
        ]
        person.types("#prompts", "a house")
        fields = "[...document.querySelectorAll('.errors tbody td:nth-child(2)')].map(one => one.textContent)"
        person.types("#image", "batch://nothing/house")
        person.sees(f"String({fields}) === 'image'")
        person.types("#image", "")
        person.picks("[data-picture='#image']", b"<html>")
        person.sees("document.querySelector('#image').value.startsWith('upload://file-')")
        person.sees(f"String({fields}) === 'image'")
        picture = io.BytesIO()
        Image.new("RGB", (64, 128), (255, 0, 0)).save(picture, "PNG")
        person.picks("[data-picture='#image']", picture.getvalue())
        person.sees("document.querySelector('.estimate').textContent.startsWith('1 images')")
        assert person.problems() == []
        person.types("#image", "")
        person.types("#net", "edges")
        person.types("#map", "batch://nothing/house")
        person.types("#net-scale", "0.7")
        person.sees(f"String({fields}) === 'control.0.image'")
        person.types("#map", "")
        person.sees(f"String({fields}).startsWith('control')")  # of a network without a picture
        assert person.problems() == []
    finally:
        ledger.announce(announced)


@needs_chromium
def test_cancel_and_what_an_outage_looks_like(person: Person) -> None:
    person.follows_the_link_of_the_stack()
    with person.served.held():
        rows = [{"prompt": "p", "width": 64, "height": 64}] * 3
        made = person.served.ask("POST", "/api/batches", {"prompts": rows, "labels": {"of": "<b>"}}).json["batch"]
        person.goes_to(f"/batches/{made}", "document.querySelector('[data-confirm]')")
        person.clicks("[data-dialog='#priority']")
        person.types("#priority-now", "2")
        person.clicks("[data-priority]")
        person.sees("document.querySelector('[data-dialog=\"#priority\"]').textContent === 'Priority 2'")
        person.clicks("[data-act$='/pause']")
        person.clicks("[data-act$='/unpause']")
        person.tab.evaluate("window.confirm = () => true")
        person.clicks("[data-confirm]")
        person.sees("document.querySelector('.pill')?.textContent === 'cancelling'")
    person.sees("document.querySelector('.pill')?.textContent === 'cancelled'")
    with person.served.without_redis():
        person.sees("!document.querySelector('.outage').hidden")
    person.sees("document.querySelector('.outage').hidden")


@needs_chromium
def test_a_picture_is_copied_and_made_again_and_schedules_and_workers_are_seen(person: Person) -> None:
    served = person.served
    row = {"prompt": "a hill", "width": 64, "height": 128, "seed": 7, "custom_id": "hill"}
    served.ask("POST", "/api/batches", {"prompts": [row], "batch_id": "copied"})
    served.ended("copied")
    person.follows_the_link_of_the_stack()
    person.goes_to("/batches/copied/images/0000000-000", "document.querySelector('.frame img')?.complete")
    person.tab.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }; 0")
    person.clicks(".side [data-copy]")
    person.sees("window.copied === 'a hill'")
    person.clicks(".side [data-copy] + [data-copy]")
    person.sees("window.copied.startsWith('{')")
    copied = json.loads(person.tab.evaluate("window.copied"))
    assert (copied["custom_id"], copied["seed"], copied["height"]) == ("hill", 7, 128)
    with served.held():
        person.clicks("[data-longer-side]")
        person.sees("location.pathname.startsWith('/batches/') && !location.pathname.includes('copied')")
        large = person.tab.evaluate("location.pathname").rpartition("/")[2]
        again = json.loads(served.ask("GET", f"/api/batches/{large}/rows").body)
        assert (again["width"], again["height"], again["seed"]) == (2048, 4096, 7)
        person.tab.evaluate("window.confirm = () => true")
        person.clicks("[data-confirm]")
        person.sees("document.querySelector('.pill')?.textContent === 'cancelling'")
    person.clicks("[data-act$='/retry']")  # once it is cancelled
    person.sees("!document.querySelector(\"[data-act$='/retry']\")")
    served.ask("POST", f"/api/batches/{large}/cancel")

    served.stage.artifacts.put("prompts/one/p.jsonl", b'{"prompt": "x"}\n', content_type="text/plain")
    spec = {"cron": "0 3 * * *", "prompts": f"{served.stage.artifacts.root}prompts/one/p.jsonl"}
    assert served.ask("PUT", "/api/schedules/seen", {"spec": spec}).status == 200
    person.goes_to("/schedules", "document.querySelectorAll('section[aria-label=seen] time').length === 6")
    assert person.problems() == []
    person.clicks("section[aria-label=seen] [data-act$='/pause']")
    person.sees("document.querySelector('section[aria-label=seen] .pill').textContent === 'paused'")
    person.goes_to("/workers", "document.querySelector('th[scope=row]')?.textContent === 'one'")
    assert person.problems() == []


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


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nothing", 404, b"This is not there"),
        ("POST", "/login", 422, b"token: Field required"),
        ("GET", "/logout", 405, b"This is not possible"),
    ],
)
def test_a_browser_is_shown_a_page_where_there_is_none(
    served: Served, method: str, path: str, status: int, says: bytes
) -> None:
    shown = served.ask(method, path, accept="text/html,*/*;q=0.8")
    assert (shown.status, shown.headers.get_content_type(), says in shown.body) == (status, "text/html", True)
    for accept in ("application/json", "*/*"):  # the page's script, a program
        assert served.ask(method, path, accept=accept).error["type"]
    assert served.ask(method, f"/api{path}", accept="text/html").headers.get_content_type() == "application/json"


def test_a_link_of_the_local_stack_signs_in_once(served: Served) -> None:
    def post(secret: str, **headers: str) -> Answer:
        return served.ask("POST", "/sign-in", {"secret": secret}, token=None, accept="application/json", **headers)

    text = create_sign_in(served.stage.ledger, "one", (Scope.READ,), life=timedelta(minutes=1))
    assert post(text, origin="https://evil.example").status == 403
    found = post(text)
    assert (found.status, found.json) == (200, {"to": "/"})
    assert {"HttpOnly", "SameSite=strict"} <= set(found.headers["set-cookie"].split("; "))
    cookie = found.headers["set-cookie"].partition(";")[0]
    assert served.ask("GET", "/api/whoami", token=None, cookie=cookie).json["tenant"] == "one"
    again = post(text)
    assert (again.status, again.error["code"]) == (404, "NotFound")
    assert post("0" * 12 + "_" + "x" * 43).status == post("nothing").status == 404
    elsewhere = served.connection.settings.model_copy(update={"launcher": "kubernetes"})
    with served.with_settings(elsewhere):
        fresh = create_sign_in(served.stage.ledger, "one", (Scope.READ,), life=timedelta(minutes=1))
        assert post(fresh).status == 404


def test_tiles_of_rows_with_several_images_are_found_without_reading_them_again(served: Served) -> None:
    rows = [{"prompt": "p", "width": 64, "height": 64, "num_images": n} for n in (2, 1, 3)]
    batch = served.ask("POST", "/api/batches", {"prompts": rows}).json["batch"]
    served.ended(batch)
    manifest = served.stage.ledger.batches.get(batch).manifest
    where = (served.stage.ledger, served.stage.artifacts, manifest)
    found = tiles(*where, 1, 100)
    assert [one for one, _ in found] == ["0000000-001", "0000001-000", "0000002-000", "0000002-001", "0000002-002"]
    assert {state for _, state in found} == {"succeeded"}


@pytest.mark.parametrize(
    ("text", "state", "found"),
    [
        ("", None, [0, 1, 2, 3]),
        ("", ImageState.SUCCEEDED, [0, 1, 2, 3]),
        ("", ImageState.FAILED, []),
        ("FOX", None, [0, 1]),
        ("straße", None, [2]),
        ("STRASSE", None, [2]),
        ('say "hi"', None, [2]),
        ("fog", ImageState.SUCCEEDED, [3]),
        ("my-na", None, [3]),
        ("width", None, []),
        ("negative_prompt", None, []),
        (".*", None, []),
    ],
)
def test_search_finds_texts_of_rows_in_any_case(
    served: Served, searched: str, text: str, state: ImageState | None, found: list[int]
) -> None:
    manifest = served.stage.ledger.batches.get(searched).manifest
    images = found_tiles(served.stage.ledger, served.stage.artifacts, manifest, text, state)
    assert [index for _, _, index, _ in images] == found


@pytest.fixture(scope="module")
def searched(served: Served) -> str:
    rows = [
        {"prompt": "a fox", "num_images": 2},
        {"prompt": 'a STRASSE, say "hi"'},
        {"prompt": "x", "negative_prompt": "Fog", "custom_id": "my-name"},
    ]
    made = served.ask("POST", "/api/batches", {"prompts": rows, "options": {"size": "64x64"}}).json["batch"]
    served.ended(made)
    return str(made)
