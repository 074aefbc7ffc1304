"""Batches that have ended: what finalization, download, links and contact sheets need of memory, by their size."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.bulk.deployment import Bench, deployment
from benchmarks.bulk.rows import write_rows
from pipeline.bucket.artifacts import sha256
from pipeline.ledger.jobs import QueuePlace
from pipeline.records.batch import changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult, outcome_lines
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.states import ImageState, JobState
from tests.factories import file_of, image_result, resolved_row


def finalized(sizes: list[int]) -> list[dict[str, Any]]:
    """Seconds of finalization and the controller's peak, for batches of so many images, one after the other."""
    found = []
    with deployment() as bench:
        for images in sizes:
            batch_id = f"images-{images}"
            _queued(bench, batch_id, images)
            cpu, ledger = bench.watch.cpu(), bench.connection.ledger
            _play(bench, batch_id, with_thumbnails=False)
            began = ledger.now()
            bench.await_completed(batch_id)
            controller = bench.watch.report(since=cpu)["controller"]
            lines = sum(1 for _ in bench.connection.artifacts.lines(BatchObjects(batch_id).results))
            assert lines == images
            seconds = (ledger.batches.get(batch_id).updated_at - began).total_seconds()
            found.append({"images": images, "seconds": round(seconds, 1), **controller})
    return found


def downloaded(sizes: list[int]) -> list[dict[str, Any]]:
    """Seconds and peaks of the commands that bring results to a user, for batches of so many images."""
    found = []
    with deployment() as bench:
        for images in sizes:
            batch_id = f"images-{images}"
            _queued(bench, batch_id, images)
            _play(bench, batch_id, with_thumbnails=True)
            bench.await_completed(batch_id)
            folder = bench.folder / f"to-{images}"
            commands = {
                "download": ("download", batch_id, "--output", str(folder)),
                "links": ("links", batch_id, "--jsonl"),
                "contact-sheet": ("contact-sheet", batch_id, "--output", str(bench.folder / f"{images}.png")),
            }
            row: dict[str, Any] = {"images": images}
            for command, arguments in commands.items():
                seconds = bench.tessera(f"{command} {images}", *arguments)
                peak = bench.watch.usage[f"{command} {images}"].peak_mb
                row[command] = {"seconds": round(seconds, 1), "peak_mb": round(peak)}
            assert sum(1 for _ in (folder / "images").rglob("*.png")) == images
            found.append(row)
    return found


def _queued(bench: Bench, batch_id: str, images: int) -> None:
    prompts = bench.folder / f"{batch_id}.jsonl"
    write_rows(prompts, images)
    bench.tessera(f"submit {batch_id}", "submit", str(prompts), "--batch-id", batch_id)
    bench.await_queued(batch_id)


def _play(bench: Bench, batch_id: str, *, with_thumbnails: bool) -> None:
    """What pods and workers would have left: fragments, states, and the images themselves."""
    ledger, artifacts, objects = bench.connection.ledger, bench.connection.artifacts, BatchObjects(batch_id)
    file = file_of(image_result(ImageTask(resolved_row(width=64, height=64), 0)))

    def put(result: ImageResult) -> ImageResult:
        artifacts.put(result.key, file.body, content_type=file.content_type)
        if with_thumbnails:
            artifacts.put(str(result.thumbnail), file.thumbnail, content_type="image/jpeg")
        return result.model_copy(update={"sha256": sha256(file.body), "size_bytes": len(file.body)})

    def end(index: int) -> None:
        ref = f"{batch_id}/{index:05d}"
        tasks = images_of(parsed_shard(artifacts.get(objects.shard(index)) or b""))
        results = [put(image_result(task, batch_id)) for task in tasks]
        artifacts.put(objects.fragment(index), outcome_lines(results), content_type="application/x-ndjson")
        indices = [task.index for task in tasks]
        job = ledger.jobs.get(ref)
        assert job is not None
        ledger.images.move_by_worker(
            batch_id, ref, indices, ImageState.SUCCEEDED, incarnation=job.incarnation, fence=""
        )
        ledger.jobs.write(changed(job, at=ledger.now(), state=JobState.SUCCEEDED), QueuePlace.DONE, fence="")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(ledger.batches.get(batch_id).jobs or 0)))
