"""Processes of this version and of the one before work on the same batches, in Redis and S3 that are the same."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState, is_final
from tests.factories import deployment
from tests.faults.deployment import until
from tests.neighbour.mixed import Mixed, Version

ROWS = [{"prompt": f"hill {number}", "width": 128, "height": 128, "steps": 16} for number in range(4)]
TOO_LONG = {"prompt": "word " * 200, "custom_id": "long", "width": 128, "height": 128, "steps": 2}
EVERY_NIGHT = ("--cron", "0 3 * * *", "--tz", "Europe/Berlin")
WORKERS = ("control", "render", "beat")


def _files(folder: Path) -> dict[str, str]:
    """Digests of the pictures and results of a download, by name."""
    found = [*folder.glob("images/*/*"), *folder.glob("*.jsonl")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _says(mixed: Mixed, version: Version, *command: str) -> dict[str, Any]:
    """What that version's command says of the batch, but for when it looked."""
    said: dict[str, Any] = mixed.json(version, *command)
    del said["seen_at"]
    return said


def _agree(first: dict[str, Any], then: dict[str, Any]) -> None:
    """Both say the same of whatever both speak of; the newer one may speak of more."""
    common = first.keys() & then.keys()
    assert min(first.keys(), then.keys(), key=len) == common
    assert {name: first[name] for name in common} == {name: then[name] for name in common}


def _replace_workers(mixed: Mixed, version: Version) -> None:
    """Stop the workers, which hand over what they hold, and start those of that version."""
    for name in WORKERS:
        mixed.send(name, signal.SIGTERM)
    until("the workers are gone", lambda: all(mixed.children[name].exit_code() is not None for name in WORKERS))
    mixed.start_of(version, *WORKERS)


@pytest.mark.parametrize(("first", "then"), [(Version.OLDER, Version.NEWER), (Version.NEWER, Version.OLDER)])
def test_a_batch_passes_from_one_version_to_the_other(mixed: Mixed, first: Version, then: Version) -> None:
    """As in an upgrade, and as in one that is taken back.

    The client is of the second version and the workers that begin the batch of the first. They hand it over while it
    renders. Its pods are of the first version to the end.
    """
    mixed.start_of(first, "node", *WORKERS)
    until("a worker is there", mixed.ledger.workers.free_slots)
    prompts = mixed.folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, TOO_LONG]))
    mixed.tessera(then, "submit", prompts, "--batch-id", "passed")
    batches = mixed.ledger.batches
    until("the first image is committed", lambda: batches.counts("passed").images[ImageState.SUCCEEDED])
    _replace_workers(mixed, then)
    assert batches.state("passed") is BatchState.IN_PROGRESS
    until("the batch is over", lambda: batches.state("passed") is BatchState.COMPLETED)

    statuses = [_says(mixed, version, "status", "passed") for version in (first, then)]
    _agree(*statuses)
    assert (statuses[0]["images"]["succeeded"], statuses[0]["images"]["failed"]) == (4, 1)
    _agree(_says(mixed, first, "list"), _says(mixed, then, "list"))
    downloads = []
    for version in (first, then):
        mixed.tessera(version, "download", "passed", "--output", mixed.folder / version.value)
        downloads.append(_files(mixed.folder / version.value))
    assert downloads[0] == downloads[1]
    assert len([name for name in downloads[0] if name.startswith("images/")]) == 4

    # A ledger that the second version rebuilds from what the first has left in the bucket says the same.
    redis, prefix = mixed.ledger.store.redis, mixed.settings.redis_prefix
    for key in list(redis.scan_iter(f"{prefix}:*passed*")):
        redis.delete(key)
    mixed.tessera(then, "resume")
    until("the batch is known again", lambda: batches.known("passed"))
    until("it has ended again", lambda: is_final(batches.state("passed")))
    assert _says(mixed, first, "status", "passed")["images"] == statuses[0]["images"]


@pytest.mark.parametrize(("writer", "reader"), [(Version.OLDER, Version.NEWER), (Version.NEWER, Version.OLDER)])
def test_schedules_that_one_version_writes_the_other_reads_and_edits(
    mixed: Mixed, writer: Version, reader: Version
) -> None:
    mixed.ledger.announce(deployment())
    key = BatchObjects("prompts").root + "set.jsonl"
    mixed.artifacts.put(key, b'{"prompt": "a hill"}\n', content_type="text/plain")
    where = f"s3://{mixed.settings.s3_bucket}/{mixed.settings.s3_prefix}/{key}"
    mixed.tessera(
        writer, "schedule", "add", "nightly", "--prompts", where, "--cron", "0 3 * * *", "--tz", "Europe/Berlin"
    )
    mixed.tessera(reader, "schedule", "pause", "nightly")
    shown = [mixed.json(version, "schedule", "show", "nightly") for version in (writer, reader)]
    assert shown[0] == shown[1]
    assert shown[0]["paused"] is True
    mixed.tessera(reader, "schedule", "remove", "nightly")
    assert mixed.tessera(writer, "schedule", "list", "--json") == ""
