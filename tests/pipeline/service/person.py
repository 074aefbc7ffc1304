"""Somebody at a browser who uses the page, for tests with a real Chromium."""

from __future__ import annotations

import json
import shutil
import time
from datetime import timedelta
from importlib.resources import files

import pytest

from pipeline.operations.tokens import create_sign_in
from pipeline.records.tokens import Scope
from tests.browser import CHROMIUM, Tab
from tests.pipeline.service.served import Served

needs_chromium = pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="no Chromium on this machine")


class Person:
    """Somebody at the browser."""

    def __init__(self, tab: Tab, served: Served) -> None:
        self.tab, self.served = tab, served
        tab.ask("Page.enable")

    def sees(self, condition: str, timeout_s: float = 300.0) -> None:
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

    def picks(self, where: str, picture: bytes) -> None:
        self.tab.evaluate(
            f"(() => {{ const held = new DataTransfer(); held.items.add(new File([new Uint8Array({list(picture)})], "
            f"'room.png', {{type: 'image/png'}})); const one = document.querySelector({json.dumps(where)}); "
            "one.files = held.files; one.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def clicks(self, where: str) -> None:
        self.sees(f"document.querySelector({json.dumps(where)})")
        self.tab.evaluate(f"document.querySelector({json.dumps(where)}).click()")

    def signs_in(self, token: str = "") -> None:
        self.goes_to("/batches/nothing", "location.pathname === '/login'")
        self.types("#token", token or self.served.token)
        self.clicks(".card button")
        self.sees("location.pathname === '/batches/nothing'")

    def follows_the_link_of_the_stack(self) -> None:
        text = create_sign_in(self.served.stage.ledger, "one", (Scope.ADMIN,), life=timedelta(minutes=1))
        self.goes_to(f"/sign-in#{text}", "location.pathname === '/'")

    def problems(self) -> list[str]:
        """What axe finds serious on this page."""
        self.tab.evaluate((files("axe_core_python") / "axe.min.js").read_text() + ";0")
        found: list[str] = self.tab.evaluate(
            "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => `${v.id}: ${v.nodes[0].html.slice(0, 200)}`))"
        )
        return found
