"""A model from the hub: the hub's own client, against a hub of the test's."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REVISION = "4" * 40
FILES = {
    "model_index.json": json.dumps(
        {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet"], "image_encoder": [None, None]}
    ).encode(),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": b"\1" * 5000,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"\2" * 2500,
    "unet/model.onnx": b"\3" * 100,
    "vae_decoder/model.safetensors": b"\4" * 100,
    "sd_xl_base_1.0.safetensors": b"\5" * 100,
}
WANTED = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


class Hub(ThreadingHTTPServer):
    """One repository, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.broken = self.damages = False


def _listed(name: str, body: bytes) -> dict[str, object]:
    listed: dict[str, object] = {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
    if name.endswith(".safetensors"):
        listed["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return listed


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.tokens.add(self.headers.get("Authorization"))
        if with_body:
            self.server.asked.append(path)
        resolve = f"/studio/xl/resolve/{REVISION}/"
        if path == f"/api/models/studio/xl/tree/{REVISION}":
            self._send(json.dumps([_listed(*file) for file in FILES.items()]).encode(), with_body=with_body)
        elif path.startswith(resolve) and path.removeprefix(resolve) in FILES and not self.server.broken:
            body = FILES[path.removeprefix(resolve)]
            damaged = self.server.damages and path.endswith(".safetensors")
            self._send(body[::-1].replace(b"\1", b"\6") if damaged else body, with_body=with_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, *, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a test's server has no log."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def _run(hub: Hub, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TESSERA_"))}
    own |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(target.parent / "hf")}
    own |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"} | environment
    arguments = ["--repository", "studio/xl", "--revision", REVISION, "--target", str(target)]
    command = [sys.executable, "-P", "-m", "k8s.hub", *arguments]
    return subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=240)


def test_the_parts_of_the_pipeline_are_loaded_once_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "xl"
    done = _run(hub, target, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".")} == WANTED
    assert all((target / name).read_bytes() == FILES[name] for name in WANTED)
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in done.stdout + done.stderr
    asked = len(hub.asked)
    again = _run(hub, target)
    assert again.returncode == 0, again.stderr
    assert len(hub.asked) == asked


def test_a_hub_that_does_not_give_it_is_an_error_and_leaves_nothing_complete(hub: Hub, tmp_path: Path) -> None:
    hub.broken = True
    done = _run(hub, tmp_path / "xl")
    assert done.returncode == 1
    assert f"the hub does not give studio/xl@{REVISION}" in done.stderr
    assert "Traceback" not in done.stderr
    hub.broken = False
    assert _run(hub, tmp_path / "xl").returncode == 0


def test_a_file_that_is_not_what_the_hub_lists_is_refused_and_loaded_anew(hub: Hub, tmp_path: Path) -> None:
    hub.damages = True
    done = _run(hub, tmp_path / "xl")
    assert done.returncode == 1
    assert "unet/diffusion_pytorch_model.safetensors is not what the hub lists" in done.stderr
    hub.damages = False
    assert _run(hub, tmp_path / "xl").returncode == 0
    assert (tmp_path / "xl" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == b"\1" * 5000
