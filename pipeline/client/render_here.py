"""One picture where no stack runs: its row is decided here as for a batch, and rendered by this machine's engine."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pipeline.client.image import ImageInMemory
from pipeline.client.standalone import LOG, serving
from pipeline.deployment.announcement import Deployment
from pipeline.errors import RenderFailed, ServiceError, WaitTimeout
from pipeline.inputs.gathered import InputPictures
from pipeline.names import seed_of
from pipeline.process import flock
from pipeline.promptset.checked import one_picture
from pipeline.promptset.formats.source import folders_of, open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.attempt import Code
from pipeline.records.remedies import REMEDIES
from pipeline.records.results import ImageResult
from pipeline.records.shards import ShardLine, shard_bytes
from pipeline.records.standalone import Asked, Ended, PictureFolder, StandaloneFolder

_POLL_S = 0.02
_TRIES = 3

log = structlog.get_logger(__name__)


def render_here(
    data_dir: Path,
    environ: Mapping[str, str],
    prompt: str,
    picture: Mapping[str, Any],
    *,
    timeout_s: float | None = None,
    on_news: Callable[[str], object] = lambda _: None,
) -> ImageInMemory:
    """Render one picture on this machine, as its stack would, without that stack.

    Args:
        data_dir: of the stack: models that were added to it are there, and files of this.
        environ: settings, as the stack would take them.
        prompt: what to paint.
        picture: other fields of the row.
        timeout_s: how long to wait.
        on_news: called with a line about what is being done.

    Raises RenderFailed, PromptSetError, RequestError, SettingsError, WaitTimeout, ServiceError.
    """
    folders = StandaloneFolder.of(data_dir)
    until = None if timeout_s is None else time.monotonic() + timeout_s
    for _ in range(_TRIES):
        found = serving(data_dir, environ, on_news)
        if found.deployment is None:
            raise ServiceError(f"what renders here does not say what; see {data_dir / 'logs' / LOG}")
        with _asked(data_dir, Asked(settings=found.settings), prompt, picture, found.deployment) as folder:
            if count := folders.before(folder):
                on_news(f"waiting for {count} other picture{'s' if count > 1 else ''}, asked for before")
            ended = _await_end(folder, folders, until)
            if ended is not None:
                return _image(folder, ended, data_dir)
    raise ServiceError(f"what renders here ended {_TRIES} times before the picture was asked for")


@contextmanager
def _asked(
    data_dir: Path, asked: Asked, prompt: str, picture: Mapping[str, Any], deployment: Deployment
) -> Iterator[PictureFolder]:
    """The folder of a picture that is asked for, and that goes with whoever asks."""
    picture_id = f"render-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    all_pictures = StandaloneFolder.of(data_dir)
    folder = all_pictures.new(picture_id)
    lock = flock.acquire(folder.asker_lock)
    try:
        folder.shard.write_bytes(_row(prompt, picture, deployment, picture_id, folder))
        folder.write_asked(asked)
        folder = all_pictures.ask(folder)
        yield folder
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _row(
    prompt: str, picture: Mapping[str, Any], deployment: Deployment, picture_id: str, folder: PictureFolder
) -> bytes:
    """The row, everything about it decided, as a shard; what it begins with is put into the folder."""
    source = open_source([{"prompt": prompt}])
    found = Validation(source.name)
    found.inputs = InputPictures(folders_of([]), keep=folder.path)
    defaults = one_picture(picture)
    rows = list(resolved_rows(source, defaults, deployment, found, batch_seed=seed_of(picture_id)))
    found.raise_if_refused()
    for warning in found.warnings:
        log.warning(str(warning))
    return shard_bytes([ShardLine(row, 0, 1) for row in rows])


def _await_end(folder: PictureFolder, everything: StandaloneFolder, until: float | None) -> Ended | None:
    """How it ended; None if nobody serves any more, and nobody has begun. Raises WaitTimeout."""
    while (ended := folder.ended) is None:
        if not flock.is_held(everything.lock):
            return folder.ended
        if until is not None and time.monotonic() > until:
            raise WaitTimeout("the picture was not there in time, and is given up")
        time.sleep(_POLL_S)
    return ended


def _image(folder: PictureFolder, ended: Ended, data_dir: Path) -> ImageInMemory:
    outcome = folder.outcome
    if isinstance(outcome, ImageResult):
        return ImageInMemory(outcome, folder.image.read_bytes())
    if outcome is not None:
        raise RenderFailed(f"{outcome.code.value}: {outcome.message}; what to do: {REMEDIES[outcome.code]}")
    what = "" if ended.code is Code.SUCCEEDED else f"{ended.code.value}: {ended.reason}; "
    raise RenderFailed(f"{what}the log is {data_dir / 'logs' / LOG}")
