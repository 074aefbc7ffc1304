"""`tessera render` and `Client.render`: one picture, saved, linked and shown; or why it is not there."""

from __future__ import annotations

import io
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline import Client, RenderFailed, RequestError
from pipeline.cli.main import _run
from pipeline.records.attempt import AttemptOutcome, AttemptSpec
from pipeline.records.results import FailureCode
from tasks.control.expand import expand
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage


@pytest.fixture
def at_work(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A deployment whose controller and worker do what comes, in a thread."""
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    done = threading.Event()

    def work() -> None:
        seen: set[str] = set()
        while not done.wait(0.02):
            for batch_id in set(stage.ledger.batches.newest(10)) - seen:
                seen.add(batch_id)
                expand(stage.worker, batch_id)
                stage.work(batch_id)
                stage.finalized(batch_id)

    thread = threading.Thread(target=work)
    thread.start()
    yield stage
    done.set()
    thread.join()


def test_a_picture_is_rendered_saved_linked_and_shown(
    at_work: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["render", "A stone tower!", "--size", "64x64", "--seed", "42"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "renders/a-stone-tower-42.png"
    assert Image.open(tmp_path / "renders" / "a-stone-tower-42.png").size == (64, 64)
    assert _run(["render", "A stone tower!", "--size", "64x64", "-o", "hero.png"]) == 0
    assert (tmp_path / "hero.png").is_file()
    image = Client().render("a hill", size="64x64", seed=7)
    assert (image.result.seed, image.suffix) == (7, ".png")
    assert image.save(tmp_path / "pictures") == tmp_path / "pictures" / "0000000-000.png"
    other = Client().render("a hill", size="64x64", seed=8)
    assert other.save(tmp_path / "pictures") == tmp_path / "pictures" / "0000000-000-2.png"
    assert image.save(tmp_path / "pictures").read_bytes() == image.bytes()
    assert image.save(tmp_path / "new" / "Shot 1.png").read_bytes() == image.bytes()
    with pytest.raises(RequestError, match=r"'hill\.webp' found, and the image is png"):
        image.save(tmp_path / "hill.webp")
    assert urllib.request.urlopen(image.url(), timeout=30).read() == image.bytes()  # noqa: S310  # our own endpoint
    assert image.pil().size == (64, 64)
    assert Image.open(io.BytesIO(image._repr_png_())).size == (64, 64)
    shown = Client().batch(image.result.batch_id)._repr_html_()
    assert "1/1 images" in shown
    assert shown.count("<img ") == 1


def test_a_picture_of_the_same_prompt_and_seed_is_written_beside_the_first(
    at_work: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for steps in ("1", "2"):
        assert _run(["render", "a hill", "--size", "64x64", "--seed", "7", "--steps", steps]) == 0
    assert capsys.readouterr().out.split() == ["renders/a-hill-7.png", "renders/a-hill-7-2.png"]
    assert len({path.read_bytes() for path in (tmp_path / "renders").iterdir()}) == 2
    for _ in range(2):
        assert _run(["replay", "renders/a-hill-7.png", "-o", "again"]) == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["0000000-000-2.png", "0000000-000.png"]


def test_the_name_of_the_file_says_its_format(at_work: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["render", "a hill", "--size", "64x64", "-o", "New/Hero.JPG"]) == 0
    assert Image.open("New/Hero.JPG").format == "JPEG"


NOT_SAVED = {
    "hero.jpg --format webp": "'hero.jpg' found, and the image is webp",
    "hero.tiff": "'hero.tiff' found; a name that ends in .png, .jpg, .jpeg, .webp, or a folder, wanted",
    "file/hero.png": "file cannot be written",
    "file": "file cannot be written",
}


@pytest.mark.parametrize("output", NOT_SAVED)
def test_what_could_not_be_saved_is_not_rendered(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert _run(["render", "a hill", "-o", *output.split()]) == 2
    assert NOT_SAVED[output] in capsys.readouterr().err
    assert stage.ledger.batches.newest(10) == []


def test_a_picture_that_is_not_there_says_why(at_work: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = at_work.pod(spec)
            assert pod.register() is None
            pod.fail(pod.left(), FailureCode.BLACK)
            return SUCCEEDED

        return [work, SUCCEEDED]

    at_work.node.play = play
    with pytest.raises(RenderFailed, match=r"E_BLACK: .*; what to do: another seed"):
        Client().render("a hill", size="64x64")
    assert _run(["render", "a hill", "--size", "64x64"]) == 1
    assert "what to do: another seed" in capsys.readouterr().err
    with pytest.raises(RequestError, match="num_images 2 found; render makes one picture"):
        Client().render("a hill", num_images=2)
