"""The spec of an attempt: what it hashes to stays what it was, for what runs is adopted by it."""

from __future__ import annotations

from pipeline.deployment.displacement import Displacement
from pipeline.deployment.layouts import Layout
from pipeline.records.attempt import AttemptSpec
from pipeline.schema import read_record

SPEC = (
    '{"schema_version":1,"name":"tessera-abcdef-00003-2","batch_id":"b","incarnation":"abcdef","job_index":3,"number":2,'
    '"token":"t","image":"local","gpus":8,"layout":"1x2x4","exact":false,"warmup_steps":4,"device":"cuda",'
    '"dtype":"float16","vae_dtype":"float32","idle_ranks":false,"lean":[],"shard_key":"b/shards/00003.jsonl",'
    '"deadline_s":60.0,"avoid_nodes":[]}'
)


def test_a_spec_is_written_and_hashed_as_by_version_0_1() -> None:
    spec = read_record(AttemptSpec, SPEC, what="a spec")
    assert spec.layout == Layout(data=1, cfg=2, patch=4)
    assert spec.model_dump_json() == SPEC
    assert spec.digest == "2c8e440a1e520a05"


def test_the_number_format_on_a_gpu_is_written_where_it_differs() -> None:
    spec = read_record(AttemptSpec, SPEC, what="a spec").model_copy(update={"vae_dtype_on_gpu": "bfloat16"})
    again = read_record(AttemptSpec, spec.model_dump_json(), what="a spec")
    assert (again.vae_dtype, again.vae_dtype_on_gpu) == ("float32", "bfloat16")


def test_how_displaced_evaluations_are_computed_is_written_where_it_differs_and_a_newer_versions_words_stay() -> None:
    spec = read_record(AttemptSpec, SPEC, what="a spec")
    assert spec.displacement == Displacement()
    newer = SPEC.replace('"idle_ranks"', '"displacement":{"resync":0.2,"newer":1},"idle_ranks"')
    assert read_record(AttemptSpec, newer, what="a spec").model_dump_json() == newer
