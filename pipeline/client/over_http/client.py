"""The Python client over HTTP: the same methods, answered by `tessera serve`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote

from pipeline.client.batch import Batch
from pipeline.client.client import Client
from pipeline.client.over_http.batch import RemoteBatch
from pipeline.client.over_http.pictures import SentPictures
from pipeline.client.over_http.schedules import RemoteSchedules
from pipeline.client.over_http.webhooks import RemoteWebhooks
from pipeline.client.remote.connection import RemoteConnection
from pipeline.errors import PromptSetError, RequestError, RowError, RowWarning, UnknownBatch
from pipeline.ledger.workers import Drain, Worker
from pipeline.operations.estimate import Estimate
from pipeline.operations.listing import EVERY, BatchFilter
from pipeline.operations.status import BatchStatus, Unreadable
from pipeline.operations.submit import Acceptance, Submission
from pipeline.outputs.pictures import is_pictures, open_prompts
from pipeline.process.files import spool
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.formats.by_form import InputFormat
from pipeline.promptset.formats.source import STDIN, Prompts, kind_of, shown_path, source_of
from pipeline.records.batch import BatchManifest

_PAGE = 1000
_CHUNK_BYTES = 1 << 20
_OPERATORS = "workers are the business of whoever runs the deployment: run it where TESSERA_REDIS_URL is set"


class RemoteClient(Client):
    """A client of the deployment at an address."""

    _connection: RemoteConnection

    @cached_property
    def schedules(self) -> RemoteSchedules:
        """Its schedules."""
        return RemoteSchedules(self._connection)

    @cached_property
    def webhooks(self) -> RemoteWebhooks:
        """The webhooks that the token's tenant may see."""
        return RemoteWebhooks(self._connection)

    def batch(self, batch_id: str) -> Batch:
        """A batch that was submitted before. Nothing is asked yet."""
        return RemoteBatch(self._connection, batch_id)

    def full_id(self, named: str) -> str:
        """The id of the batch that is meant by its beginning, or by `last`."""
        try:
            return str(self._connection.api.ask("GET", f"/api/batch-id/{quote(named, safe='')}")["id"])
        except UnknownBatch:
            return named  # whose own error is clearer then

    def accept(self, submission: Submission) -> Acceptance:
        """Submit, and return what was accepted."""
        body = self._prompt_set(submission) | {
            "batch_id": submission.batch_id,
            "priority": submission.priority,
            "batch_seed": submission.seed,
            "labels": dict(submission.labels),
            "webhooks": [one if isinstance(one, str) else one.model_dump(mode="json") for one in submission.webhooks],
        }
        found = self._asked(submission.prompts, "/api/batches", body)
        warnings = tuple(RowWarning(**one) for one in found["warnings"])
        manifest = BatchManifest.model_validate(found["manifest"])
        return Acceptance(manifest, found["created"], recorded=True, warnings=warnings)

    def estimate_of(self, submission: Submission, *, pods: int | None = None) -> Estimate:
        """What it would cost, before anything runs."""
        body = self._prompt_set(submission) | {"pods": pods}
        return Estimate.model_validate(self._asked(submission.prompts, "/api/estimate", body))

    def _asked(self, prompts: Prompts, path: str, body: dict[str, Any]) -> Any:
        """The answer; errors name the prompt set as it is named here."""
        try:
            return self._connection.api.ask("POST", path, body)
        except PromptSetError as error:
            raise PromptSetError(_name(prompts), error.errors, error.total) from None

    def _prompt_set(self, submission: Submission) -> dict[str, Any]:
        """What names the prompt set, which is uploaded first, with the pictures that it names by path."""
        tenant = None if submission.tenant == "default" else submission.tenant
        pictures = SentPictures(self._connection.api, submission.folders, tenant)
        for options in (submission.defaults, submission.overrides):
            pictures.take(options)
        with spool() as rows:
            name, file, kind = self._file(submission, rows, pictures)
            with file:
                file_id = self._connection.api.upload(name, file, {"tenant": tenant})
        return ({} if tenant is None else {"tenant": tenant}) | {  # an older service estimates for no named one
            "input_file": file_id,
            "input_format": kind.value if kind else None,
            "comments": submission.reading.comments,
            "extra_columns": submission.reading.extra_columns,
            "skip_invalid": submission.skip_invalid,
            **pictures.meant(),
            "options": _values(submission.defaults),
            "override": _values(submission.overrides),
        }

    def _file(
        self, submission: Submission, rows: IO[bytes], pictures: SentPictures
    ) -> tuple[str, IO[bytes], InputFormat | None]:
        """The prompt set as a file: itself, or rows in memory and of pictures as JSON Lines. `pictures` see them."""
        prompts, kind = submission.prompts, submission.input_format
        if isinstance(prompts, str) and prompts.startswith("s3://"):
            raise RequestError(
                f"{prompts}: a prompt set in a bucket is read with credentials of S3, which are not here"
            )
        if isinstance(prompts, str | Path) and (kind or prompts == STDIN or not is_pictures(Path(prompts))):
            name, file, kind = _opened(prompts, kind, rows)
            chunks = iter(partial(file.read, _CHUNK_BYTES), b"")
            for _line, item in source_of(chunks, kind, _name(prompts), submission.reading).rows:
                pictures.take(item)
            return name, file, kind
        models = self._connection.ledger.deployment().models
        source = open_prompts(prompts, input_format=kind, bucket=None, models=models, options=submission.reading)
        wrong = list[RowError]()
        for _line, item in source.rows:
            pictures.take(item)
            if isinstance(item, RowError):
                wrong.append(item)
            elif not isinstance(item, RowWarning):
                value = item.model_dump(mode="json", exclude_unset=True) if isinstance(item, Row) else dict(item)
                rows.write(json.dumps(value).encode() + b"\n")
        if wrong and not submission.skip_invalid:
            raise PromptSetError(source.name, wrong, len(wrong))
        rows.seek(0)
        return "prompts.jsonl", rows, InputFormat.JSONL

    def batches(self, limit: int = 20, wanted: BatchFilter = EVERY) -> list[BatchStatus | Unreadable]:
        """The newest batches, or the newest of those that are `wanted`."""
        query: dict[str, Any] = {
            "state": sorted(wanted.states),
            "tenant": wanted.tenant,
            "schedule": wanted.schedule,
            "label": [f"{name}={value}" for name, value in wanted.labels.items()],
            "since": wanted.since and wanted.since.isoformat(),
            "until": wanted.until and wanted.until.isoformat(),
        }
        found = list[BatchStatus | Unreadable]()
        while len(found) < limit:
            query["limit"] = min(_PAGE, limit - len(found))
            page = self._connection.api.ask("GET", "/api/batches", query=query)
            found += [
                Unreadable(one["id"], one["reason"]) if one["state"] == "unreadable" else BatchStatus.from_dict(one)
                for one in page["data"]
            ]
            if not page["has_more"]:
                break
            query["after"] = found[-1].id
        return found

    def doubt(self) -> str | None:
        """Why nothing is decided now; None if the ledger is in order."""
        found = self._connection.api.ask("GET", "/api/batches", query={"limit": 1})["ledger_doubt"]
        return None if found is None else str(found)

    def ended_before(self, age: timedelta) -> Iterator[BatchStatus]:
        """The batches that ended longer ago than `age`, newest submission first."""
        moment = datetime.now(UTC) - age
        for seen in self.batches(10**9, BatchFilter(until=moment)):
            if isinstance(seen, BatchStatus) and seen.finished and seen.updated_at < moment:
                yield seen

    def purgeable(self, batch_id: str) -> BatchStatus | None:
        """The status of a batch."""
        return self.batch(batch_id).status()

    def workers(self) -> list[Worker]:
        """The render workers that are alive; needs the scope admin."""
        found = self._connection.api.ask("GET", "/api/workers")["data"]
        return [
            Worker(one["worker"], one["free"], one["jobs"], Drain(one["drain"]) if one["drain"] else None)
            for one in found
        ]

    def drain(self, worker: str | None, *, hand_over: bool = False) -> NoReturn:
        """Not over HTTP."""
        raise RequestError(_OPERATORS)

    def undrain(self, worker: str | None) -> NoReturn:
        """Not over HTTP."""
        raise RequestError(_OPERATORS)


def _opened(prompts: str | Path, kind: InputFormat | None, rows: IO[bytes]) -> tuple[str, IO[bytes], InputFormat]:
    """A file's name, itself, and how it is written; what can be read only once lies in `rows`. Raises RequestError."""
    if prompts == STDIN:
        if sys.stdin is None:
            raise RequestError("standard input is closed")
        kind = kind or InputFormat.JSONL
        shutil.copyfileobj(sys.stdin.buffer, rows)
        rows.seek(0)
        return f"prompts.{kind}", rows, kind
    kind, path = kind or kind_of(str(prompts), is_text=isinstance(prompts, str)), Path(prompts)
    if path.is_dir() or not path.exists():
        raise RequestError(f"{shown_path(path)}: no such file")
    if path.is_file():
        return path.name, path.open("rb"), kind
    with path.open("rb") as pipe:
        shutil.copyfileobj(pipe, rows)
    rows.seek(0)
    return path.name, rows, kind


def _name(prompts: Prompts) -> str:
    if prompts == STDIN:
        return "standard input"
    return shown_path(Path(prompts)) if isinstance(prompts, str | Path) else "prompts"


def _values(options: Options) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_unset=True)
