"""How displaced evaluations are computed, from an attempt's record to the engine and to what results say."""

from __future__ import annotations

import pytest
import torch

from distri.engine import EngineSettings
from distri.ranks import patches
from distri.ranks.mesh import Mesh
from distri.ranks.phase import Exchanged, NormMode
from distri.ranks.recorder import Replay
from distri.run.provenance import provenance_of_job
from distri.run.shard import engine_settings
from pipeline.deployment import displacement
from pipeline.deployment.displacement import Displacement
from pipeline.deployment.settings import ModelSource
from pipeline.records.attempt import AttemptSpec
from pipeline.schema import read_record
from tests.pipeline.records.test_attempt import SPEC

SOURCE = ModelSource(path="/models/demo", revision="r1")


def _spec(**displaced: object) -> AttemptSpec:
    spec = read_record(AttemptSpec, SPEC, what="a spec")
    return spec.model_copy(update={"displacement": Displacement.model_validate(displaced)})


def test_deployments_and_engine_know_the_same_exchanges() -> None:
    assert [one.value for one in displacement.Exchange] == [one.value for one in Exchanged]


@pytest.mark.parametrize("mode", list(NormMode))
def test_an_attempts_choice_reaches_the_engine_and_its_results(mode: NormMode) -> None:
    spec = _spec(resync=0.2, norm_mode=mode.value, most_work=1.5, settling_steps=7, exchange="residual")
    settings = engine_settings(spec, SOURCE, fused=True, replay=Replay.AUTO)
    assert (settings.resync, settings.norm_mode, settings.most_work) == (0.2, mode, 1.5)
    assert (settings.settling, settings.exchange) == (7, Exchanged.RESIDUAL)
    made = provenance_of_job(Mesh.single(), spec, SOURCE, dtype=torch.float32, vae_dtype=torch.float32)
    assert made.displacement == spec.displacement


def test_what_an_attempt_does_not_say_is_as_the_first_versions_had_it() -> None:
    settings = engine_settings(_spec(), SOURCE, fused=True, replay=Replay.AUTO)
    assert (settings.resync, settings.norm_mode, settings.most_work) == (
        EngineSettings.resync,
        EngineSettings.norm_mode,
        EngineSettings.most_work,
    )
    assert (settings.settling, settings.exchange) == (0, EngineSettings.exchange)
    assert displacement.MOST_WORK == patches.MOST_WORK
    made = provenance_of_job(Mesh.single(), _spec(), SOURCE, dtype=torch.float32, vae_dtype=torch.float32)
    assert "displacement" not in made.model_dump(), "results of before have none"
