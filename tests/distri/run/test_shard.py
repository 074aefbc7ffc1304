"""How the ranks of a replica come to the job's images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distri.ranks.errors import Unsplittable
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.run import shard
from distri.run.shard import LeaderRefused, PodMisconfigured
from distri.run.signals import LoadedShard
from pipeline.deployment.settings import load_settings
from pipeline.errors import RecordTooNew
from pipeline.records.shards import ShardLine, images_of, parsed_shard, shard_bytes
from tests.distri import on_ranks
from tests.distri.pool import Ranks
from tests.factories import attempt_spec, job_record, resolved_row

BODY = shard_bytes([ShardLine(row=resolved_row(0, prompt="ü", num_images=3), start=1, stop=3)])


class _Leader:
    """Begins at the second try, or finds that the shard is of a newer version."""

    def __init__(self, *, too_new: bool) -> None:
        self._too_new, self._tries = too_new, 0

    def begin(self) -> LoadedShard | None:
        self._tries += 1
        if self._tries == 1:
            return None
        if self._too_new:
            raise RecordTooNew("ResolvedRow", 9, 2)
        return LoadedShard(BODY, images_of(parsed_shard(BODY, "shard")))


def _share(*, too_new: bool) -> tuple[list[tuple[str, int]], int]:
    """The images that this rank has, and how often it parsed the shard after the leader had."""
    mesh, parsed = on_ranks.mesh("1x1x2"), []
    leader: Any = _Leader(too_new=too_new) if mesh.is_leader else None

    def counted(body: bytes, key: str) -> Any:
        parsed.append(body)
        return parsed_shard(body, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "parsed_shard", counted)
        tasks = shard._share_tasks(mesh, leader, attempt_spec(job_record()))
    assert all(body == BODY for body in parsed)
    return [(task.row.prompt, task.number) for task in tasks], len(parsed)


def _refused() -> str:
    with pytest.raises((RecordTooNew, LeaderRefused), match="9") as caught:
        _share(too_new=True)
    return type(caught.value).__name__


def _shared() -> tuple[list[tuple[str, int]], int]:
    return _share(too_new=False)


def test_the_shard_is_parsed_once_by_every_rank(ranks: Callable[[int], Ranks]) -> None:
    images = [("ü", 1), ("ü", 2)]
    assert ranks(2).run(_shared) == [(images, 0), (images, 1)]


def test_a_shard_that_is_too_new_is_refused_by_all_with_the_leaders_own_error(ranks: Callable[[int], Ranks]) -> None:
    assert ranks(2).run(_refused) == ["RecordTooNew", "LeaderRefused"]


def test_a_model_that_cannot_be_loaded_or_split_is_the_deployments_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "model.safetensors"
    page.write_text("<html>")
    row = resolved_row(0).model_copy(update={"model": "own"})
    tasks = images_of([ShardLine(row=row, start=0, stop=1)])
    monkeypatch.setattr(shard, "_share_tasks", lambda *_: tasks)
    settings = load_settings(
        {}, redis_url="redis://redis", s3_bucket="b", models={"own": {"path": str(page), "revision": "1"}}
    )
    spec = attempt_spec(job_record())
    with pytest.raises(PodMisconfigured, match=r"model 'own': model.safetensors is no safetensors file: it is a web"):
        shard.render_shard(Mesh.single(), None, spec, settings, Spans())

    def unsplittable(*_: object, **__: object) -> None:
        raise Unsplittable("down_blocks.0", "AttnDownBlock2D", "it is in no table of the plan")

    monkeypatch.setattr(shard, "_load_engine", unsplittable)
    with pytest.raises(PodMisconfigured, match=r"AttnDownBlock2D. cannot be split"):
        shard.render_shard(Mesh.single(), None, spec, settings, Spans())
