"""What broken-off submissions left goes after a day, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipeline.records.object_keys import BatchObjects
from tasks.control.clean_staged import AFTER, clean_staged
from tests.tasks.stage import Stage

TEXT = "text/plain"


def _keys(stage: Stage) -> set[str]:
    return set(stage.artifacts.list(""))


def test_staged_rows_that_nobody_accepted_go_after_a_day_and_accepted_ones_stay(stage: Stage) -> None:
    stage.batch(2)
    kept = _keys(stage)
    left = {BatchObjects("b").input("loser"), BatchObjects("never").input("t"), BatchObjects("never").invalid("t")}
    for key in left | {".probe/abc"}:
        stage.artifacts.put(key, b"{}\n", content_type=TEXT)
    clean_staged(stage.artifacts, datetime.now(UTC))
    assert _keys(stage) == kept | left | {".probe/abc"}
    clean_staged(stage.artifacts, datetime.now(UTC) + AFTER + timedelta(minutes=5))
    assert _keys(stage) == kept


def test_a_batch_json_that_cannot_be_read_protects_what_lies_beside_it(stage: Stage) -> None:
    objects = BatchObjects("odd")
    for key in (objects.manifest, objects.input("t")):
        stage.artifacts.put(key, b"not ours", content_type=TEXT)
    before = _keys(stage)
    clean_staged(stage.artifacts, datetime.now(UTC) + AFTER + timedelta(minutes=5))
    assert _keys(stage) == before


def test_the_rows_of_a_batch_whose_batch_json_was_deleted_are_kept(stage: Stage) -> None:
    stage.batch(2)
    stage.artifacts.delete(BatchObjects("b").manifest)
    kept = _keys(stage)
    clean_staged(stage.artifacts, datetime.now(UTC) + AFTER + timedelta(minutes=5))
    assert _keys(stage) == kept


def test_an_upload_in_parts_that_was_never_completed_is_aborted(stage: Stage) -> None:
    client, settings = stage.artifacts._client, stage.settings
    key = f"{settings.s3_prefix}/{BatchObjects('big').input('t')}"
    upload = client.create_multipart_upload(Bucket=settings.s3_bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=settings.s3_bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 5_000_000)
    assert stage.artifacts.abort_uploads(datetime.now(UTC) - AFTER) == 0
    clean_staged(stage.artifacts, datetime.now(UTC) + AFTER + timedelta(minutes=5))
    found = client.list_multipart_uploads(Bucket=settings.s3_bucket, Prefix=key)
    assert not found.get("Uploads")
