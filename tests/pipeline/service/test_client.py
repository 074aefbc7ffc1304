"""The Python client and the command over HTTP: the same as over Redis and S3."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import Client, PromptSetError, RequestError, UnknownBatch
from pipeline.cli.exits import exit_code
from pipeline.cli.main import app
from pipeline.errors import ServiceError, SettingsError, TesseraError
from pipeline.operations.listing import BatchFilter
from pipeline.records.tokens import Scope
from pipeline.states import BatchState
from tests.pipeline.service.served import Served


@pytest.fixture(scope="module")
def client(served: Served) -> Client:
    return Client(served.url, token=served.new_token("one", Scope.ADMIN))


@pytest.fixture(scope="module")
def done(served: Served, client: Client) -> str:
    """A batch of three images, one of several of a row, that are all there."""
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "size": "64x128", "num_images": 2, "custom_id": "two"},
        {"prompt": "b", "size": "64x128"},
    ]
    batch = client.submit(rows, batch_id="far", steps=4, labels={"project": "atlas"})
    assert batch.wait(120).state is BatchState.COMPLETED
    return batch.id


def test_it_is_the_same_client(served: Served, client: Client, done: str, tmp_path: Path) -> None:
    near, far = Client(served.connection).batch(done), client.batch(done)
    there, here = near.status().as_dict(), far.status().as_dict()
    for fleeting in ("seen_at",):
        there.pop(fleeting)
        here.pop(fleeting)
    assert here == there
    assert [image.result for image in far.images()] == [image.result for image in near.images()]
    assert next(far.images()).bytes() == next(near.images()).bytes()
    assert far.failure_groups() == near.failure_groups() == []
    pages = [batch.download(tmp_path / name) for batch, name in ((near, "near"), (far, "far"))]
    files = [sorted(path.relative_to(page.parents[1]) for path in page.parents[1].rglob("*")) for page in pages]
    assert files[0] == files[1]
    assert client.batches(5, BatchFilter(labels={"project": "atlas"}))[0].as_dict()["id"] == done
    assert client.doubt() == Client(served.connection).doubt()
    assert client.full_id("last") == done


def test_prompt_sets_of_every_kind_are_sent(client: Client, served: Served, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text("prompt,size\na fox,64x128\nbad,7x7\n")
    with pytest.raises(PromptSetError) as found:
        client.submit(table)
    assert str(found.value).startswith(f"{table}: 1 error")
    assert [(error.line, error.field) for error in found.value.errors] == [(3, "size")]
    with served.held():
        assert client.submit(table, skip_invalid=True).status().invalid_rows == 1
        assert client.estimate(["a", "b"], size="64x128").images == 2
        batch = client.submit(["a fox"], size="64x128", batch_id="held", override={"guidance_scale": 2.0})
        assert served.stage.ledger.batches.get("held").manifest.overrides == {"guidance_scale": 2.0}
        assert batch.pause() is BatchState.PAUSED
        assert batch.unpause() is not BatchState.PAUSED
        assert batch.cancel() is BatchState.CANCELLING
    assert batch.wait(60).state is BatchState.CANCELLED
    batch.purge()


def test_schedules_are_kept_there(client: Client, served: Served) -> None:
    prompts = f"{served.stage.artifacts.root}prompts/one/p.jsonl"
    served.stage.artifacts.put("prompts/one/p.jsonl", b'{"prompt": "x"}\n', content_type="text/plain")
    added = client.schedules.add("weekly", cron="0 3 * * 1", prompts=prompts, options={"steps": 5}, tz="Europe/Vienna")
    near = Client(served.connection).schedules.get("weekly")
    assert added.as_dict() == client.schedules.get("weekly").as_dict() == near.as_dict()
    assert [one.as_dict()["name"] for one in client.schedules.list()] == ["weekly"]
    assert client.schedules.pause("weekly").record.paused
    assert not client.schedules.resume("weekly").record.paused
    assert client.schedules.run_now("weekly").startswith("weekly-")
    assert client.schedules.history("weekly") == []
    client.schedules.remove("weekly")


def test_errors_are_those_of_the_same_name(client: Client, served: Served, done: str) -> None:
    near = Client(served.connection)

    def both(act: Any) -> tuple[TesseraError, TesseraError]:
        errors = []
        for one in (near, client):
            with pytest.raises(TesseraError) as found:
                act(one)
            errors.append(found.value)
        return errors[0], errors[1]

    for act in (
        lambda one: one.batch("never").status(),
        lambda one: one.submit(["x"], batch_id=done, size="64x128", tenant="one"),
        lambda one: one.submit([{"prompt": "x", "stepss": 3}], tenant="one"),
        lambda one: one.submit(["x"], priority=99, tenant="one"),
        lambda one: one.schedules.get("never"),
    ):
        here, there = both(act)
        assert (type(there), str(there), exit_code(there)) == (type(here), str(here), exit_code(here))


def test_what_needs_credentials_says_so(client: Client, done: str) -> None:
    for act in (
        lambda: client.batch(done).verify(),
        lambda: list(client.batch(done).links(timedelta(minutes=1))),
        client.resume,
        lambda: client.drain(None),
    ):
        with pytest.raises(RequestError, match=r"credentials|business of whoever"):
            act()


def test_an_address_or_token_that_is_none_is_refused(served: Served) -> None:
    with pytest.raises(SettingsError, match="an address as in"):
        Client("ftp://x", token="tess_1")
    with pytest.raises(SettingsError, match="tessera token create"):
        Client(served.url, token="")
    with pytest.raises(RequestError, match="unknown, revoked or expired"):
        Client(served.url, token="tess_000000000000_" + "x" * 43).batches()
    with pytest.raises(ServiceError, match="does not answer"):
        Client("http://127.0.0.1:9", token="tess_1").batches()


def test_the_command_works_by_address(
    served: Served, client: Client, done: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_URL", served.url)
    monkeypatch.setenv("TESSERA_TOKEN", served.token)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        finished = CliRunner().invoke(app, list(arguments))
        assert finished.exception is None, finished.exception
        return finished.stdout

    assert json.loads(run("status", "fa", "--json"))["succeeded"] == 3
    assert json.loads(run("watch", done, "--json").splitlines()[-1])["state"] == "completed"
    assert done in run("list")
    (tmp_path / "p.txt").write_text("a hill\n")
    assert "1 row, 1 image" in run("submit", "p.txt", "--size", "64x128")
    assert "valid for the deployment" in run("validate", "p.txt", "--size", "64x128")
    assert "1 image in 1 job" in run("estimate", "p.txt", "--size", "64x128")
    assert Path(run("download", done).strip()).name == "index.html"
    with pytest.raises(UnknownBatch):
        Client().batch("never").status()
