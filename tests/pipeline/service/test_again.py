"""An image is made again from its record: exactly, with another seed, larger, and for the tenant whose it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.records.tokens import EVERY_TENANT, Scope
from tests.pipeline.service.person import Person, needs_chromium
from tests.pipeline.service.served import Served

LARGE = 2**53 + 1  # the least whole number that JavaScript does not hold
IMAGE = "/images/0000000-000"


@pytest.fixture(scope="module")
def rendered(served: Served) -> str:
    """An image of tenant `one` with numbers that are too large for a browser."""
    row = {"prompt": "a hill", "width": 64, "height": 128, "seed": LARGE, "metadata": {"order": LARGE}}
    served.ask("POST", "/api/batches", {"prompts": [row], "batch_id": "rendered"})
    served.ended("rendered")
    return "rendered"


def _only_row(served: Served, batch_id: str) -> Any:
    return json.loads(served.ask("GET", f"/api/batches/{batch_id}/rows").body)


def test_an_image_is_made_again_as_it_was_larger_or_with_another_seed(served: Served, rendered: str) -> None:
    path = f"/api/batches/{rendered}{IMAGE}/again"
    with served.held():
        answers = [served.ask("POST", path, wanted) for wanted in (None, {"longer_side": 4096}, {"seed": LARGE + 2})]
        rows = [_only_row(served, answer.json["batch"]) for answer in answers]
        for answer in answers:
            served.ask("POST", f"/api/batches/{answer.json['batch']}/cancel")
    assert [answer.status for answer in answers] == [201] * 3
    assert [(row["width"], row["height"], row["seed"]) for row in rows] == [
        (64, 128, LARGE),
        (2048, 4096, LARGE),
        (64, 128, LARGE + 2),
    ]
    assert {row["metadata"]["order"] for row in rows} == {LARGE}


def test_an_image_is_made_again_once_for_one_key(served: Served, rendered: str) -> None:
    with served.held():
        asked = [served.ask("POST", f"/api/batches/{rendered}{IMAGE}/again", {}, idempotency_key="k") for _ in range(2)]
    assert [answer.status for answer in asked] == [201, 200]
    assert asked[0].json["batch"] == asked[1].json["batch"]


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({"seed": 2**63}, 422, "seed"),
        ({"longer_side": 63}, 422, "longer_side"),
        ({"longer_side": 10**400}, 422, "longer_side"),
        ({"steps": 3}, 422, "steps"),
    ],
)
def test_what_cannot_be_other_is_refused(
    served: Served, rendered: str, wanted: dict[str, int], status: int, message: str
) -> None:
    answer = served.ask("POST", f"/api/batches/{rendered}{IMAGE}/again", wanted)
    assert (answer.status, message in answer.body.decode()) == (status, True)


def test_only_who_may_submit_for_its_tenant_makes_an_image_again(served: Served, rendered: str) -> None:
    path = f"/api/batches/{rendered}{IMAGE}/again"
    assert served.ask("POST", path, {}, token=served.new_token("two")).status == 404
    assert served.ask("POST", path, {}, token=served.new_token("one", Scope.READ)).status == 403
    assert served.ask("POST", path.replace("-000", "-009"), {}).status == 404
    with served.held():
        answer = served.ask("POST", path, {}, token=served.new_token(EVERY_TENANT))
    assert answer.json["tenant"] == "one"


@needs_chromium
def test_an_operator_makes_a_tenants_picture_again_in_the_browser(person: Person, rendered: str) -> None:
    served = person.served
    person.signs_in(served.new_token(EVERY_TENANT))
    for button, seed in (("[data-longer-side]", LARGE), ("[data-again]:not([data-longer-side])", None)):
        person.goes_to(f"/batches/{rendered}{IMAGE}")
        with served.held():
            person.clicks(button)
            person.sees(f"location.pathname.startsWith('/batches/') && !location.pathname.includes('{rendered}')")
            made = person.tab.evaluate("location.pathname").rpartition("/")[2]
            row = _only_row(served, made)  # with the token of tenant `one`
            served.ask("POST", f"/api/batches/{made}/cancel")
        assert row["metadata"] == {"order": LARGE}
        assert row["seed"] == seed if seed else row["seed"] < 2**31
