"""Fields, formats and replays through the whole stack."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from PIL import Image

from distri.demo_model import write
from pipeline import Client
from pipeline.promptset.fields.row import Row
from tests.distri import ip_adapters, loras, reference
from tests.e2e.stack import User
from tests.factories import noise


def test_a_table_becomes_files_in_every_format_which_replay_to_the_same_pixels(studio: User) -> None:
    table = studio.folder / "rows.csv.gz"
    text = "custom_id,prompt,negative_prompt,size,steps,format,quality,sampler,strip_metadata,metadata.series\n"
    text += 'png,a hill,"""""",130x128,3,png,,Euler a,,a\n'
    text += "jpeg,a hill,,128x136,3,jpg,90,DPM++ 2M Karras,,b\n"
    text += "webp,a hill,blur,128x128,3,webp,80,,true,c\n"
    table.write_bytes(gzip.compress(text.encode()))
    done = studio.run("submit", table, "--batch-id", "formats", "-o", "formats", "--seed", "5", "--dpi", "240")
    assert done.returncode == 0, done.stderr
    folder = studio.folder / "formats"
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [result["custom_id"] for result in results] == ["png", "jpeg", "webp"]
    assert [result["negative_prompt"] for result in results] == ["", None, "blur"]
    files = sorted(folder.glob("images/*/*.*"))
    assert [path.suffix for path in files] == [".png", ".jpg", ".webp"]
    for path, size in zip(files, [(130, 128), (128, 136), (128, 128)], strict=True):
        with Image.open(path) as image:
            assert image.size == size
            assert image.info["icc_profile"]
    page = (folder / "gallery" / "index.html").read_text()
    assert all(path.name in page for path in files)

    for path in files[:2]:
        again = studio.json("replay", path)
        assert again["differences"] == []
        assert again["pixels"] == {"same": True, "psnr_db": None, "largest_difference": 0}
    done = studio.run("replay", files[2])
    assert done.returncode == 2
    assert "carries no record" in done.stderr
    line = studio.folder / "line.jsonl"
    line.write_text((folder / "results.jsonl").read_text().splitlines()[2] + "\n")
    done = studio.run("replay", line, "--out", "again")
    assert done.returncode == 0, done.stderr
    assert "pixels: the same" in done.stdout, "the first picture is still in the bucket"
    assert list((studio.folder / "again").glob("*.webp"))

    done = studio.run("extract", *files)
    assert (done.returncode, done.stderr.count("left out")) == (3, 1)
    (studio.folder / "extracted.jsonl").write_text(done.stdout)
    done = studio.run("submit", "extracted.jsonl", "-o", "extracted")
    assert done.returncode == 0, done.stderr
    for path in files[:2]:
        [copy] = (studio.folder / "extracted").glob(f"images/*/*{path.suffix}")
        with Image.open(path) as first, Image.open(copy) as second:
            assert first.tobytes() == second.tobytes()


def test_rows_and_keywords_of_the_client_are_typed(client: Client, tmp_path: Path) -> None:
    rows: list[Row | str] = [Row(prompt="a hill", custom_id="own", width=136), "another hill"]
    batch = client.submit(rows, size="128x128", steps=3, scheduler="DDIM", format="webp", batch_seed=7)
    batch.wait(timeout_s=600)
    images = list(batch.images())
    assert [image.open().size for image in images] == [(136, 128), (128, 128)]
    assert [image.save(tmp_path).suffix for image in images] == [".webp", ".webp"]
    assert {image.result.scheduler.name for image in images if image.result.scheduler} == {"DDIMScheduler"}
    again = client.replay(images[0].save(tmp_path), timeout_s=600)
    assert again.differences == []
    assert again.likeness is not None
    assert again.likeness.same


def test_rows_with_a_lora_or_a_reference_are_painted_by_it_and_others_are_not(user: User, tmp_path: Path) -> None:
    parts = reference.pipeline(write(tmp_path / "model")).components
    film = loras.peft(tmp_path / "film.safetensors", parts)
    encoder = ip_adapters.write_encoder(tmp_path / "image_encoder")  # where it is looked for
    face = ip_adapters.write_adapter(tmp_path / "face.safetensors", parts["unet"], encoder).path
    noise(64, 64).save(user.folder / "anna.png")
    done = user.run("up", "--lora", f"film={film}", "--ip-adapter", f"face={face}")
    assert done.returncode == 0, done.stderr
    row = {"prompt": "a hill", "width": 128, "height": 128, "steps": 2, "seed": 5}
    rows = user.manifest(
        "rows.jsonl",
        row,
        row | {"loras": ["film"]},
        row | {"loras": [{"name": "film", "scale": 0.5}]},
        row | {"reference": "face, image=anna.png, scale=0.8"},
    )
    done = user.run("submit", rows, "-o", "out")
    assert done.returncode == 0, done.stderr
    done = user.run("submit", rows, "-o", "again")
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in (user.folder / "out" / "results.jsonl").read_text().splitlines()]
    digest = hashlib.sha256(film.read_bytes()).hexdigest()
    assert [result["provenance"]["loras"] for result in results] == [{}, {"film": digest}, {"film": digest}, {}]
    assert results[3]["provenance"]["ip_adapters"] == {"face": hashlib.sha256(face.read_bytes()).hexdigest()}
    pixels = []
    for folder in ("out", "again"):
        for path in sorted((user.folder / folder).glob("images/*/*.png")):
            with Image.open(path) as image:
                pixels.append(image.tobytes())
    assert len(set(pixels[:4])) == 4
    assert pixels[:4] == pixels[4:]
    refused = user.run("submit", user.manifest("bad.jsonl", row | {"loras": ["other"]}))
    assert refused.returncode == 2
    assert "film" in refused.stderr
