"""What broken-off submissions left goes after a day, and nothing else does."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from pipeline.operations.uploads import get_upload, put_upload
from pipeline.records.object_keys import BatchObjects
from pipeline.records.uploads import UploadRecord, upload_files, upload_record_key
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


def test_an_uploaded_file_whose_record_was_never_written_goes_after_a_day(stage: Stage) -> None:
    def upload(tenant: str, name: str) -> UploadRecord:
        file = io.BytesIO(b"a red hill")
        return put_upload(stage.artifacts, file, tenant=tenant, filename=name, purpose="prompts", at=datetime.now(UTC))

    kept, lost = upload("acme", "a.csv.gz"), upload("atlas", "b.txt")
    stage.artifacts.delete(upload_record_key("atlas", lost.id))
    stage.artifacts.put(f"{upload_files('atlas')}by-hand.txt", b"a hill", content_type=TEXT)
    before = _keys(stage)
    clean_staged(stage.artifacts, datetime.now(UTC))
    assert _keys(stage) == before
    clean_staged(stage.artifacts, datetime.now(UTC) + AFTER + timedelta(minutes=5))
    assert before - _keys(stage) == {lost.key}
    assert get_upload(stage.artifacts, "acme", kept.id) == kept
