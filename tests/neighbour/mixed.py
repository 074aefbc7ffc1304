"""One deployment whose processes are of two versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

from embedded.services.services import Services
from pipeline.deployment.settings import default_of, variable_name
from tests.faults.deployment import Deployment

_COMMAND = "import sys; from pipeline.cli import main; sys.exit(main())"


class Version(Enum):
    """Which code a process runs."""

    OLDER = "older"
    NEWER = "newer"


class Mixed(Deployment):
    """A deployment that starts workers, nodes and clients of either version."""

    def __init__(self, folder: Path, services: Services, model: Path, older: Path) -> None:
        small: dict[str, Any] = {"gpus": 1, "layout": "1x1x1", "images_per_job": 3, "observe_s": 0.2, "tick_s": 1.0}
        # The version before knows of no engines that wait, so nobody chooses how long they do.
        super().__init__(folder, services, model, **small, warm_s=default_of("warm_s"))
        self._older = older

    def start_of(self, version: Version, *names: str) -> None:
        """Start parts by name, as `start` does."""
        if version is Version.NEWER:
            self.start(*names)
            return
        for name in names:
            # Only from here on: what starts it, and sees that it ends with the test, is ours.
            unset = [part for variable in self._defaults() for part in ("-u", variable)]
            older = ["env", *unset, f"PYTHONPATH={self._older}", sys.executable, "-P", "-m"]
            node = ["tasks.embedded.node", "--data-dir", str(self.folder)]
            self.start_one(name, [*older, *(node if name == "node" else self.module(name))])

    def _defaults(self) -> list[str]:
        """Variables of settings that nobody chose: the version before has defaults of its own, or none."""
        fields = type(self.settings).model_fields
        return [variable_name(name) for name in fields if getattr(self.settings, name) == default_of(name)]

    def tessera(self, version: Version, *arguments: str | Path) -> str:
        """What the command of that version writes; it must succeed, or end with 3: some images failed."""
        environment = self.settings.environment() | self.services.credentials | {"PATH": os.environ["PATH"]}
        if version is Version.OLDER:
            for variable in self._defaults():
                environment.pop(variable, None)
            environment["PYTHONPATH"] = str(self._older)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _COMMAND, *map(str, arguments)],
            env=environment,
            cwd=self.folder,
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert done.returncode in {0, 3}, done.stderr
        return done.stdout

    def json(self, version: Version, *arguments: str | Path) -> Any:
        """What it says with --json."""
        return json.loads(self.tessera(version, *arguments, "--json"))
