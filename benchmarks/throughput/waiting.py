"""How long rendering waits for files and uploads, with a device that sleeps and a store behind a slow line."""

import contextlib
import io
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from distri.run.committer import Committer, PodIdentity
from embedded.services.services import no_proxy, running_services
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import load_settings
from pipeline.records.shards import ImageTask
from tests.factories import MODELS, attempt_spec, image_result, job_record, resolved_row

SIDE_PX = 4096
CHUNK_BYTES = 1 << 16


def waiting(images: int, device_s: float, megabytes_a_second: float) -> dict[str, Any]:
    """Seconds an image that rendering waits: the committer's, and those of a plain loop."""
    with tempfile.TemporaryDirectory() as directory, running_services(Path(directory)) as services:
        os.environ.update(services.credentials | no_proxy(os.environ))
        port = urlsplit(services.endpoints.s3_endpoint).port or 0
        with _slow_line(port, megabytes_a_second * 1e6) as slow_port:
            values: dict[str, Any] = services.settings | {
                "s3_endpoint": f"http://127.0.0.1:{slow_port}",
                "redis_prefix": "bench",
                "models": MODELS,
                "launcher": "local",
            }
            artifacts = Artifacts(load_settings({}, **values))
            pixels = _picture()
            ours = _committed(artifacts, images, device_s, pixels)
            plain, size = _plain(artifacts, images, device_s, pixels)
    return {
        "images": images,
        "side_px": SIDE_PX,
        "device_s": device_s,
        "store_mb_a_second": megabytes_a_second,
        "file_mb": round(size / 1e6, 1),
        "waited_s": [round(seconds, 3) for seconds in ours],
        "plain_waited_s": [round(seconds, 3) for seconds in plain],
    }


def _committed(artifacts: Artifacts, images: int, device_s: float, pixels: npt.NDArray[np.uint8]) -> list[float]:
    ledger: Any = _Ledger()
    committer = Committer(PodIdentity(attempt_spec(job_record()), "uid"), ledger, artifacts, print)
    waits = []
    for number in range(images):
        task = ImageTask(resolved_row(number, width=SIDE_PX, height=SIDE_PX), 0)
        began = time.monotonic()
        while not committer.wait_for_room(5.0):
            continue
        committer.mark_started(task)
        waited = time.monotonic() - began
        time.sleep(device_s)
        began = time.monotonic()
        committer.commit_rendered(task, image_result(task), pixels)
        waits.append(waited + time.monotonic() - began)
    committer.finish(None)
    while not committer.wait_until_finished(5.0):
        continue
    assert len(committer.outcomes) == images
    return waits


def _plain(
    artifacts: Artifacts, images: int, device_s: float, pixels: npt.NDArray[np.uint8]
) -> tuple[list[float], int]:
    """What a user would write: render, save, upload, and the next."""
    waits, size = [], 0
    for number in range(images):
        time.sleep(device_s)
        began = time.monotonic()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        size = len(buffer.getvalue())
        artifacts.put(f"plain/{number}.png", buffer.getvalue(), content_type="image/png")
        waits.append(time.monotonic() - began)
    return waits, size


class _Ledger:
    """Takes every report at once: Redis is not what is measured."""

    def __init__(self) -> None:
        self.images = self

    def move_by_pod(self, *_: object, **__: object) -> int:
        return 1


def _picture() -> npt.NDArray[np.uint8]:
    """Smooth light with the grain of a photograph."""
    generator = np.random.default_rng(1)
    across = np.linspace(0, 3, SIDE_PX)
    light = 128 + 60 * np.sin(across)[None, :, None] * np.cos(across)[:, None, None]
    grain = generator.normal(0, 2, (SIDE_PX, SIDE_PX, 3))
    return (light + grain).clip(0, 255).astype(np.uint8)


@contextmanager
def _slow_line(port: int, bytes_a_second: float) -> Iterator[int]:
    """A port that forwards to another; what goes there passes no faster than said, over all connections together."""
    turn, free_at = threading.Lock(), 0.0

    def paced(size: int) -> None:
        nonlocal free_at
        with turn:
            free_at = max(free_at, time.monotonic()) + size / bytes_a_second
            until = free_at
        time.sleep(max(0.0, until - time.monotonic()))

    def forward(source: socket.socket, target: socket.socket, *, slowly: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if slowly:
                    paced(len(data))
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for source, target, slowly in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=forward, args=(source, target), kwargs={"slowly": slowly}, daemon=True
                    ).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
