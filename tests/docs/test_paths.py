"""What pages say of files is so: each path exists, each relative link leads somewhere, each room has its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "helm").rglob("*.md"))]
# Folders of the project whose files pages name by their path from the root.
FOLDERS = "pipeline|tasks|embedded|distri|k8s|tests|benchmarks|training|examples|helm|docs|models"
_PATH = re.compile(
    rf"(?<![\w./-])(?:{FOLDERS})(?:/[\w.*-]+)*/(?:[\w-]+\.(?:py|lua|md|svg|yaml|jsonl|json)|(?=[`\s,)]))"
)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_TO_HEADING = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing = [path for path in _PATH.findall(page.read_text()) if not list(ROOT.glob(path.rstrip("/")))]
    # Written by the demo, by a run of the suites or by a user, and not in the tree.
    assert [path for path in missing if not path.startswith("benchmarks/results")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    found = [
        ((page.parent / link) if link else page, heading) for link, heading in _TO_HEADING.findall(page.read_text())
    ]
    pages = [(other, heading) for other, heading in found if other.suffix == ".md" and other.is_file()]
    assert [f"{other.name}#{heading}" for other, heading in pages if heading not in _headings(other)] == []


def _headings(page: Path) -> set[str]:
    """As GitHub names them in addresses: in small letters, without links and punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page.suffix == ".md" and page.is_file() and page not in reached:
            reached.add(page)
            ahead += [page.parent / link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page not in reached] == []


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(settings["tool"]["importlinter"]["contracts"])


def rooms() -> Iterator[str]:
    """Every folder that a contract gives a place among its neighbours."""
    for contract in contracts():
        for container in contract.get("containers", []):
            for layer in contract["layers"]:
                for room in re.split(r"[|:]", layer):
                    folder = Path(*container.split("."), room.strip())
                    if (ROOT / folder).is_dir():
                        yield folder.as_posix()


def test_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = list(rooms())
    assert named
    assert [room for room in named if f"`{room}/`" not in page] == []


def test_every_folder_of_the_product_says_what_belongs_in_it() -> None:
    folders = [
        path.parent
        for name in ("pipeline", "tasks", "embedded", "distri", "k8s")
        for path in (ROOT / name).rglob("*.py")
    ]
    silent = [folder for folder in dict.fromkeys(folders) if not (folder / "__init__.py").read_text().startswith('"""')]
    assert silent == []
