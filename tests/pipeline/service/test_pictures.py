"""Pictures of one's own over HTTP: uploaded, named by rows, kept with the batch, and nobody else's."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import openai
import pytest
from PIL import Image

from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tests.pipeline.service.served import Answer, Served


def png(colour: tuple[int, int, int], width: int = 64, height: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def _upload(served: Served, body: bytes, name: str = "room.png", purpose: str = "picture", **headers: str) -> Answer:
    edge = uuid.uuid4().hex
    form = f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'.encode()
    form += f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    form += body + f"\r\n--{edge}--\r\n".encode()
    return served.ask("POST", "/api/files", body=form, Content_Type=f"multipart/form-data; boundary={edge}", **headers)


def _inputs(served: Served, batch_id: str) -> list[str]:
    return list(served.stage.artifacts.list(BatchObjects(batch_id).root + "inputs/"))


def _rows(served: Served, batch_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.ask("GET", f"/api/batches/{batch_id}/rows").body.splitlines()]


def test_a_row_begins_with_an_uploaded_picture_which_its_batch_keeps(served: Served) -> None:
    uploaded = _upload(served, png((255, 0, 0)), "photos/my room.png").json
    assert (uploaded["purpose"], uploaded["filename"]) == ("picture", "my room.png")
    rows = [{"prompt": f"hill {number}", "image": f"upload://{uploaded['id']}"} for number in range(100)]
    assert served.ask("POST", "/api/validate", {"prompts": rows}).json["acceptable"]
    assert served.ask("POST", "/api/batches", {"prompts": rows, "batch_id": "begun"}).status == 201
    assert served.ask("DELETE", f"/v1/files/{uploaded['id']}").json["deleted"]
    assert served.ended("begun") is BatchState.COMPLETED
    first = _rows(served, "begun")[0]
    assert (first["width"], first["height"]) == (64, 128)
    assert first["image"]["name"] == "my room.png"
    assert len(_inputs(served, "begun")) == 1


def test_what_holds_for_all_rows_names_a_picture_too(served: Served) -> None:
    image, mask = (_upload(served, png(colour)).json["id"] for colour in ((0, 0, 255), (255, 255, 255)))
    body = {
        "prompts": ["a hill"],
        "options": {"image": f"upload://{image}", "mask": f"upload://{mask}"},
        "batch_id": "masked",
    }
    answer = served.ask("POST", "/api/batches", body)
    assert answer.status == 201, answer.body
    assert len(_inputs(served, "masked")) == 2


def test_a_picture_is_its_tenants_alone(served: Served) -> None:
    file_id = _upload(served, png((255, 0, 0))).json["id"]
    for named, token in ((file_id, served.new_token("two")), ("file-" + "0" * 24, served.token)):
        rows = [{"prompt": "x", "size": "64x128"}, {"prompt": "x", "image": f"upload://{named}"}]
        refused = served.ask("POST", "/api/batches", {"prompts": rows}, token=token)
        (error,) = refused.error["errors"]
        assert (error["line"], error["field"]) == (2, "image")
        assert f"no file '{named}'" in error["message"]


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"image": "room.png"}, "image", "need upload://ID, an uploaded picture"),
        ({"image": "s3://bucket/room.png"}, "image", "upload://ID, an uploaded picture, or batch://ID/CUSTOM_ID"),
        ({"image": "file:///home/me/room.png"}, "image", "a path, upload://ID, s3://BUCKET/KEY"),
        ({"image": "upload://HELD", "mask": "mask.png"}, "mask", "need upload://ID"),
        ({"image": "upload://TEXT"}, "image", "PNG, JPEG"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_by_row_and_field(
    served: Served, row: dict[str, str], field: str, message: str
) -> None:
    known = {"HELD": _upload(served, png((255, 0, 0))).json["id"], "TEXT": _upload(served, b"<html>").json["id"]}
    for name, file_id in known.items():
        row = {key: value.replace(name, file_id) for key, value in row.items()}
    refused = served.ask("POST", "/api/batches", {"prompts": [{"prompt": "x", **row}]})
    (error,) = refused.error["errors"]
    assert (error["line"], error["field"]) == (1, field)
    assert message in error["message"]


def test_an_upload_of_an_unknown_purpose_is_refused(served: Served) -> None:
    other = _upload(served, png((255, 0, 0)), purpose="fun")
    assert (other.status, "purpose" in other.error["message"]) == (422, True)


def test_openais_client_uploads_pictures_as_well(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as client:
        uploaded = client.files.create(file=("room.png", png((9, 9, 9))), purpose="vision")
        made = client.images.generate(prompt="a fox", extra_body={"image": f"upload://{uploaded.id}", "steps": 2})
    assert made.data
