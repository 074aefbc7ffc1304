"""What finished jobs teach, and the estimates that rest on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.deployment.cost import tera_operations
from pipeline.errors import PromptSetError
from pipeline.records.attempt import AttemptSpec
from pipeline.records.results import ImageResult
from tests.factories import prompts_file
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage


@pytest.fixture
def studio(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    return stage


def _estimate(path: Path, *options: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["estimate", str(path), "--json", *options])
    assert done.exit_code == 0, (done.output, done.exception)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_each_finished_job_adds_its_seconds_and_work_by_what_it_was(stage: Stage) -> None:
    rows = [{"prompt": "a", "width": 64, "height": 64, "num_images": 4}, {"prompt": "b", "width": 128, "height": 128}]
    stage.batch(prompts=rows)
    stage.work()
    stage.finalized()
    results = [ImageResult.model_validate(line) for line in stage.lines("results.jsonl")]
    learned = stage.ledger.speeds.all()
    assert {key.size: speed.images for key, speed in learned.items()} == {-16: 4, -12: 1}
    assert {(key.model, str(key.layout), key.exact, key.device) for key in learned} == {("demo", "1x1x2", False, "cpu")}
    total = [sum(getattr(speed, part) for speed in learned.values()) for part in ("seconds", "bytes", "tera")]
    wanted = sum(tera_operations(result, 256) for result in results)
    assert total == pytest.approx([5 * 0.5, sum(result.size_bytes for result in results), wanted])


def test_images_that_are_not_there_teach_nothing(stage: Stage) -> None:
    def play(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.fail(pod.tasks)

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.batch(3)
    stage.work()
    assert stage.images() == ["failed"] * 3
    assert stage.ledger.speeds.all() == {}


@pytest.mark.parametrize("sums", [{"tera": "0"}, {"seconds": "nan"}, {"seconds": "inf"}, {"pixels": "-9e9"}])
def test_sums_that_cannot_be_are_learned_again(stage: Stage, sums: dict[str, str]) -> None:
    """A batch is cut by them: a share of them that is lost must not stand in its plan."""
    stage.batch(1)
    stage.work()
    store = stage.ledger.store
    [kind] = store.redis.smembers(store.keys.speeds)
    store.redis.hset(store.keys.speed(kind), mapping=sums)
    assert stage.ledger.speeds.all() == {}
    stage.batch(2, "next")
    stage.work("next")
    assert stage.ledger.batches.get("next").jobs == 1
    assert stage.ledger.speeds.all()


def test_the_estimate_says_what_it_rests_on_before_and_after_the_first_job(studio: Stage, tmp_path: Path) -> None:
    path = prompts_file(tmp_path / "p.jsonl", [{"prompt": "a", "width": 64, "height": 64}] * 9 + [{"prompt": ""}])
    before = _estimate(path, "--skip-invalid")
    assert (before["images"], before["left_out"], before["learned"]) == (9, 1, False)
    studio.batch(9)
    studio.work()
    after = _estimate(path, "--pods", "2", "--skip-invalid")
    assert (after["learned"], after["pods"], after["jobs"]) == (True, 2, 3)
    assert after["render_s"] == pytest.approx(9 * 0.5, rel=0.05)
    refused = CliRunner().invoke(app, ["estimate", str(path)]).exception
    assert isinstance(refused, PromptSetError)
    text = CliRunner().invoke(app, ["estimate", str(path), "--skip-invalid"]).stdout
    assert "1 invalid row left out" in text
    assert "9 images in 3 jobs" in text
    assert "learned: demo" in text


@pytest.mark.parametrize(
    "options",
    [
        ["--scheduler", "DPM++ 2M Karras"],
        ["--size", "128x128"],
        ["--aspect", "16:9", "--megapixels", "0.1"],
        ["--highres", "refine, strength=0.4, base_px=64", "--size", "320x320"],
        ["--original-size", "512x512", "--crop", "0,8", "--format", "webp", "--quality", "80"],
        ["--num-images", "3", "--steps", "7", "--negative-prompt", ""],
    ],
)
def test_an_estimate_takes_the_options_of_a_submission(studio: Stage, tmp_path: Path, options: list[str]) -> None:
    path = prompts_file(tmp_path / "p.jsonl", [{"prompt": "a"}])
    assert _estimate(path, *options)["images"] == (3 if "--num-images" in options else 1)
