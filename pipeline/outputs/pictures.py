"""Rows of pictures, whoever made them: files of ours by their record, those of other programs by what they say of it.

A row of ours says everything, so it renders the same picture. One of another program says what could be carried over;
the rest is named, file by file. The checkpoint's name there is none of the deployment's: it is the row's model only
where the deployment has a model of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import RequestError, RowError, RowWarning
from pipeline.inputs.gathered import Bucket
from pipeline.outputs.extract import IMAGE_SUFFIXES, records_in, row_of
from pipeline.outputs.foreign.found import ForeignPicture, NotCarriedOver, known_fields, shown
from pipeline.outputs.foreign.read import foreign_picture
from pipeline.outputs.foreign.texts import MAX_FILE_BYTES
from pipeline.promptset.fields.shorthand import scheduler
from pipeline.promptset.formats.by_form import DEFAULT_OPTIONS, InputFormat
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import Prompts, Source, open_source, shown_path
from pipeline.records.results import ImageResult

# Folders of a download, and of a network drive. macOS writes `._hero.png` beside hero.png on drives of others.
_NOT_PICTURES = frozenset({"thumbnails", "@eaDir", "__MACOSX"})
_LORA_ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")

Models = Iterable[str]
"""Ids of the deployment's models."""


@dataclass(frozen=True)
class PictureRow:
    """The row of one picture.

    Attributes:
        path: of the file.
        row: with the names of `pipeline.promptset.fields.row.Row`, its custom_id unlike all others'.
        program: that made the picture.
        notes: what was not carried over.
        body: of the file, where it is an image.
        result: the record of one of ours.
    """

    path: Path
    row: Mapping[str, Any]
    program: str
    notes: tuple[str, ...] = ()
    body: bytes | None = None
    result: ImageResult | None = None


def picture_rows(
    paths: Iterable[Path], models: Models = (), *, refused: Callable[[Path, str], object]
) -> Iterator[PictureRow]:
    """The rows of files and of the images in folders, in the order of their names.

    A file that has no row is given to `refused` with the reason. Raises RecordTooNew.
    """
    taken: set[str] = set()
    for path in _files(paths):
        try:
            for found in _rows_of(path, tuple(models)):
                yield _with_own_id(found, taken)
        except (RequestError, NotCarriedOver) as error:
            text = str(error)
            refused(path, text if isinstance(error, RequestError) else f"{shown_path(path)}: {text}")


def open_prompts(
    prompts: Prompts,
    *,
    input_format: InputFormat | None,
    bucket: Bucket | None,
    models: Models = (),
    options: ReadOptions = DEFAULT_OPTIONS,
) -> Source:
    """A prompt set: what `open_source` opens, or a picture, or a folder of pictures. Raises RequestError."""
    if isinstance(prompts, str | Path) and input_format is None and is_pictures(path := Path(prompts)):
        return Source(shown_path(path), _items(path, models))
    return open_source(prompts, input_format=input_format, bucket=bucket, options=options)


def is_pictures(path: Path) -> bool:
    """Whether it is a folder, or named as an image."""
    return path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def _items(path: Path, models: Models) -> Iterator[tuple[int, Any]]:
    """As the rows of a file: each picture is a line."""
    problems: list[str] = []
    number = 0
    for found in picture_rows([path], models, refused=lambda _path, why: problems.append(why)):
        while problems:
            number += 1
            yield number, RowError(number, None, problems.pop(0))
        number += 1
        for note in found.notes:
            yield number, RowWarning(number, None, f"{shown_path(found.path)} ({found.program}): {note}")
        yield number, found.row
    for why in problems:
        number += 1
        yield number, RowError(number, None, why)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = (one for one in path.rglob("*") if one.suffix.lower() in IMAGE_SUFFIXES)
        images = [one for one in inside if not _is_beside(one.relative_to(path)) and one.is_file()]
        if not images:
            raise RequestError(f"{shown_path(path)}: a folder without images; a prompt set, or PNG, JPEG, WebP wanted")
        yield from sorted(images)


def _is_beside(inside: Path) -> bool:
    """Whether a file of a folder is no picture of its user's: a thumbnail, or what a system keeps beside each file."""
    return any(part.startswith(".") or part in _NOT_PICTURES for part in inside.parts)


def _rows_of(path: Path, models: tuple[str, ...]) -> Iterator[PictureRow]:
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    if is_image and path.is_file() and (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise NotCarriedOver(f"{size:,} bytes; at most {MAX_FILE_BYTES:,} wanted")
    try:
        for recorded in records_in(path):
            result = recorded.result
            number = f"-{result.number}" if result.number else ""
            row = row_of(result) | {"custom_id": result.custom_id[:200].rstrip() + number}
            yield PictureRow(path, row, "Tessera", body=recorded.body, result=result)
    except RequestError:
        body = None
        with suppress(OSError):  # which the error says
            body = path.read_bytes() if is_image and path.is_file() else None
        found = foreign_picture(body) if body else None
        if found is None:
            raise
        yield _foreign(path, found, models, body)


def _foreign(path: Path, found: ForeignPicture, models: tuple[str, ...], body: bytes | None) -> PictureRow:
    """The row, which decides what a deployment would otherwise decide in its own way."""
    row = {"long_prompt": "chunk", "highres": {"mode": "direct"}, **found.row}
    notes = list(found.left_out)
    if unknown := row.keys() - known_fields(row).keys():
        notes += [f"{name} {row[name]!r}" for name in sorted(unknown)]
    row = known_fields(row)
    if "scheduler" in row:
        try:
            scheduler(row["scheduler"])
        except ValueError as error:  # there is none here: the model's own renders
            notes.append(shown(f"sampler: {error}"))
            del row["scheduler"]
    if "loras" in row:
        row["loras"] = [{**lora, "name": _stem(lora["name"])} for lora in row["loras"]]
    metadata = {"file": shown(path.name), "program": found.program}
    if found.model is not None:
        metadata["model"] = shown(found.model)
        model = next((one for one in models if one.lower() == _stem(found.model).lower()), None)
        if model is not None:
            row["model"] = model
        else:
            digest = f" ({shown(found.model_hash)})" if found.model_hash else ""
            notes.append(f"model {shown(_stem(found.model))}{digest}: the deployment's own, unless one is given")
    if found.model_hash is not None:
        metadata["model_hash"] = shown(found.model_hash)
    custom_id = shown(path.stem).strip()[:200] or "picture"
    return PictureRow(path, {"custom_id": custom_id, **row, "metadata": metadata}, found.program, tuple(notes), body)


def _stem(name: str) -> str:
    plain = PurePosixPath(name.strip().replace("\\", "/")).name
    return next((plain[: -len(end)] for end in _LORA_ENDINGS if plain.lower().endswith(end)), plain)


def _with_own_id(found: PictureRow, taken: set[str]) -> PictureRow:
    wanted = str(found.row["custom_id"])
    custom_id, again = wanted, 1
    while custom_id in taken:
        again += 1
        custom_id = f"{wanted}-{again}"
    taken.add(custom_id)
    return replace(found, row={**found.row, "custom_id": custom_id})
