from __future__ import annotations

import pytest

from distri.model.sampling.schedulers import SchedulerRecipe
from distri.ranks.errors import UnknownScheduler
from pipeline.checkpoints.checkpoint import shipped
from pipeline.checkpoints.kinds import Kind
from pipeline.checkpoints.schedulers import SCHEDULERS, own_scheduler
from pipeline.errors import BadCheckpoint


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_that_may_be_a_models_own_is_one_of_diffusers(name: str) -> None:
    own = own_scheduler(shipped(Kind.BASE)["scheduler"] | {"_class_name": name}, "model")
    try:
        SchedulerRecipe(name, own).make(None, {}, seed=0)
    except UnknownScheduler as error:
        assert "it needs packages" in error.reason  # noqa: PT017 - one of them lacks a package here


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "which is not known here; one of DDIM"),
        ({"_class_name": None}, "names no _class_name"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps is many; 1000 wanted"),
    ],
)
def test_another_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        own_scheduler(shipped(Kind.BASE)["scheduler"] | change, "model")
