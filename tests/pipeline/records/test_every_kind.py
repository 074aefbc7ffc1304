"""Whatever stands in a stored record, it is unreadable, or can be written and read again as it is."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, RootModel

from embedded.attempts import AttemptStatus
from pipeline.bucket.trace import RankTrace, SpanRecord, Trace
from pipeline.client.local_stack import StackState
from pipeline.client.warm_engines import WarmEngine
from pipeline.deployment.layouts import Layout
from pipeline.errors import RecordUnreadable
from pipeline.ledger.dead_letters import DeadLetter
from pipeline.ledger.shares import Share
from pipeline.picture import Cascade, Highres, LaterPasses, Lora, RenderDetails, Scheduler, Stage
from pipeline.records.attempt import Code, PodReport
from pipeline.records.batch import AttemptEnd, Origin, Pace, Plan, Wait
from pipeline.records.end_marker import EndMarker, FileDigest, Vouched
from pipeline.records.generation import Generation
from pipeline.records.handover import Handover, Waits
from pipeline.records.results import FailureCode, OutcomeLine, RefusedLine, failure_of
from pipeline.records.schedules.schedule import Firing, FiringOutcome, Run, checked_spec, new_record
from pipeline.records.shards import ImageTask, _StoredLine
from pipeline.records.standalone import Ended, Serving
from pipeline.records.tokens import Scope, new_sign_in, new_token
from pipeline.records.uploads import UploadRecord
from pipeline.records.usage import Usage
from pipeline.records.webhooks import Delivery, HandedOver, Webhook, WebhookEndpoint
from pipeline.schema import read_record
from pipeline.states import BatchState
from pipeline.stored import Record
from tests.factories import at, attempt_spec, batch_record, deployment, image_result, job_record, resolved_row
from tests.house import PRODUCT, ROOT

ROW = resolved_row(
    metadata={"weight": 1.5, "who": "we"},
    loras=(Lora(name="one", scale=0.5, text_scale=0.25, blocks={"M00": 1.5}),),
    scheduler=Scheduler(name="DDIMScheduler", settings={"eta": 0.5}),
    timesteps=(900.0, 500.0),
    sigmas=(9.0, 5.0),
    guidance_interval=(0.1, 0.9),
    highres=Highres(base_px=512, steps=3),
    later_passes=LaterPasses(window_px=512),
    cascade=Cascade(guidance_scale=3.0),
    resync=0.5,
    most_work=1.5,
    strength=0.5,
    refiner_switch_at=0.8,
)
TASK = ImageTask(ROW, 0)
RESULT = image_result(TASK).model_copy(
    update={"made": RenderDetails(canvas=(64, 64), stages=(Stage(width=64, height=64, steps=2, strength=0.5, seed=1),))}
)
WEBHOOK = Webhook(url="https://example.com/")
JOB = job_record()
WAIT = Wait(reason="S3 is away", since=at())
PACE = Pace(job_seconds=600.0, layout=Layout.parse("1x1x2"), faster={"demo": 1.5}, native_px={"demo": 256})
BATCH = batch_record(
    defaults={"steps": 2, "sigmas": [9.0, 5.0]},
    overrides={"strength": 0.5},
    labels={"team": "ours"},
    unreached={"cascade": 1},
    webhooks=(WEBHOOK,),
    origin=Origin(schedule="nightly", fire_at=at()),
).model_copy(update={"pace": PACE, "wait": WAIT, "priority": 3})
SCHEDULE = new_record("nightly", checked_spec({"cron": "0 2 * * *", "prompts": "s3://b/p.jsonl", "seed": 3}), at())
FILE = FileDigest(sha256="0" * 64, size_bytes=10)
USAGE = Usage(seconds={"denoise": 1.5}, rank_seconds=3.0, stalled_s=0.5)
SPAN = SpanRecord(name="denoise", start_ns=1, end_ns=2)

EVERY: tuple[BaseModel, ...] = (
    *(BATCH, BATCH.manifest, ROW, attempt_spec(JOB), OutcomeLine(RESULT), deployment(), SCHEDULE),
    OutcomeLine(failure_of(TASK, FailureCode.BLACK, "dark", retryable=True)),
    JOB.model_copy(
        update={
            "attempt": attempt_spec(JOB, displacement={"resync": 0.5}),
            "ended": (AttemptEnd(number=1, code=Code.DEADLINE, reason="late", ended_at=at()),),
            "wait": WAIT,
            "fenced_at": at(),
        }
    ),
    Plan(images_per_job=3, pace=PACE),
    _StoredLine(row=ROW, start=0, stop=1),
    RefusedLine(line=1, field="steps", message="no"),
    EndMarker(
        state=BatchState.COMPLETED,
        vouched=Vouched(
            images=4, succeeded=4, failed=0, cancelled=0, jobs=2, input_sha256="0", results=FILE, errors=FILE
        ),
    ),
    Generation(token="t", sequence=3),
    PodReport(code=Code.SUCCEEDED, rank=0, image=1, usage=USAGE),
    Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=(SPAN,), stalled_s=0.5),)),
    Firing(id="nightly-x", fire_at=at(), outcome=FiringOutcome.SUBMITTED, recorded_at=at(), unreached={"steps": 1}),
    SCHEDULE.model_copy(update={"runs": (Run(token="t", asked_at=at()),)}),
    new_token("t", (Scope.READ,), at(), expires_at=at(60)).record,
    new_sign_in("t", (Scope.READ,))[2],
    UploadRecord(id="file-0", tenant="t", filename="a.csv", purpose="batch", size_bytes=3, created_at=at()),
    WebhookEndpoint(id="wh-1", tenant="t", webhook=WEBHOOK, created_at=at()),
    HandedOver(of="t0", at=at()),
    Delivery(
        **{"id": "msg_0", "batch_id": "b", "tenant": "t", "event": "accepted", "url": WEBHOOK.url, "body": "{}"},
        **{"created_at": at(), "until": at(60), "next_at": at(3), "status": 500},
    ),
    DeadLetter(at=at(), queue="q", reason="body", found="x", size_bytes=3, beginning="x"),
    Share(batch_id="b", staged="t0", digest="0", expires_at=at()),
    StackState(pid=1, started_at=at(), data_dir="/d", logs="/l", environment={"A": "b"}),
    WarmEngine(model="demo", ranks=2, memory_bytes=3, since=at(), ends_after_s=60.0),
    AttemptStatus(uid="u", phase="ended", started_at=at(), ended_at=at(60), exit_code=1),
    Handover(serial=1, spec="{}", uid="u", termination_log="/t", log="/l", folder="/f"),
    Waits(serial=1, exit_code=0, model="demo"),
    Serving(settings="0", deployment=deployment(), warm_s=3.0),
    Ended(code=Code.SUCCEEDED, reason=""),
)

BAD = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-1", "0", "1.5", "1" + "0" * 400, "null", "true", '""'),
    *('"x"', "[]", "{}", "[NaN]", '{"x": [1e999]}', '"2026-01-01T00:00:00"', '"9999-12-31T23:59:59Z"', '"\\u0000"'),
)
_HERE = "what is put here"


def with_each_leaf_replaced(value: Any) -> Iterator[Any]:
    """The JSON, each time with something else in place of one leaf of it, or as another field of an object."""
    if isinstance(value, dict):
        yield value | {"of_a_newer_version": _HERE}
        for name, part in value.items():
            yield from (value | {name: other} for other in with_each_leaf_replaced(part))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in with_each_leaf_replaced(part))
    else:
        yield _HERE


@pytest.mark.parametrize("record", EVERY, ids=lambda record: type(record).__name__)
def test_what_is_read_can_be_written_and_read_again(record: BaseModel) -> None:
    kind, read = type(record), 0
    text = record.model_dump_json()
    assert read_record(kind, text, what="it") == record
    for changed in with_each_leaf_replaced(json.loads(text)):
        for bad in BAD:
            body = json.dumps(changed).replace(json.dumps(_HERE), bad)
            try:
                found = read_record(kind, body, what="it")
            except RecordUnreadable:
                continue
            read += 1
            written = found.model_dump_json()
            assert read_record(kind, written, what="it") == found, body
    assert read


READERS = ("read_record", "read_lines", "read_each", "_read_or_warn", "_stored")
KIND = re.compile("_?[A-Z].*")


def kinds_read() -> set[type[BaseModel]]:
    """Every kind of record that the product reads by its name."""
    found = set()
    for path in (path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        if "read_" not in text or path.name == "schema.py":
            continue
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            reader = ast.unparse(call.func).rpartition(".")[2]
            first = call.args[0] if call.args else None
            if reader in READERS and isinstance(first, ast.Name) and KIND.fullmatch(first.id):
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                found.add(getattr(module, first.id))
    return found


def parts_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this type may have in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from parts_of(field.annotation)
    else:
        for inner in get_args(annotation):
            yield from parts_of(inner)


def test_no_kind_of_record_and_no_part_of_one_takes_numbers_that_json_does_not_have() -> None:
    kinds = kinds_read()
    assert len(kinds) > 30
    parts = {part for kind in kinds for part in parts_of(kind) if not issubclass(part, RootModel)}
    assert {part.__name__ for part in parts if part.model_config.get("allow_inf_nan") is not False} == set()
    assert {kind.__name__ for kind in kinds if not issubclass(kind, Record | RootModel)} == set()
