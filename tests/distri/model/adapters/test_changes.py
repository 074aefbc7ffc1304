"""Each kind's formula against the module that LyCORIS trains with: its forward, since its merging squares alpha."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distri.model.adapters.matching import Strength, Targets, matches
from pipeline.loras.kinds import kind_of
from pipeline.loras.names import split_key
from tests.distri.lycoris_modules import CASES, Case, saved, trained_module

MODULES: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(48, 96),
    "square": lambda: nn.Linear(64, 64),
    "conv": lambda: nn.Conv2d(32, 48, 3, padding=1),
    "square conv": lambda: nn.Conv2d(32, 32, 3, padding=1),
    "norm": lambda: nn.GroupNorm(4, 32),
}


@pytest.mark.parametrize(
    ("case", "module", "strength"),
    [
        pytest.param(case, module, strength, id=f"{name}-{module}-{strength}")
        for name, case in CASES.items()
        for module in case.modules
        for strength in case.strengths
    ],
)
@torch.no_grad()
def test_a_change_is_what_its_trainer_computes(case: Case, module: str, strength: float) -> None:
    torch.manual_seed(0)
    original: Any = MODULES[module]()
    trained = trained_module(case, original)
    x = (
        torch.randn(2, 48)
        if module == "linear"
        else torch.randn(2, 64)
        if module == "square"
        else torch.randn(2, 32, 6, 6)
    )
    before, trained.org_forward, trained.multiplier = original(x), original.forward, strength
    wanted = trained.forward(x)
    unet = nn.ModuleDict({"conv_in": original})
    parts = {"unet": unet, "text_encoder": nn.Module(), "text_encoder_2": nn.Module()}
    state = {f"lora_unet_conv_in.{name}": value for name, value in saved(trained, case).items()}
    assert kind_of({split_key(key)[1] for key in state}) is case.kind
    found = matches(state, {}, Targets(parts), Strength(strength, 0.0))
    assert found.used == len(state)
    assert not list(found.leftovers())
    for weight, change in found.changes:
        weight.copy_(change.onto(weight.clone()))
    assert (wanted - before).norm() > 0.001 * before.norm()
    torch.testing.assert_close(original(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "case"), list(CASES.items()))
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 5, 7, 1, 1)])
def test_tensors_of_other_shapes_fit_nothing(name: str, case: Case, shape: tuple[int, ...]) -> None:
    original: Any = MODULES[case.modules[0]]()
    parts = {"unet": nn.ModuleDict({"conv_in": original}), "text_encoder": nn.Module(), "text_encoder_2": nn.Module()}
    names = saved(trained_module(case, original), case).keys() - {"alpha"}
    state = {f"unet.conv_in.{key}": torch.zeros(shape) for key in names}
    found = matches(state, {}, Targets(parts), Strength(1.0, 1.0))
    assert not found.changes
    assert sum(found.misfits.values()) == len(state)
