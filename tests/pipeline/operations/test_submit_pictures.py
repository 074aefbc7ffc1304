"""Pictures that rows begin with lie beside the rows, once each; none is read that is not for whoever submits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import PromptSetError
from pipeline.ledger import Ledger
from pipeline.operations.batch_pictures import any_url, no_urls
from pipeline.operations.submit import Acceptance, Submission, accept, checked_options
from pipeline.outputs.extract import row_of
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects
from pipeline.records.shards import ImageTask
from tests.factories import deployment, image_result, resolved_row


class Desk:
    def __init__(self, ledger: Ledger, artifacts: Artifacts, folder: Path) -> None:
        self.ledger, self.artifacts, self.folder = ledger, artifacts, folder

    def submit(self, rows: list[dict[str, Any]], batch_id: str = "b", **options: Any) -> Acceptance:
        given: dict[str, Any] = {"folders": (self.folder,), "check_url": any_url} | options
        prompts = [{"prompt": "p"} | row for row in rows]
        return accept(Submission(prompts, checked_options({}), batch_id, **given), self.ledger, self.artifacts)

    def rows(self, batch_id: str = "b") -> list[ResolvedRow]:
        manifest = BatchManifest.model_validate_json(self.artifacts.get(BatchObjects(batch_id).manifest) or b"")
        lines = self.artifacts.lines(BatchObjects(batch_id).input(manifest.staged))
        return [ResolvedRow.model_validate_json(line) for line in lines]

    def inputs(self, batch_id: str = "b") -> list[str]:
        return list(self.artifacts.list(BatchObjects(batch_id).root + "inputs/"))


def _png(colour: tuple[int, int, int], side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def desk(ledger: Ledger, artifacts: Artifacts, tmp_path: Path) -> Desk:
    ledger.announce(deployment(images_in=True, masks=True, max_rows=20_000))
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / f"{name}.png").write_bytes(_png(colour))
    return Desk(ledger, artifacts, tmp_path)


def test_a_picture_of_many_rows_is_read_and_uploaded_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    real = Artifacts.put

    def counted(self: Artifacts, key: str, *args: Any, **kwargs: Any) -> None:
        put.append(key)
        real(self, key, *args, **kwargs)

    monkeypatch.setattr(Artifacts, "put", counted)
    (desk.folder / "same.png").write_bytes((desk.folder / "red.png").read_bytes())
    names = ["red.png", "same.png", str(desk.folder / "red.png")]
    desk.submit([{"image": names[number % 3]} for number in range(10_000)] + [{"image": "blue.png"}, {}])
    rows = desk.rows()
    digests = {row.image.sha256 for row in rows if row.image is not None}
    assert sorted(key for key in put if "/inputs/" in key) == sorted(desk.inputs())
    assert sorted(desk.inputs()) == sorted(BatchObjects("b").input_picture(one) for one in digests)
    assert len(digests) == 2
    assert rows[-1].image is None


def test_the_same_submission_again_changes_nothing(desk: Desk) -> None:
    assert desk.submit([{"image": "red.png"}]).created
    before = desk.inputs()
    assert not desk.submit([{"image": "red.png"}]).created
    assert desk.inputs() == before


def test_pictures_come_from_a_bucket_and_from_other_batches(desk: Desk) -> None:
    desk.artifacts.put("mine/red.png", io.BytesIO(_png((255, 0, 0))), content_type="image/png")
    desk.submit([{"image": f"{desk.artifacts.root}mine/red.png"}], "first")
    result = image_result(ImageTask(resolved_row(custom_id="hero"), 0), "first")
    objects = BatchObjects("first")
    desk.artifacts.put(result.key, io.BytesIO(_png((0, 0, 255))), content_type="image/png")
    desk.artifacts.put(objects.results, io.BytesIO(result.model_dump_json().encode()), content_type="application/json")
    (begun,) = desk.rows("first")
    assert begun.image is not None
    again = f"input://first/{begun.image.sha256}"
    desk.submit([{"image": "batch://first/hero"}, {"image": again}], "second")
    hero, same = desk.rows("second")
    assert hero.image is not None
    assert same.image is not None
    assert (same.image.sha256, hero.image.sha256 == same.image.sha256) == (begun.image.sha256, False)
    assert len(desk.inputs("second")) == 2


@pytest.mark.parametrize(
    ("image", "tenant", "message"),
    [
        ("batch://first/hero", "other", "tenant 'other' has no batch 'first'"),
        ("batch://gone/hero", "default", "tenant 'default' has no batch 'gone'"),
        ("batch://first/hero", "default", "has no image 0 of row 'hero'"),
        ("input://first/" + "a" * 64, "default", "has no such picture"),
        ("s3://nobody/x.png", "default", "no such object"),
    ],
)
def test_what_is_not_there_or_not_theirs(desk: Desk, image: str, tenant: str, message: str) -> None:
    desk.submit([{}], "first")
    with pytest.raises(PromptSetError, match=message):
        desk.submit([{"image": image}], "second", tenant=tenant)
    assert desk.artifacts.get(BatchObjects("second").manifest) is None


def test_rows_from_elsewhere_read_no_file_of_this_machine(desk: Desk) -> None:
    with pytest.raises(PromptSetError, match="not read on your machine"):
        desk.submit([{"image": str(desk.folder / "red.png")}], folders=())


def test_a_url_that_is_not_allowed_is_not_read(desk: Desk) -> None:
    with pytest.raises(PromptSetError, match="which is not read here"):
        desk.submit([{"image": f"{desk.artifacts.root}batches/b/x.png"}], check_url=no_urls)
    assert Submission([], checked_options({})).check_url is no_urls


def test_a_result_names_what_it_began_with(desk: Desk) -> None:
    desk.submit([{"image": "red.png", "strength": 0.3}])
    (row,) = desk.rows()
    result = image_result(ImageTask(row, 0))
    assert row.image is not None
    assert row_of(result)["image"] == f"input://b/{row.image.sha256}"
    assert (row_of(result)["strength"], row_of(result)["fit"]) == (0.3, "fill")


def test_a_mask_is_uploaded_once_and_a_replay_names_it(desk: Desk) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 40, 40))
    mask.save(desk.folder / "mask.png")
    wanted = {"image": "red.png", "mask": "mask.png", "mask_feather": 3, "only_masked": True}
    desk.submit([wanted, wanted, {"image": "red.png", "canvas": "96x64"}])
    first, second, _ = desk.rows()
    assert first.inputs == second.inputs
    assert len(desk.inputs()) == 4
    again = row_of(image_result(ImageTask(first, 0)))
    assert again["mask"] == f"input://b/{first.inputs[1].sha256}"
    fields = ("image", "strength", "fit", "mask", "mask_feather", "only_masked", "mask_padding", "masked_size")
    desk.submit([{name: again[name] for name in fields}], "again")
    (replayed,) = desk.rows("again")
    assert replayed.inpaint is not None
    assert first.inpaint is not None
    assert replayed.inpaint.region == first.inpaint.region
    assert [one.sha256 for one in replayed.inputs] == [one.sha256 for one in first.inputs]
