"""The Python client against the running stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from pipeline import Client, WaitTimeout
from pipeline.errors import PromptSetError, RequestError, UnknownBatch
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.states import BatchState, ImageState

SMALL: PictureFields = {"width": 128, "height": 128, "steps": 3}


def test_prompts_become_images_of_the_asked_size(client: Client, tmp_path: Path) -> None:
    batch = client.submit(["a red hill", {"prompt": "a blue hill", "width": 136}], width=128, height=168, steps=3)
    status = batch.wait(timeout_s=600)
    assert (status.state, status.succeeded, status.exit_code) == (BatchState.COMPLETED, 2, 0)
    images = list(batch.images())
    assert [image.open().size for image in images] == [(128, 168), (136, 168)]
    paths = [image.save(tmp_path / "here") for image in images]
    assert [path.read_bytes() for path in paths] == [image.bytes() for image in images]
    assert [image.result.prompt for image in images] == ["a red hill", "a blue hill"]


def test_no_negative_prompt_and_an_empty_one_stay_apart(client: Client) -> None:
    row = {"prompt": "a green field", "seed": 7}
    batch = client.submit([row | {"negative_prompt": ""}, row | {"negative_prompt": None}, row], **SMALL)
    batch.wait(timeout_s=600)
    empty, none, unsaid = batch.images()
    assert [image.result.negative_prompt for image in (empty, none, unsaid)] == ["", None, None]
    pixels = [image.open().tobytes() for image in (empty, none, unsaid)]
    assert pixels[1] == pixels[2]
    assert pixels[0] != pixels[1]


def test_a_row_that_cannot_be_rendered_does_not_harm_its_neighbours(client: Client, tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "word " * 200, "custom_id": "long"}, {"prompt": "b"}]
    batch = client.submit(rows, **SMALL)
    status = batch.wait(timeout_s=600)
    assert (status.state, status.succeeded, status.failed, status.exit_code) == (BatchState.COMPLETED, 2, 1, 3)
    (failure,) = batch.errors()
    assert (failure.custom_id, failure.code.value) == ("long", "E_PROMPT_TOO_LONG")
    assert "word" not in failure.message
    page = batch.download(tmp_path)
    assert "E_PROMPT_TOO_LONG" in page.read_text()
    assert len(list(tmp_path.glob("images/*/*.png"))) == 2


def test_the_same_batch_again_changes_nothing(client: Client) -> None:
    first = client.submit(["a cloud"], batch_id="clouds", **SMALL)
    first.wait(timeout_s=600)
    before = [image.result for image in first.images()]
    again = client.submit(["a cloud"], batch_id="clouds", **SMALL)
    assert again.status().finished
    assert [image.result for image in again.images()] == before
    with pytest.raises(RequestError, match="other rows"):
        client.submit(["another cloud"], batch_id="clouds", **SMALL)


def test_cancelling_keeps_what_is_committed_and_ends_the_rest(client: Client) -> None:
    batch = client.submit([f"hill {i}" for i in range(12)], width=256, height=256, steps=20)
    for status in batch.updates(timeout_s=600):
        if status.succeeded:
            break
    assert batch.cancel() is BatchState.CANCELLING
    status = batch.wait(timeout_s=600)
    assert status.state is BatchState.CANCELLED
    assert status.images[ImageState.CANCELLED] > 0
    assert status.succeeded + status.images[ImageState.CANCELLED] == 12
    assert len(list(batch.images())) == status.succeeded
    assert {failure.code.value for failure in batch.errors()} == {"E_CANCELLED"}
    assert batch.cancel() is BatchState.CANCELLED


def test_waiting_too_long_says_so_and_the_batch_goes_on(client: Client) -> None:
    batch = client.submit(["a lake"], **SMALL)
    with pytest.raises(WaitTimeout, match="it goes on"):
        batch.wait(timeout_s=0.2)
    assert batch.wait(timeout_s=600).succeeded == 1


def test_what_cannot_be_accepted_is_refused(client: Client) -> None:
    with pytest.raises(PromptSetError, match="not on the allow-list"):
        client.submit([{"prompt": "x", "model": "other"}])
    with pytest.raises(RequestError, match="width: 7 found"):
        client.submit(["x"], width=7)
    with pytest.raises(UnknownBatch):
        client.batch("never-submitted").status()


def test_a_row_that_begins_with_a_picture_keeps_what_was_there(client: Client, tmp_path: Path) -> None:
    """The first batch's image begins the second's; a result names what it began with, so that a replay has it, too."""
    Image.new("RGB", (64, 96), (250, 20, 20)).save(tmp_path / "red.png")
    prompts = tmp_path / "rows.jsonl"
    prompts.write_text('{"prompt": "a tree", "image": "red.png", "strength": 0.5, "steps": 2, "custom_id": "red"}\n')
    first = client.submit(prompts)
    assert first.wait(240).state is BatchState.COMPLETED
    image = first.only_image()
    result = image.result
    assert (result.width, result.height, result.strength) == (64, 96, 0.5)
    assert result.image is not None
    assert [stage.strength for stage in result.made.stages] == [0.5]
    mask = Image.new("L", (64, 96))
    mask.paste(255, (8, 8, 40, 56))
    mask.save(tmp_path / "mask.png")
    masked = {"image": f"batch://{first.id}/red", "mask": str(tmp_path / "mask.png")}
    again = client.submit([{"prompt": "a house", "steps": 2, **masked}])
    assert again.wait(240).state is BatchState.COMPLETED
    image.save(tmp_path / "before.png")
    again.only_image().save(tmp_path / "tree.png")
    before, after = (Image.open(tmp_path / name).convert("RGB") for name in ("before.png", "tree.png"))
    changed = ImageChops.difference(before, after)
    assert changed.getbbox() is not None
    changed.paste(0, (8, 8, 40, 56))
    assert changed.getbbox() is None, "what is outside of the mask stays bit for bit"
    replayed = client.replay(tmp_path / "tree.png", timeout_s=600)
    assert replayed.likeness is not None
    assert replayed.likeness.same
