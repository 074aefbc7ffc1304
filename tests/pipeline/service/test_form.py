"""The form in a browser: whom it acts for, and what it sends."""

from __future__ import annotations

import json

from pipeline.records.tokens import EVERY_TENANT
from tests.pipeline.service.person import Person, needs_chromium


@needs_chromium
def test_the_form_acts_for_the_tenant_that_an_operator_names(person: Person) -> None:
    person.signs_in(person.served.new_token(EVERY_TENANT))
    person.goes_to("/submit")
    person.types("#tenant", "one")
    person.drops("p.txt", "a fox\n")
    person.sees("document.querySelector('.estimate').textContent.includes('1 images')")
    person.types("#tenant", "two")
    person.tab.evaluate("document.querySelector('#tenant').dispatchEvent(new Event('change'))")
    person.types("#size", "64x128")
    person.sees("document.querySelector('.estimate').textContent.includes('1 images')")
    with person.served.held():
        person.clicks(".send button")
        person.sees("location.pathname.startsWith('/batches/')")
    made = person.tab.evaluate("location.pathname").rpartition("/")[2]
    token = person.served.new_token("two")
    assert person.served.ask("GET", f"/api/batches/{made}", token=token).json["tenant"] == "two"


@needs_chromium
def test_a_file_is_submitted_for_the_tenant_that_was_named_last(person: Person) -> None:
    person.signs_in(person.served.new_token(EVERY_TENANT))
    person.goes_to("/submit")
    person.types("#prompts", "what the file replaces")
    person.drops("p.txt", "a fox\na hill\n")
    person.sees("document.querySelector('.estimate').textContent.includes('2 images')")
    person.types("#tenant", "two")
    with person.served.held():
        person.tab.evaluate(
            "document.querySelector('#tenant').dispatchEvent(new Event('change')); "
            "document.querySelector('.send button').click()"  # at once, as who types the name last
        )
        person.sees("location.pathname.startsWith('/batches/')")
    made = person.tab.evaluate("location.pathname").rpartition("/")[2]
    found = person.served.ask("GET", f"/api/batches/{made}", token=person.served.new_token("two")).json
    assert (found["tenant"], found["total"]) == ("two", 2)


@needs_chromium
def test_the_form_refuses_numbers_that_a_browser_would_change(person: Person) -> None:
    person.signs_in()
    person.goes_to("/submit")
    person.types("#prompts", "a fox")
    person.types("#seed", str(2**53 + 1))
    says = f"Seed: {2**53 + 1} found; at most {2**53 - 1} wanted here"
    person.sees(f"document.querySelector('.errors tbody').textContent.includes({json.dumps(says)})")
    person.tab.evaluate("document.querySelector('.errors').hidden = true")
    person.clicks(".send button")
    person.sees("!document.querySelector('.errors').hidden")
    person.types("#seed", str(2**53 - 1))
    person.sees("document.querySelector('.estimate').textContent.includes('1 images')")
