"""Pictures of one's own over HTTP: uploaded, named by rows, kept with the batch, and nobody else's."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from PIL import Image

from pipeline import Client, PromptSetError
from pipeline.client.remote.http import HttpApi
from pipeline.operations.uploads import list_uploads
from pipeline.promptset.formats.by_form import InputFormat
from pipeline.records.object_keys import BatchObjects
from pipeline.records.uploads import UploadRecord
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of a user's machine, in a folder beside the current one."""
    for name, colour in (("room", (255, 0, 0)), ("same", (255, 0, 0)), ("mask", (255, 255, 255))):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    return tmp_path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that clients upload."""
    names = list[str]()
    real = HttpApi.upload

    def upload(self: HttpApi, name: str, file: Any, query: Any, purpose: str = "prompts") -> str:
        if purpose == "picture":
            names.append(name)
        return real(self, name, file, query, purpose)

    monkeypatch.setattr(HttpApi, "upload", upload)
    return names


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served.url, token=served.token)


def test_the_client_uploads_what_a_hundred_rows_share_once(
    client: Client, served: Served, folder: Path, sent: list[str]
) -> None:
    lines = [{"prompt": f"{number}", "image": "room.png" if number % 2 else "same.png"} for number in range(100)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batch = client.submit(folder / "rows.jsonl", batch_id="shared", steps=2)
    assert sent == ["same.png"]
    assert len(_inputs(served, batch.id)) == 1
    assert [row["image"]["name"] for row in _rows(served, batch.id)[:2]] == ["same.png", "room.png"]
    assert batch.wait(120).state is BatchState.COMPLETED
    again = client.submit(folder / "rows.jsonl", batch_id="shared", steps=2)
    assert again.id == batch.id


def test_rows_in_memory_and_what_holds_for_all_of_them_name_paths_from_here(
    client: Client, served: Served, folder: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows: list[dict[str, Any]] = [{"prompt": "x", "image": "room.png"}, {"prompt": "y"}]
    with served.held():
        batch = client.submit(rows, batch_id="memory", image="same.png", mask="mask.png", mask_grow=2)
        assert client.estimate(rows, image="same.png").images == 2
        batch.cancel()
    assert sent == ["same.png", "mask.png", "same.png"]
    found = _rows(served, batch.id)
    assert [(row["image"]["name"], row["inpaint"]["mask"]["name"]) for row in found] == [
        ("room.png", "mask.png"),
        ("same.png", "mask.png"),
    ]


def test_a_set_that_is_read_only_once_names_paths_as_well(
    client: Client, served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    piped = io.TextIOWrapper(io.BytesIO(b"prompt,image\n\na,room.png\nb,none.png\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    with pytest.raises(PromptSetError, match="standard input: 1 error") as found:
        client.submit("-", input_format=InputFormat.CSV)
    assert [(error.line, error.field) for error in found.value.errors] == [(4, "image")]


def test_pictures_that_are_not_there_are_refused_as_beside_the_bucket(
    client: Client, served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "text.png").write_bytes(b"<html>")
    (folder / "large.png").write_bytes(bytes(3 << 20))
    names = ["none.png", ".", "text.png", "room.png", "s3://bucket/x.png"]
    rows = [{"prompt": "x", "image": name} for name in names]
    rows.append({"prompt": "x", "image": "room.png", "mask": "none.png"})

    def refused(one: Client, some: list[dict[str, str]]) -> list[tuple[int, str | None, str]]:
        with pytest.raises(PromptSetError) as found:
            one.submit(some, tenant="one")
        return [(error.line, error.field, error.message) for error in found.value.errors]

    near, far = Client(served.connection), refused(client, rows)
    assert [line for line, _, _ in far] == [1, 2, 3, 5, 6]
    assert [one for one in far if one[0] != 5] == [one for one in refused(near, rows) if one[0] != 5]
    ((_, field, message),) = refused(client, [{"prompt": "x", "image": "large.png"}])
    assert (field, "3 MiB found; at most 1 MiB wanted" in message) == ("image", True)


def test_an_upload_waits_while_its_token_is_at_its_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    api, waited, limited = HttpApi(served.url, served.token), list[int](), contextlib.ExitStack()

    def wait(seconds: int) -> None:
        waited.append(seconds)
        limited.close()

    monkeypatch.setattr("pipeline.client.remote.http.time", SimpleNamespace(sleep=wait))
    none = served.connection.settings.model_copy(update={"api_requests_per_minute": 0})
    limited.enter_context(served.with_settings(none))
    with limited:
        file_id = api.upload("room.png", io.BytesIO(png((255, 0, 0))), {}, "picture")
    assert [0 < seconds <= 60 for seconds in waited] == [True]
    assert served.ask("GET", f"/v1/files/{file_id}/content").body == png((255, 0, 0))


def test_a_client_names_uploads_of_its_tenant_alone(client: Client, served: Served, folder: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "x", "image": "room.png"}))
    before = {one.id for one in list_uploads(served.stage.artifacts, "two")}
    other = Client(served.url, token=served.new_token("two"))
    other.submit(folder / "rows.jsonl", batch_id="theirs").cancel()
    (theirs,) = [
        one.id
        for one in list_uploads(served.stage.artifacts, "two")
        if one.id not in before and isinstance(one, UploadRecord) and one.purpose == "picture"
    ]
    body = {"prompts": [{"prompt": "x", "image": "room.png"}], "pictures": {"room.png": theirs}}
    (error,) = served.ask("POST", "/api/batches", body).error["errors"]
    assert (error["field"], f"no file '{theirs}'" in error["message"]) == ("image", True)
