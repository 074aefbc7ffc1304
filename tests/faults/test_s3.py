"""S3 that refuses, is slow, breaks off in the middle, or is away, all in mid-render; a full disk; damaged pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import Batch
from pipeline.picture import Format
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries

slow = pytest.mark.slow_fault

OUTAGE_S = 60.0


def _rendered(deployment: Deployment) -> int:
    """How many images the ranks have finished, by the leader's log."""
    lines = deployment.attempt_log().splitlines()
    return sum('"event": "image rendered"' in line and '"rank": 0' in line for line in lines)


@slow
@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("answers 503", {"status": 503}),
        ("answers 403", {"status": 403}),
        ("hangs up", {"cut": "request"}),
    ],
)
def test_rendering_goes_on_while_s3_is_away_for_a_minute(
    started: Started, recoveries: Recoveries, what: str, rule: dict[str, Any]
) -> None:
    deployment = started(images_per_job=300)
    batch = deployment.rendering(300)  # more than there is time for
    with deployment.s3_wire.breaking(**rule):
        away = time.monotonic()
        committed, before = deployment.images_put(batch), _rendered(deployment)
        until("rendering goes on", lambda: _rendered(deployment) >= before + 4)
        time.sleep(max(0.0, away + OUTAGE_S - time.monotonic()))
        rendered = _rendered(deployment)
        assert deployment.images_put(batch) <= committed + (deployment.settings.slots or 1)  # on their way by then
    began = time.monotonic()
    recoveries.after(
        f"S3 {what} for {OUTAGE_S:.0f} s in mid-render",
        "everything that was rendered meanwhile is committed",
        lambda: batch.status().succeeded >= rendered,
        began,
    )
    assert batch.cancel() is BatchState.CANCELLING
    ends_well(deployment, batch, BatchState.CANCELLED)
    assert set(deployment.attempts(batch)) == {1}


@slow
@pytest.mark.parametrize("cut", ["upload", "answer"])
def test_uploads_that_break_off_are_repeated_and_committed_once(deployment: Deployment, cut: str) -> None:
    """In the middle of the body, so that the store has a part of it; or after it, so that nobody knows."""
    with deployment.s3_wire.breaking(method="PUT", key=r"/images/.*\.png$", cut=cut, times=3) as rule:
        batch = deployment.submit(3)
        ends_well(deployment, batch)
    assert rule.hits == 3


@slow
@pytest.mark.parametrize("rule", [{"delay_s": 2.0}, {"status": 503}], ids=["slow", "refusing every other request"])
def test_a_store_that_is_slow_or_overloaded_all_the_time(deployment: Deployment, rule: dict[str, Any]) -> None:
    every_other = rule if "delay_s" in rule else rule | {"every": 2}
    with deployment.s3_wire.breaking(**every_other):
        ends_well(deployment, deployment.submit(6))


@slow
@pytest.mark.parametrize("point", ["/shards/", r"/images/.*\.json$", "/fragments/", "/results.jsonl$", "/_SUCCESS$"])
def test_an_outage_at_every_step_of_a_batch(deployment: Deployment, point: str) -> None:
    with deployment.s3_wire.breaking(key=point, status=503) as rule:
        batch = deployment.submit(2)
        assert rule.reached.wait(90)
        time.sleep(10)
        assert not batch.status().finished
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
def test_a_pod_that_starts_during_an_outage_waits_for_its_end(deployment: Deployment, recoveries: Recoveries) -> None:
    with deployment.s3_wire.breaking(method="GET", key="/shards/", status=503) as rule:
        batch = deployment.submit(2)
        assert rule.reached.wait(90)
        time.sleep(30)
    began = time.monotonic()
    recoveries.after(
        "S3 answers 503 for 30 s while a pod starts",
        "an image is committed, by the same attempt",
        lambda: batch.status().succeeded,
        began,
    )
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


@slow
@pytest.mark.parametrize("body", [b"", b"something else", None], ids=["empty", "foreign", "truncated"])
def test_what_is_not_a_whole_picture_of_ours_is_rendered_again(deployment: Deployment, body: bytes | None) -> None:
    """It lies where the second image goes, and where the first has gone, before another attempt begins."""
    batch = deployment.rendering(4)
    objects = BatchObjects(batch.id)
    first = objects.image(0, 0, Format.PNG)
    whole = deployment.artifacts.get(first)
    assert whole is not None
    deployment.kill("node")  # the attempt dies with it
    for key in (first, objects.image(3, 0, Format.PNG)):
        deployment.artifacts.put(key, whole[: len(whole) // 2] if body is None else body, content_type="image/png")
    deployment.s3_wire.puts.clear()
    for image in batch.images():
        if image.result.key not in (first, objects.image(3, 0, Format.PNG)):
            deployment.s3_wire.puts[f"{deployment.settings.s3_prefix}/{image.result.key}"] += 1
    deployment.start("node")
    ends_well(deployment, batch)
    by_row = dict(enumerate(deployment.attempts(batch)))
    assert by_row[0] == by_row[3] == 2


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB; returns a file that fills it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mount, umount = shutil.which("mount") or "mount", shutil.which("umount") or "umount"
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs for the scratch space is not allowed here")
    try:
        yield folder / "filler"
    finally:
        subprocess.run([umount, "--lazy", str(folder)], check=True)


def _fill(path: Path) -> None:
    size = os.statvfs(path.parent).f_bfree * os.statvfs(path.parent).f_frsize
    path.write_bytes(b"0" * size)
    assert os.statvfs(path.parent).f_bfree == 0


@slow
@pytest.mark.parametrize("when", ["before the pod starts", "in mid-render"])
def test_a_full_disk_in_the_scratch_space(tmp_path: Path, started: Started, when: str) -> None:
    """Scratch and temporary files of node and pods lie on it."""
    with _small_disk(tmp_path / "data-0" / "node" / "scratch") as filler:
        deployment = started()
        deployment.kill("node")
        deployment.start("node", TMPDIR=str(filler.parent))
        if when == "before the pod starts":
            _fill(filler)
            batch: Batch = deployment.submit(2)
            until("an attempt was made", lambda: deployment.job_or_none(batch) and deployment.job(batch).attempt)
            time.sleep(15)
            filler.unlink()
        else:
            batch = deployment.rendering(6)
            _fill(filler)
        ends_well(deployment, batch)
        deployment.close()
