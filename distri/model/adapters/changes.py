"""What each kind of adapter makes of a weight, in float32.

    LoRA       W + s a/r (up down)                              Hu et al. 2021
    CP-LoCon   W + s a/r (mid x up x down)                      a convolution in CP form, LyCORIS
    DoRA       m V/|V|, with V = W + s a/r (up down)            Liu et al. 2024; as peft computes it
    LoHa       W + s a/r (w1_a w1_b) * (w2_a w2_b)              Hyeon-Woo et al. 2021
    LoKr       W + s a/r kron(w1, w2)                           LyCORIS; a/r is 1 where both are whole
    GLoRA      W + s a/r (W a1 a2 + b1 b2)                      Chavan et al. 2023
    IA3        W (1 + s w), for inputs or outputs               Liu et al. 2022
    OFT, BOFT  R W, with R a Cayley transform of blocks         Qiu et al. 2023, Liu et al. 2023
    difference W + s diff

s is the strength that the user asks for, a alpha and r the rank. Where LyCORIS and peft differ, the files' own trainer
decides (decision 422). Shapes: W is out x in, or out x in x kernel; factors of convolutions may be flat.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.loras.kinds import AdapterKind

Sides = Mapping[str, Tensor]


@dataclass(frozen=True)
class Change:
    """What a file does to one weight or bias.

    Attributes:
        kind: how it is written.
        sides: its tensors, by the names of `pipeline.loras.names`.
        factor: alpha through rank, or 1.
        strength: what the user asks for.
    """

    kind: AdapterKind
    sides: Sides
    factor: float
    strength: float

    def onto(self, weight: Tensor) -> Tensor:
        """The changed weight.

        Args:
            weight: float32, contiguous; may be changed in place.

        Raises:
            RuntimeError, ValueError, IndexError, TypeError: the shapes do not fit.
        """
        sides = {name: side.to(weight.device, torch.float32) for name, side in self.sides.items()}
        if self.kind is AdapterKind.LORA and not sides.keys() & {"dora_scale", "magnitude"}:
            flat = weight.view(weight.shape[0], -1)
            flat.addmm_(sides["up"].flatten(1), sides["down"].flatten(1), alpha=self.strength * self.factor)
            return weight
        if self.kind is AdapterKind.IA3:
            return _scaled(weight, sides, self.strength)
        if self.kind is AdapterKind.OFT:
            return _rotated(weight, sides, self.strength)
        delta = _DELTAS[self.kind](weight, sides)
        if delta.shape[0] != weight.shape[0]:
            raise ValueError(f"found {tuple(delta.shape)}, wanted {tuple(weight.shape)}")
        delta = delta.reshape(weight.shape)
        if "magnitude" in sides or ("dora_scale" in sides and self._is_of_peft(weight)):
            return _renormed(weight + self.strength * self.factor * delta, sides)
        if "dora_scale" in sides:
            return _redirected(weight + self.factor * delta, sides["dora_scale"], self.strength)
        return weight.add_(delta, alpha=self.strength * self.factor)

    def fits(self, weight: Tensor) -> bool:
        """Whether the shapes fit; nothing is computed."""
        if self.kind is AdapterKind.LORA and self.sides.keys() == {"up", "down"}:  # by far the most, and quick to see
            up, down = (self.sides[name] for name in ("up", "down"))
            if min(up.ndim, down.ndim) < 2 or up.shape[1:].numel() != down.shape[0]:
                return False
            return (up.shape[0], down.shape[1:].numel()) == (weight.shape[0], weight.shape[1:].numel())
        try:
            shape = torch.empty(weight.shape, device="meta")
            sides = {name: torch.empty(side.shape, device="meta") for name, side in self.sides.items()}
            return Change(self.kind, sides, self.factor, self.strength).onto(shape).shape == weight.shape
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False

    def _is_of_peft(self, weight: Tensor) -> bool:
        """Whether a DoRA is one that diffusers gives to peft: a LoRA with a magnitude for each output."""
        return self.kind is AdapterKind.LORA and _per_output(self.sides["dora_scale"], weight)


def _per_output(magnitude: Tensor, weight: Tensor) -> bool:
    return magnitude.ndim == 1 or magnitude.shape[0] == weight.shape[0]


def _renormed(direction: Tensor, sides: Sides) -> Tensor:
    """peft's DoRA: each output's direction with its magnitude."""
    magnitude = sides["magnitude"] if "magnitude" in sides else sides["dora_scale"]
    across = (-1, *[1] * (direction.ndim - 1))
    norm: Tensor = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    return direction * (magnitude.reshape(direction.shape[0]) / norm).view(across)


def _redirected(merged: Tensor, magnitude: Tensor, strength: float) -> Tensor:
    """LyCORIS' weight decomposition, of outputs or of inputs as the magnitude's shape says."""
    per_output = _per_output(magnitude, merged)
    dims = tuple(range(1, merged.ndim)) if per_output else (0, *range(2, merged.ndim))
    norm: Tensor = torch.linalg.vector_norm(merged, dim=dims, keepdim=True) + torch.finfo(torch.float32).eps
    scale = magnitude.reshape(norm.shape) / norm
    return merged * (strength * (scale - 1) + 1)


def _lora(_: Tensor, sides: Sides) -> Tensor:
    return sides["up"].flatten(1) @ sides["down"].flatten(1)


def _cp(_: Tensor, sides: Sides) -> Tensor:
    up, down = (sides[name].flatten(1) for name in ("up", "down"))
    return torch.einsum("mn..., im, nj -> ij...", sides["mid"], up, down)


def _loha(weight: Tensor, sides: Sides) -> Tensor:
    halves = []
    for number in (1, 2):
        left, right = sides[f"hada_w{number}_a"], sides[f"hada_w{number}_b"]
        if f"hada_t{number}" in sides:
            halves.append(torch.einsum("ij..., jr, ip -> pr...", sides[f"hada_t{number}"], right, left))
        else:
            halves.append(left @ right.flatten(1))
    return (halves[0] * halves[1]).reshape(weight.shape)


def _lokr(weight: Tensor, sides: Sides) -> Tensor:
    first = sides["lokr_w1"] if "lokr_w1" in sides else sides["lokr_w1_a"] @ sides["lokr_w1_b"]
    if "lokr_w2" in sides:
        second = sides["lokr_w2"]
    elif "lokr_t2" in sides:
        second = torch.einsum("ij..., ip, jr -> pr...", sides["lokr_t2"], sides["lokr_w2_a"], sides["lokr_w2_b"])
    else:
        second = sides["lokr_w2_a"].flatten(1) @ sides["lokr_w2_b"].flatten(1)
    second = second.reshape(second.shape[0], -1, *weight.shape[2:])
    return torch.kron(first.reshape(*first.shape[:2], *[1] * (second.ndim - 2)), second.contiguous())


def _glora(weight: Tensor, sides: Sides) -> Tensor:
    a1, a2, b1, b2 = (sides[f"glora_{name}"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    through = torch.einsum("oi..., ij, jk -> ok...", weight, a1, a2)
    return through + (b1 @ b2).reshape(weight.shape)


def _diff(_: Tensor, sides: Sides) -> Tensor:
    return sides["diff"]


_DELTAS: dict[AdapterKind, Callable[[Tensor, Sides], Tensor]] = {
    AdapterKind.LORA: _lora,
    AdapterKind.CP: _cp,
    AdapterKind.LOHA: _loha,
    AdapterKind.LOKR: _lokr,
    AdapterKind.GLORA: _glora,
    AdapterKind.DIFF: _diff,
}


def _scaled(weight: Tensor, sides: Sides, strength: float) -> Tensor:
    per_input = bool(sides["on_input"].any()) if not weight.is_meta else weight.shape[0] != sides["weight"].numel()
    ones = [1] * (weight.ndim - 2)
    factor = sides["weight"].reshape(*((1, weight.shape[1]) if per_input else (weight.shape[0], 1)), *ones)
    return weight * (1 + strength * factor)


def _rotated(weight: Tensor, sides: Sides, strength: float) -> Tensor:
    blocks = sides["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    if "alpha" in sides:  # how far the rotation may go
        limit = sides["alpha"].reshape(()) * weight.shape[0]
        norm = torch.linalg.vector_norm(skew) + 1e-8
        skew = torch.where((limit > 0) & (norm > limit), skew * (limit / norm), skew)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    # (I + Q)(I - Q)^-1, and the two commute. Only NaN makes it singular, and then the weight shows it.
    rotation = torch.linalg.solve_ex(identity - skew, identity + skew).result
    rotation = strength * rotation + (1 - strength) * identity
    turned = _by_blocks(weight, rotation) if blocks.ndim == 3 else _by_butterfly(weight, rotation)
    return turned * sides["rescale"].reshape(-1, *[1] * (weight.ndim - 1)) if "rescale" in sides else turned


def _by_blocks(weight: Tensor, rotation: Tensor) -> Tensor:
    count, size, _ = rotation.shape
    turned = torch.einsum("knm, kn... -> km...", rotation, weight.view(count, size, *weight.shape[1:]))
    return turned.flatten(0, 1)


def _by_butterfly(weight: Tensor, rotation: Tensor) -> Tensor:
    """Stage i mixes outputs that lie 2^i half blocks apart."""
    size = rotation.shape[-1]
    for number, stage in enumerate(rotation):
        apart = 2**number * (size // 2)
        rest = weight.shape[1:]
        mixed = weight.reshape(-1, 2, apart, *rest).transpose(1, 2).reshape(-1, size, *rest)
        mixed = torch.einsum("bij, bj... -> bi...", stage, mixed)
        weight = mixed.reshape(-1, apart, 2, *rest).transpose(1, 2).reshape(-1, *rest)
    return weight
