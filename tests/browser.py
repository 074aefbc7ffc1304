"""A headless Chromium, driven over the pipe of its DevTools protocol; nothing to install beside it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "chromium"
WINDOW = (1400, 900)


class Tab:
    """A page of a browser, over the pipe of the DevTools protocol: JSON texts that end in a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", buffering=0), os.fdopen(answers, "rb", buffering=0)
        self._rest = b""
        self._ids = itertools.count(1)
        self._session: str | None = None
        self._events: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command. Raises RuntimeError."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._events.append(answer.get("method", ""))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str) -> Any:
        """What an expression gives, awaited if it is a promise."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def await_event(self, method: str) -> None:
        """Return when such an event has come."""
        while method not in self._events:
            self._events.append(self._next().get("method", ""))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = self._answers.read(1 << 16)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A headless Chromium with one empty page; it reads commands from descriptor 3 and writes answers to 4."""
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    with subprocess.Popen(
        [
            *("bash", "-c", f'exec "$@" 3<&{command_end} 4>&{answer_end}', "bash"),
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *(f"--user-data-dir={profile}", f"--window-size={WINDOW[0]},{WINDOW[1]}"),
        ],
        pass_fds=(command_end, answer_end),
        stderr=subprocess.DEVNULL,
    ) as browser:
        os.close(command_end)
        os.close(answer_end)
        try:
            yield Tab(commands, answers)
        finally:
            browser.terminate()
