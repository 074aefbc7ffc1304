"""The product as a user runs it: the command in a process of its own, in a home and folder of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESSERA = Path(sys.executable).with_name("tessera")
EXAMPLES = ROOT / "examples" / "prompts.jsonl"


@dataclass(frozen=True)
class User:
    """Somebody with an empty home, a folder to work in and a data folder; every process of theirs carries a mark."""

    folder: Path
    data_dir: Path
    mark: str
    program: Path = TESSERA

    @property
    def environment(self) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("TESSERA_", "AWS_", "PYTHONPATH"))}
        return kept | {
            "HOME": str(self.folder),
            "TESSERA_DATA_DIR": str(self.data_dir),
            "OMP_NUM_THREADS": "1",
            "TEST_MARK": self.mark,
        }

    def command(self, *arguments: str | Path, program: Path | None = None) -> list[str]:
        return [str(program or self.program), *map(str, arguments)]

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start `tessera ARGUMENTS` and return at once."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run `tessera ARGUMENTS` to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment | dict(environment or {}),
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str | Path) -> Any:
        """What `tessera ARGUMENTS --json` writes, which must succeed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def manifest(self, name: str, *rows: Mapping[str, Any]) -> Path:
        """A prompt set of these rows in the user's folder."""
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def processes(self) -> dict[int, str]:
        """Every living process that this user started, or that works in their data folder: pid and command line."""
        needle = f"TEST_MARK={self.mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                marked = needle in (entry / "environ").read_bytes().split(b"\0")
                marked |= (entry / "cwd").resolve().is_relative_to(self.data_dir)  # the servers get a clean environment
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
            if marked and command:  # a zombie has no command line
                found[int(entry.name)] = command
        return found


def until(what: str, true: Callable[[], Any], timeout_s: float = 600) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.05)
    return found
