"""Adapters as LyCORIS trains and saves them, with random weights: every kind, by its module."""

from dataclasses import dataclass
from typing import Any

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

from pipeline.loras.kinds import AdapterKind


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


def trained_module(case: Case, original: Any) -> Any:
    """A module of this kind beside the original one, changed as by a training."""
    module = case.of("some_name", original, 1.0, **case.options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            if "dora" in name or "rescale" in name:
                parameter.mul_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module.eval()


def saved(module: Any, case: Case) -> dict[str, torch.Tensor]:
    """As LyCORIS saves it; of a whole difference, what the parameters hold now."""
    if case.kind is AdapterKind.DIFF:
        found = {"diff": module.weight, "diff_b": module.bias}
        return {name: value.detach() for name, value in found.items() if value is not None}
    saved = module.custom_state_dict() or module.state_dict()
    return {name: value.detach().clone() for name, value in saved.items()}
