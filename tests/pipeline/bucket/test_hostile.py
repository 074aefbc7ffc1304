"""What a hostile prompt set can do: nothing, on its way from the real `submit` to results and gallery."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import PromptSetError, RequestError, TesseraError
from pipeline.ledger import Ledger
from pipeline.operations.submit import Submission, accept, checked_options
from pipeline.outputs.download import download
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tests.factories import deployment, prompts_file
from tests.tasks.stage import Stage

BIDI = "\u202e\u2066\u200f"


@pytest.fixture
def desk(ledger: Ledger, artifacts: Artifacts) -> Any:
    ledger.announce(deployment())

    def submit(prompts: Any, **options: Any) -> Any:
        return accept(Submission(prompts, checked_options({}), "b", **options), ledger, artifacts)

    submit.objects = lambda: list(artifacts.list(""))  # type: ignore[attr-defined]
    return submit


def _harmless(error: TesseraError) -> None:
    """It fits a terminal and does nothing to it."""
    text = str(error)
    assert len(text) < 10_000
    assert all(line.isprintable() for line in text.split("\n"))
    assert "SECRET" not in text


HOSTILE: dict[str, Any] = {
    "a path as id, absolute": {"prompt": "x", "custom_id": "/etc/passwd\n"},
    "control characters in an id": {"prompt": "x", "custom_id": "a\x1b[2Jb"},
    "bidi overrides in an id": {"prompt": "x", "custom_id": f"a{BIDI}b"},
    "a terminal escape in a prompt": {"prompt": "SECRET\x1b]0;x\x07"},
    "an 8-bit terminal escape in a prompt": {"prompt": "SECRET\x9b2J"},
    "NUL in a prompt": {"prompt": "SECRET\x00"},
    "a prompt of 10 MB": {"prompt": "SECRET" * 1_700_000},
    "an id of 10 MB": {"prompt": "x", "custom_id": "y" * 10_000_000},
    "a model of 10 MB": {"prompt": "x", "model": "y" * 10_000_000},
    "metadata of 10 MB": {"prompt": "x", "metadata": {"k": "SECRET" * 1_700_000}},
    "a metadata key of 10 MB": {"prompt": "x", "metadata": {"k" * 10_000_000: 1}},
    "a field's name of 10 MB": {"prompt": "x", "y" * 10_000_000: 1},
    "a field's name with an escape": {"prompt": "x", "\x1b[2J": 1},
    "a number of 4000 digits": {"prompt": "x", "metadata": {"n": 10**4000}},
    "10^9 images": {"prompt": "x", "num_images": 10**9},
    "NaN as a size": {"prompt": "x", "width": float("nan")},
    "infinity as a size": {"prompt": "x", "height": float("inf")},
    "NaN as guidance": {"prompt": "x", "guidance_scale": float("nan")},
    "NaN in metadata": {"prompt": "x", "metadata": {"n": float("nan")}},
    "a size of 10^18": {"prompt": "x", "width": 10**18},
    "a negative size": {"prompt": "x", "width": -8},
    "a lone surrogate in a prompt": {"prompt": "SECRET\ud800"},
    "a lone surrogate in an id": {"prompt": "x", "custom_id": "\ud800"},
    "a lone surrogate in metadata": {"prompt": "x", "metadata": {"k": "\udfff"}},
    "nested metadata": {"prompt": "x", "metadata": {"k": {"deep": [1]}}},
    "a model by path": {"prompt": "x", "model": "../../../models/other"},
    "a LoRA by path": {"prompt": "x", "loras": [{"name": "../../x.safetensors"}]},
    "a scheduler of another module": {"prompt": "x", "scheduler": "os.system"},
}


@pytest.mark.parametrize("row", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_row_is_refused_with_a_short_harmless_error_and_nothing_is_left(desk: Any, row: Any) -> None:
    with pytest.raises(PromptSetError) as error:
        desk([{"prompt": "good"}, row])
    _harmless(error.value)
    assert desk.objects() == []


LINES: dict[str, bytes] = {
    "duplicate keys": b'{"prompt": "a", "prompt": "SECRET"}',
    "duplicate keys inside": b'{"prompt": "a", "metadata": {"k": 1, "k": 2}}',
    "a duplicate key with an escape": b'{"prompt": "a", "\\u001b[2J": 1, "\\u001b[2J": 2}',
    "NaN": b'{"prompt": "a", "width": NaN}',
    "infinity": b'{"prompt": "a", "width": Infinity}',
    "a float that becomes infinity": b'{"prompt": "a", "guidance_scale": 1e999}',
    "deeply nested lists": b'{"prompt": "a", "metadata": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deeply nested objects": b'{"prompt": "a", "metadata": ' + b'{"k":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "not so deeply nested": b'{"prompt": "a", "metadata": ' + b'{"k":' * 300 + b"1" + b"}" * 300 + b"}",
    "invalid UTF-8": b'{"prompt": "SECRET\xff\xfe"}',
    "an overlong encoding": b'{"prompt": "\xc0\xaf"}',
    "an encoded surrogate": b'{"prompt": "\xed\xa0\x80"}',
    "an escaped surrogate": b'{"prompt": "SECRET\\ud800"}',
    "NUL bytes": b"\x00" * 100,
    "an escaped NUL": b'{"prompt": "SECRET\\u0000"}',
    "UTF-16": '{"prompt": "SECRET"}'.encode("utf-16"),
    "a line of 2 MB": b'{"prompt": "' + b"SECRET" * 350_000 + b'"}',
    "a terminal escape instead of JSON": b"\x1b[2J\x1b]0;owned\x07",
    "a million digits": b'{"prompt": "a", "seed": ' + b"9" * 900_000 + b"}",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_hostile_line_is_refused_with_a_short_harmless_error(desk: Any, tmp_path: Path, line: bytes) -> None:
    path = prompts_file(tmp_path / "p.jsonl", [{"prompt": "good"}, line, {"prompt": "good too"}])
    with pytest.raises(PromptSetError) as error:
        desk(path)
    _harmless(error.value)
    assert {found.line for found in error.value.errors} == {2}
    assert desk.objects() == []
    # Left out, it takes nothing with it.
    assert desk(path, skip_invalid=True).manifest.rows == 2


def test_a_billion_images_in_rows_that_are_each_allowed_are_refused_early(desk: Any, ledger: Ledger) -> None:
    ledger.announce(deployment(max_rows=1_000_000))
    read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal read
        for _ in range(1_000_000):
            read += 1
            yield {"prompt": "x", "num_images": 1000}

    with pytest.raises(RequestError, match="more than 1,000,000 images"):
        desk(rows())
    assert read <= 1001
    assert desk.objects() == []


def test_endless_broken_rows_are_not_written_down_without_end(desk: Any) -> None:
    read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal read
        yield {"prompt": "good"}
        while True:
            read += 1
            yield {"width": "x"}

    with pytest.raises(PromptSetError):
        desk(rows(), skip_invalid=True)
    assert read <= 1002


def test_a_file_whose_name_is_an_escape_is_named_harmlessly(desk: Any, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Jp.jsonl"
    with pytest.raises(RequestError, match="no such file") as absent:
        desk(path)
    prompts_file(path, ["{"])
    with pytest.raises(PromptSetError) as broken:
        desk(path)
    for error in (absent.value, broken.value):
        _harmless(error)


_MEASURE = """
import resource, sys
from pipeline.errors import PromptSetError
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.promptset.fields.row import Options
from pipeline.promptset.formats.source import open_source
from tests.factories import deployment
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_source(sys.argv[1])
found = Validation(source.name)
rows = list(resolved_rows(source, Options(), deployment(), found, batch_seed=0))
print(len(rows), found.invalid, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_line_of_a_gigabyte_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "first"}\n{"prompt": "')
        file.seek(1 << 30, 1)  # zeros that take no room on the disk
        file.write(b'"}\n{"prompt": "last"}\n')
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)], cwd=root, capture_output=True, text=True, check=True, timeout=200
    )
    rows, invalid, grown_kib = map(int, done.stdout.split())
    assert (rows, invalid) == (2, 1)
    assert grown_kib < 64 * 1024


class _Page(html.parser.HTMLParser):
    """What a browser would make of the gallery."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = [
    '<script>alert(1)</script>"><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://evil.example","x")',
    "+1+1",
    "@SUM(1)",
    "-2+3+cmd|' /C calc'!A0",
    "{{7*7}} ${7*7} %(x)s {title} {0}",
    f"right{BIDI}left",
    "javascript:alert(1)",
    "../../../../etc/passwd",
]


@pytest.fixture
def stage_of_tasks(settings: Any) -> Iterator[Stage]:
    from pipeline.deployment.settings import load_settings
    from tests.factories import MODELS

    stage = Stage(load_settings(settings.environment(), models=MODELS, images_per_job=3, observe_s=0.02))
    yield stage
    stage.close()


def test_prompts_that_are_code_elsewhere_come_back_as_texts_in_results_and_gallery(
    stage_of_tasks: Stage, tmp_path: Path
) -> None:
    stage = stage_of_tasks
    rows = [
        {
            "prompt": text,
            "negative_prompt": text,
            "metadata": {text[:40]: text},
            "custom_id": f"../../../{number}/<b>&=cmd",
            "width": 64,
            "height": 64,
        }
        for number, text in enumerate(EVIL)
    ]
    stage.batch(prompts=rows)
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    results = stage.lines("results.jsonl")
    assert [line["prompt"] for line in results] == EVIL
    assert [line["custom_id"] for line in results] == [row["custom_id"] for row in rows]
    objects = BatchObjects("b")
    for key in stage.artifacts.list("batches/"):
        assert key.startswith(objects.root)
        assert all(character.isalnum() or character in "._-/" for character in key)
        assert ".." not in key
    gallery = (stage.artifacts.get(objects.gallery) or b"").decode()
    page = _Page()
    page.feed(gallery)
    ours = "html head meta title style body header h1 label input output main figure a img figcaption p small bdi nav"
    assert page.tags <= {*ours.split(), "script"}
    assert gallery.count("<script") == 1  # ours, which the policy knows by its digest
    assert not [name for name in page.attributes if name.startswith("on")]
    assert all(link.startswith(("../images/", "../thumbnails/")) for link in page.links)
    assert all(text in page.text for text in EVIL)
    assert "default-src 'none'" in gallery
    folder = tmp_path / "here" / "renders"
    download(stage.artifacts, "b", folder)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".png", ".jsonl", ".html")]
    assert written
    assert all(path.is_relative_to(folder) for path in written if "here" in path.parts)


def test_what_is_staged_reads_back_as_it_was(desk: Any, artifacts: Artifacts) -> None:
    desk([{"prompt": text, "metadata": {"n": 2**63 - 1, "f": 1e308, "t": text}} for text in EVIL])
    [key] = [key for key in desk.objects() if key.endswith("input.jsonl")]
    rows = [ResolvedRow.model_validate_json(line) for line in artifacts.lines(key)]
    assert [row.prompt for row in rows] == EVIL
    assert rows[0].metadata == {"n": 2**63 - 1, "f": 1e308, "t": EVIL[0]}
    assert json.loads(next(artifacts.lines(key)))["prompt"] == EVIL[0]


def test_compressed_files_that_swell_are_read_in_bounded_steps(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(b" " * (1 << 20))
        file.write(b'\n{"prompt": "after it"}\n')
    source = open_source(path)
    found = Validation(source.name)
    [row] = resolved_rows(source, checked_options({}), deployment(), found, batch_seed=0)
    assert (row.prompt, found.invalid) == ("after it", 1)
