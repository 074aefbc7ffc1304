"""OpenAI's own client, as PyPI has it, against the service."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import openai
import PIL.Image
import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import RefusedLine
from pipeline.records.uploads import UPLOADS
from pipeline.service.openai.outputs import error_lines
from pipeline.states import BatchState
from tests.pipeline.service.served import Served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as client:
        yield client


def _line(number: int, **body: Any) -> dict[str, Any]:
    request = {"prompt": f"a hill, {number}", "size": "64x128", **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/images/generations", "body": request}


def _uploaded(client: openai.OpenAI, lines: list[dict[str, Any]]) -> str:
    body = "\n".join(map(json.dumps, lines)).encode()
    return client.files.create(file=("prompts", body), purpose="batch").id


def _content(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_models_are_those_of_the_deployment(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "tessera"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_a_batch_of_twenty_with_a_bad_line(client: openai.OpenAI, served: Served) -> None:
    file_id = _uploaded(client, [_line(number) for number in range(20)] + [_line(20, size="7x7")])
    created = client.batches.create(
        input_file_id=file_id,
        endpoint="/v1/images/generations",  # type: ignore[arg-type,unused-ignore]  # of newer clients
        completion_window="24h",
        metadata={"project": "atlas", "say": "what you like, Ümläute and all"},
    )
    assert created.status in {"validating", "in_progress"}
    assert served.ended(created.id) is BatchState.COMPLETED
    batch = client.batches.retrieve(created.id)
    assert (batch.status, batch.input_file_id) == ("completed", file_id)
    assert batch.metadata == {"project": "atlas", "say": "what you like, Ümläute and all"}
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (21, 20, 1)
    output = _content(client, batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"r{number}" for number in range(20)]
    assert {line["response"]["status_code"] for line in output} == {200}
    assert {line["response"]["body"]["created"] for line in output} == {batch.completed_at}
    path = output[3]["response"]["body"]["data"][0]["url"].removeprefix(served.url)
    assert PIL.Image.open(io.BytesIO(served.ask("GET", path).body)).size == (64, 128)
    [error] = _content(client, batch.error_file_id)
    assert (error["error"]["line"], error["error"]["param"]) == (21, "size")
    assert client.files.retrieve(str(batch.output_file_id)).purpose == "batch_output"
    assert created.id in [one.id for one in client.batches.list(limit=1)]


def test_cancel_keeps_what_is_there(client: openai.OpenAI, served: Served) -> None:
    with served.held():
        file_id = _uploaded(client, [_line(number) for number in range(3)])
        created = client.batches.create(
            input_file_id=file_id,
            endpoint="/v1/images/generations",  # type: ignore[arg-type,unused-ignore]
            completion_window="24h",
        )
        assert client.batches.cancel(created.id).status in {"cancelling", "cancelled"}
    assert served.ended(created.id) is BatchState.CANCELLED
    batch = client.batches.retrieve(created.id)
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert batch.cancelled_at is not None


def test_pictures_of_a_prompt_come_as_bytes_or_as_urls(client: openai.OpenAI, served: Served) -> None:
    answer = client.images.generate(prompt="a fox", n=2, size="64x128")  # type: ignore[arg-type,unused-ignore]
    bodies = [base64.b64decode(str(image.b64_json)) for image in answer.data or ()]
    assert [PIL.Image.open(io.BytesIO(body)).size for body in bodies] == [(64, 128)] * 2
    assert answer.size == "64x128"
    linked = client.images.generate(
        prompt="a fox",
        size="128x128",  # type: ignore[arg-type,unused-ignore]
        response_format="url",
        extra_body={"steps": 3, "seed": 5},
        extra_headers={"Idempotency-Key": "fox"},
    )
    assert linked.data
    path = str(linked.data[0].url).removeprefix(served.url)
    whole, part = served.ask("GET", path), served.ask("GET", path, Range="bytes=1-3")
    assert (part.status, part.body) == (206, b"PNG")
    assert whole.headers["Content-Type"] == "image/png"
    again = client.images.generate(
        prompt="a fox",
        size="128x128",  # type: ignore[arg-type,unused-ignore]
        extra_body={"steps": 3, "seed": 5},
        extra_headers={"Idempotency-Key": "fox"},
    )
    assert again.batch == linked.batch  # type: ignore[attr-defined]


def test_a_picture_that_takes_too_long_says_where_to_look(client: openai.OpenAI, served: Served) -> None:
    own = served.stage.settings.model_copy(update={"api_wait_s": 0.0})
    with served.held(), served.with_settings(own), pytest.raises(openai.InternalServerError) as found:
        client.images.generate(prompt="a fox", size="64x128")  # type: ignore[arg-type,unused-ignore]
    assert found.value.status_code == 504
    assert found.value.response.headers["x-should-retry"] == "false"
    assert "/api/batches/" in found.value.message


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ({"prompt": "x", "size": "7x7"}, "size"),
        ({"prompt": "x", "n": 0}, "num_images"),
        ({"prompt": "x", "response_format": "tiff"}, "b64_json or url wanted"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "image": "cat.png"}, "not read on your machine"),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_field(
    served: Served, request_body: dict[str, Any], message: str
) -> None:
    answer = served.ask("POST", "/v1/images/generations", request_body)
    assert answer.status in (400, 422)
    assert message in json.dumps(answer.error)


def test_files_are_the_tenants_own(client: openai.OpenAI, served: Served) -> None:
    file_id = _uploaded(client, [_line(0)])
    other = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.new_token("two"), max_retries=0)
    with other, pytest.raises(openai.NotFoundError):
        other.files.content(file_id)
    assert file_id in [one.id for one in client.files.list()]
    assert client.files.retrieve(file_id).filename == "prompts"
    assert client.files.content(file_id).json()["custom_id"] == "r0"
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_a_file_whose_record_cannot_be_read_is_listed_with_its_error_and_can_be_removed(
    client: openai.OpenAI, served: Served
) -> None:
    good, bad = (_uploaded(client, [_line(0)]) for _ in range(2))
    [key] = [key for key in served.stage.artifacts.list(UPLOADS) if key.endswith(f"{bad}.json")]
    served.stage.artifacts.put(key, b"{", content_type="application/json")
    found = {one.id: one for one in client.files.list()}
    assert (found[good].status, found[bad].status) == ("processed", "error")
    assert "broken JSON" in str(found[bad].status_details)
    assert bad not in [one.id for one in client.files.list(purpose="batch")]
    assert client.files.delete(bad).deleted
    assert [key for key in served.stage.artifacts.list(UPLOADS) if bad in key] == []
    assert client.files.retrieve(good).status == "processed"


def test_a_batch_of_bad_lines_only_names_every_line(client: openai.OpenAI) -> None:
    file_id = _uploaded(client, [_line(0, size="7x7"), _line(1, steps=-1)])
    with pytest.raises(openai.UnprocessableEntityError) as found:
        client.batches.create(
            input_file_id=file_id,
            endpoint="/v1/images/generations",  # type: ignore[arg-type,unused-ignore]
            completion_window="24h",
        )
    body: Any = found.value.body
    assert [(error["line"], error["field"]) for error in body["errors"]] == [(1, "size"), (2, "steps")]
    assert body["message"].startswith("prompts: 2 errors")


def test_a_line_of_errors_that_cannot_be_read_costs_itself_only(artifacts: Artifacts) -> None:
    refused = RefusedLine(line=2, field="size", message="no").model_dump_json().encode()
    body = b"\n".join([b"{", b"7", b"\xff", refused, b"[" * 100_000, b""])
    artifacts.put(BatchObjects("b").errors, body, content_type="application/x-ndjson")
    [line] = error_lines(artifacts, "b")
    assert json.loads(line)["error"] == {"code": "E_INVALID", "message": "no", "line": 2, "param": "size"}
