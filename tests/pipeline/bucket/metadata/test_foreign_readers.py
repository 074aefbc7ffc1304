"""Files of ours through other people's readers. exiftool and node's are asked where they are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import piexif
import piexif.helper
import pytest
from sd_parsers import ParserManager

from pipeline.bucket.metadata.parameters import parameters_text
from pipeline.picture import File, Format, Lora, Scheduler, SettingValue
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import file_of, image_result, resolved_row

FORMATS = list(Format)
KARRAS: dict[str, SettingValue] = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}
LATIN, WIDE = "a café (by night)", "a harbour 日本 🌊"
NODE = """
const fs = require('fs')
const read = async () => {
  const body = fs.readFileSync(process.argv[1])
  const chunks = require('png-chunks-extract')(body).filter(c => c.name === 'tEXt')
  const texts = chunks.map(c => require('png-chunk-text').decode(c.data))
  const exif = await require('exifr').parse(body)
  console.log(JSON.stringify({chunk: texts.find(t => t.keyword === 'parameters').text, exif: exif.parameters}))
}
read()
"""


def _file(folder: Path, kind: Format, prompt: str) -> tuple[Path, ImageResult]:
    row = resolved_row(
        prompt=prompt, negative_prompt="blur", loras=(Lora(name="film", scale=0.5),), file=File(format=kind)
    )
    result = image_result(ImageTask(row, 0))
    used = Scheduler(name="DPMSolverMultistepScheduler", settings=KARRAS)
    made = {"scheduler": used, "loras": {"film": "0" * 64}, "lora_tensors": {"film": "1" * 64}}
    result = result.model_copy(update={"provenance": result.provenance.model_copy(update=made)})
    path = folder / f"x.{kind.value}"
    path.write_bytes(file_of(result).body)
    return path, result


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", [LATIN, WIDE])
def test_sd_parsers_reads_prompts_sampler_and_model(tmp_path: Path, kind: Format, prompt: str) -> None:
    path, result = _file(tmp_path, kind, prompt)
    read = ParserManager().parse(path)
    assert read is not None
    (sampler,) = read.samplers
    assert (sampler.name, sampler.parameters["scheduler"]) == ("DPM++ 2M", "Karras")
    assert (sampler.model.name, sampler.model.hash) == ("demo", "70e9ef75f1")  # type: ignore[union-attr]
    assert [one.value for one in read.prompts] == [parameters_text(result).split("\n")[0]]
    assert [one.value for one in read.negative_prompts] == ["blur"]
    assert (read.metadata["Size"], read.metadata["Hashes"]["lora:film"]) == ("64x64", "0" * 10)


@pytest.mark.parametrize("kind", [Format.JPEG, Format.WEBP])
@pytest.mark.parametrize("prompt", [LATIN, WIDE])
def test_piexif_reads_the_comment(tmp_path: Path, kind: Format, prompt: str) -> None:
    path, result = _file(tmp_path, kind, prompt)
    comment = piexif.load(str(path))["Exif"][piexif.ExifIFD.UserComment]
    assert piexif.helper.UserComment.load(comment) == parameters_text(result)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", [LATIN, WIDE])
def test_exiftool_reads_the_parameters(tmp_path: Path, kind: Format, prompt: str) -> None:
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        pytest.skip("exiftool is not installed")
    path, result = _file(tmp_path, kind, prompt)
    (read,) = json.loads(_output([exiftool, "-json", str(path)]))
    assert read["Parameters" if kind is Format.PNG else "UserComment"] == parameters_text(result)
    assert "Warning" not in read


def test_exifr_and_png_chunk_text_read_the_parameters(tmp_path: Path) -> None:
    node = shutil.which("node")
    packages = ("exifr", "png-chunk-text", "png-chunks-extract")
    script = "".join(f"require.resolve('{name}');" for name in packages)
    if node is None or subprocess.run([node, "-e", script], capture_output=True, check=False).returncode:
        pytest.skip(f"node with {', '.join(packages)} (NODE_PATH) is not installed")
    path, result = _file(tmp_path, Format.PNG, "a cafe (by night)")  # exifr 7.1.3 reads Latin-1 as UTF-8
    read: dict[str, Any] = json.loads(_output([node, "-e", NODE, str(path)]))
    assert read == dict.fromkeys(("chunk", "exif"), parameters_text(result))


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, check=True, timeout=300).stdout.decode()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", [LATIN, WIDE])
def test_sd_prompt_reader_shows_prompts_and_settings(tmp_path: Path, kind: Format, prompt: str) -> None:
    """Where it is installed (`pip install --no-deps sd-prompt-reader`): it pins an older Pillow than ours."""
    reader: Any = pytest.importorskip("sd_prompt_reader.image_data_reader")
    path, result = _file(tmp_path, kind, prompt)
    with path.open("rb") as file:
        read = reader.ImageDataReader(file)
    assert (read.positive, read.negative) == (parameters_text(result).split("\n")[0], "blur")
    shown = {name: read.parameter[name] for name in ("model", "sampler", "seed", "cfg", "steps", "size")}
    size = f"{result.width}x{result.height}"
    assert shown == {
        "model": "demo",
        "sampler": "DPM++ 2M",
        "seed": str(result.seed),
        "cfg": "5",
        "steps": str(result.steps),
        "size": size,
    }
