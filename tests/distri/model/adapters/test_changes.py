"""Each kind's formula against the module that LyCORIS trains with: its forward, since its merging squares alpha."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import nn

from distri.model.adapters.matching import Strength, Targets, matches
from pipeline.loras.kinds import AdapterKind, kind_of
from pipeline.loras.names import split_key

MODULES: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(48, 96),
    "square": lambda: nn.Linear(64, 64),
    "conv": lambda: nn.Conv2d(32, 48, 3, padding=1),
    "square conv": lambda: nn.Conv2d(32, 32, 3, padding=1),
    "norm": lambda: nn.GroupNorm(4, 32),
}


@dataclass(frozen=True)
class Case:
    kind: AdapterKind
    of: Any
    options: dict[str, Any]
    modules: tuple[str, ...] = ("linear", "conv")
    strengths: tuple[float, ...] = (1.0, 0.6)


ALL = ("linear", "square", "conv", "square conv")
CASES = {
    "LoRA": Case(AdapterKind.LORA, LoConModule, {"lora_dim": 4, "alpha": 2}),
    "CP-LoCon": Case(AdapterKind.CP, LoConModule, {"lora_dim": 4, "alpha": 2, "use_tucker": True}, ("conv",)),
    # With another strength, diffusers and peft are followed: see tests/distri/model/test_lora.py.
    "DoRA of outputs": Case(
        AdapterKind.LORA, LoConModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True}, ALL, (1.0,)
    ),
    "DoRA of inputs": Case(
        AdapterKind.LORA, LoConModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True, "wd_on_out": False}, ALL
    ),
    "LoHa": Case(AdapterKind.LOHA, LohaModule, {"lora_dim": 4, "alpha": 2}),
    "LoHa, Tucker": Case(AdapterKind.LOHA, LohaModule, {"lora_dim": 4, "alpha": 2, "use_tucker": True}, ("conv",)),
    "LoHa, decomposed": Case(AdapterKind.LOHA, LohaModule, {"lora_dim": 4, "alpha": 4, "weight_decompose": True}, ALL),
    "LoKr": Case(AdapterKind.LOKR, LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4}),
    "LoKr, both in factors": Case(
        AdapterKind.LOKR, LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 8, "decompose_both": True}
    ),
    "LoKr, both whole": Case(
        AdapterKind.LOKR, LokrModule, {"lora_dim": 10_000, "alpha": 7, "factor": 4, "full_matrix": True}
    ),
    "LoKr, Tucker": Case(
        AdapterKind.LOKR, LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4, "use_tucker": True}, ("conv",)
    ),
    "LoKr, decomposed": Case(
        AdapterKind.LOKR,
        LokrModule,
        {"lora_dim": 2, "alpha": 2, "factor": 4, "weight_decompose": True, "wd_on_out": False},
    ),
    "GLoRA": Case(AdapterKind.GLORA, GLoRAModule, {"lora_dim": 4, "alpha": 2}),
    "IA3 of outputs": Case(AdapterKind.IA3, IA3Module, {}, ALL),
    "IA3 of inputs": Case(AdapterKind.IA3, IA3Module, {"train_on_input": True}, ALL),
    "OFT": Case(AdapterKind.OFT, DiagOFTModule, {"lora_dim": 8}),
    "OFT, limited": Case(AdapterKind.OFT, DiagOFTModule, {"lora_dim": 8, "constraint": 0.001, "rescaled": True}),
    "BOFT": Case(AdapterKind.OFT, ButterflyOFTModule, {"lora_dim": 8}),
    "BOFT, limited": Case(AdapterKind.OFT, ButterflyOFTModule, {"lora_dim": 8, "constraint": 0.001, "rescaled": True}),
    "difference": Case(AdapterKind.DIFF, FullModule, {}),
    "norms": Case(AdapterKind.NORM, NormModule, {}, ("norm",)),
}


def _trained(case: Case, original: Any) -> Any:
    module = case.of("some_name", original, 1.0, **case.options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            if "dora" in name or "rescale" in name:
                parameter.mul_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module.eval()


def _saved(module: Any, case: Case) -> dict[str, torch.Tensor]:
    """As LyCORIS saves it; of a whole difference, what the parameters hold now."""
    if case.kind is AdapterKind.DIFF:
        return {"diff": module.weight.detach(), "diff_b": module.bias.detach()}
    saved = module.custom_state_dict() or module.state_dict()
    return {name: value.detach().clone() for name, value in saved.items()}


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
    trained = _trained(case, original)
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
    state = {f"lora_unet_conv_in.{name}": value for name, value in _saved(trained, case).items()}
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
    saved = {key: value for key, value in _saved(_trained(case, original), case).items() if key != "alpha"}
    state = {f"unet.conv_in.{key}": torch.zeros(shape) for key in saved}
    found = matches(state, {}, Targets(parts), Strength(1.0, 1.0))
    assert not found.changes
    assert sum(found.misfits.values()) == len(state)
