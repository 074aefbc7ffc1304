"""What it costs to look for every picture of a batch before it ends, as its finalization does."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from embedded.services.services import running_services
from pipeline.bucket.artifacts import Artifacts, StoredObject
from pipeline.bucket.s3 import Credentials
from pipeline.bucket.sizes import pictures_gone
from pipeline.deployment.settings import load_settings
from pipeline.process.parallel import in_order
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tasks.control.write_results import LOOKS_AT_A_TIME as AT_A_TIME
from tests.factories import image_result, resolved_row

BATCH, ROUNDS = "pictures", 3


class _Counted(Artifacts):
    """Counts what is asked for; its lists are so late, if they are, that they show nothing."""

    late, lists, heads = False, 0, 0

    def sizes_between(self, first: str, last: str, page: int) -> Iterator[tuple[str, int]]:
        self.lists += 1
        found = super().sizes_between(first, last, page)
        return iter(()) if self.late else found

    def head(self, key: str) -> StoredObject | None:
        self.heads += 1
        return super().head(key)


def looked_for(images: int, images_per_job: Sequence[int]) -> dict[str, Any]:
    """Seconds, processor time and requests for the pictures of so many images, by how many a job has.

    Pictures and sidecars lie in SeaweedFS on this machine. `late` are the same where no list shows any of them.
    """
    with tempfile.TemporaryDirectory() as folder, running_services(Path(folder)) as services:
        where: dict[str, Any] = dict(services.settings)
        settings = load_settings({}, **where, redis_prefix="bench", s3_prefix="bench", data_dir=folder)
        artifacts = _Counted(settings, Credentials(*(services.credentials[name] for name in _CREDENTIALS)))
        results = [_result(number) for number in range(images)]

        def put(result: ImageResult) -> None:
            artifacts.put(result.key, b"0" * result.size_bytes, content_type="image/png")
            artifacts.put(result.key.replace(".png", ".json"), b"{}", content_type="application/json")

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(put, results))
        found = []
        for each in images_per_job:
            jobs = [results[first : first + each] for first in range(0, images, each)]
            for late in (False, True) if each > 1 else (False,):  # single ones are asked for by their keys
                artifacts.late = late
                found.append({"images_per_job": each, "late": late, **_measured(artifacts, jobs)})
    return {"images": images, "at_a_time": AT_A_TIME, "rows": found}


_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def _result(number: int) -> ImageResult:
    task = ImageTask(resolved_row(row=number), 0)
    return image_result(task, BATCH).model_copy(update={"size_bytes": 100 + number % 100})


def _measured(artifacts: _Counted, jobs: Sequence[Sequence[ImageResult]]) -> dict[str, Any]:
    seconds, cpu = [], []
    for _ in range(ROUNDS):
        artifacts.lists = artifacts.heads = 0
        began, cpu_before = time.monotonic(), time.process_time()
        for gone in in_order(lambda job: pictures_gone(artifacts, job), jobs, at_a_time=AT_A_TIME):
            assert not gone
        seconds.append(time.monotonic() - began)
        cpu.append(time.process_time() - cpu_before)
    return {
        "seconds": round(statistics.median(seconds), 2),
        "cpu_s": round(statistics.median(cpu), 2),
        "lists": artifacts.lists,
        "heads": artifacts.heads,
    }
