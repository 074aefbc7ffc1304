"""The measurements on a GPU: what goes wrong in one costs itself only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.engine.gpu.__main__ as gpu
from benchmarks.engine.gpu import page
from benchmarks.engine.gpu.__main__ import PARTS, measured
from benchmarks.engine.gpu.bench import Bench, Row
from benchmarks.engine.gpu.process import rows_of

ROOT = Path(__file__).parents[2]
BENCH = Bench(small=True, repeats=1, link_gb_s=300.0)


def test_a_part_whose_process_fails_says_so() -> None:
    (row,) = rows_of("no_such_part", BENCH, limit_s=200.0)
    assert row == {"failed": "the process ended with exit code 1"}


def test_a_part_that_takes_too_long_is_stopped() -> None:
    (row,) = rows_of("one_rank", BENCH, limit_s=0.0)
    assert row == {"failed": "stopped after 0 s, its share of the time"}


def test_a_row_that_fails_keeps_what_it_is_about() -> None:
    def works() -> Row:
        return {"ms": 1.5}

    def runs_out() -> Row:
        raise MemoryError("64 GB wanted\nand more")

    rows = [*BENCH.guarded({"pixels": 1024}, works), *BENCH.guarded({"pixels": 3840}, runs_out)]
    assert rows == [{"pixels": 1024, "ms": 1.5}, {"pixels": 3840, "failed": "MemoryError: 64 GB wanted"}]
    machine = {"device": "a GPU", "torch": "2.11", "measured": "today"}
    text = page.markdown({"one_rank": {"machine": machine, "rows": rows}})
    assert "| 3840 |  | MemoryError: 64 GB wanted |" in text


# Reads no file but those of the distributions that it is given, and of what these need: as on a machine with no others.
_IMPORTS = """
import importlib, sys, sysconfig
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from packaging.requirements import Requirement

*left, part = sys.argv[1:]
there = set()
while left:
    name = left.pop().lower().replace("_", "-")
    try:
        needs = requires(name) or []
    except PackageNotFoundError:
        continue
    if name not in there:
        there.add(name)
        left += [one.name for one in map(Requirement, needs) if one.marker is None or one.marker.evaluate()]
modules = {
    module for module, names in packages_distributions().items()
    if there & {name.lower().replace("_", "-") for name in names}
}
find, site = PathFinder.find_spec, sysconfig.get_paths()["purelib"]


def found(name, path=None, target=None):
    spec = find(name, path, target)
    installed = spec is not None and spec.origin is not None and spec.origin.startswith(site)
    return None if installed and name.partition(".")[0] not in modules else spec


PathFinder.find_spec = found
importlib.import_module(f"benchmarks.engine.gpu.{part}")
"""


def _needs_of(part: str) -> list[str]:
    """The distributions that docs/gpu.md names for a part."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    [names] = re.findall(r"needs of the rest (.*?);", text)
    [more] = re.findall(r"`pictures` and `parity` need (.*?) besides", text)
    named = names if part not in ("pictures", "parity") else f"{names}, {more}"
    return ["torch", *re.findall(r"[\w-]+", named.replace(" and ", ", "))]


@pytest.mark.parametrize("part", [part.name for part in PARTS])
def test_a_part_needs_no_packages_but_those_that_are_said(part: str) -> None:
    command = [sys.executable, "-c", _IMPORTS, *_needs_of(part), part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("part", ["kernels", "plain"])
def test_a_part_measures_small_networks(part: str) -> None:
    rows = list(rows_of(part, BENCH, limit_s=600.0))
    assert "part_s" in rows[-1]
    assert all(measured(row) for row in rows[:-1]), rows
    assert len(rows) > 1


def test_what_was_measured_stays_until_something_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[Row]] = [
        [{"ms": 1.5}],
        [{"failed": "no GPU"}, {"part_s": 2.0}],
        [{"failed": "once"}, {"ms": 2.5}],
    ]
    monkeypatch.setattr(gpu, "rows_of", lambda *_: iter(answers.pop(0)))
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--output", str(tmp_path), "decode"])
    found = []
    for _ in range(3):
        gpu.main()
        found.append(json.loads((tmp_path / "gpu.json").read_text())["decode"]["rows"])
    assert found == [[{"ms": 1.5}], [{"ms": 1.5}], [{"failed": "once"}, {"ms": 2.5}]]
