"""Numbers in 1.8 bits: a scale for each group of a row, and for each number one of three levels.

The code of ternary weight networks (Li et al. 2016, section 2.2): of each group those numbers count whose size is above
0.7 of the mean size, by their mean size. What is lost of Gaussian numbers is a fifth of their mean square.
"""

# R rows (all axes but the last), C numbers of a row, G groups of 80 of them

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 80  # numbers of one scale; 16 bytes of codes
_A_BYTE = 5  # levels in a byte: 3^5 = 243
_THRESHOLD = 0.7
_SCALE = torch.bfloat16  # as wide as float32, so that the smallest residual still has one


def code_bytes(numbers: int) -> int:
    """Bytes of a row of so many numbers."""
    return -(-numbers // _A_BYTE) + _SCALE.itemsize * _groups(numbers)


def encoded(x_RC: Tensor) -> Tensor:
    """The code of each row, uint8, with `code_bytes` in the place of the numbers. No communication."""
    numbers = x_RC.shape[-1]
    groups_RG = _grouped(x_RC.float())
    sizes_RG = groups_RG.abs()
    in_group_G = torch.full((_groups(numbers),), GROUP, device=x_RC.device)
    in_group_G[-1] = numbers - GROUP * (len(in_group_G) - 1)
    counts = sizes_RG > _THRESHOLD * sizes_RG.sum(-1, keepdim=True) / in_group_G[:, None]
    scale_RG = ((sizes_RG * counts).sum(-1) / counts.sum(-1).clamp(min=1)).to(_SCALE)
    levels = (groups_RG.sign() * counts + 1).to(torch.uint8)
    powers = _powers(x_RC.device)
    fives = levels.reshape(*x_RC.shape[:-1], -1, _A_BYTE)
    codes = (fives * powers).sum(-1, dtype=torch.uint8)
    return torch.cat((codes[..., : -(-numbers // _A_BYTE)], scale_RG.contiguous().view(torch.uint8)), -1)


def decoded(code: Tensor, numbers: int) -> Tensor:
    """What a code says, float32; the same bits on every rank. No communication."""
    scales = _SCALE.itemsize * _groups(numbers)
    codes, scale = code[..., :-scales], code[..., -scales:].contiguous().view(_SCALE).float()
    codes = functional.pad(codes, (0, _groups(numbers) * GROUP // _A_BYTE - codes.shape[-1]))
    powers = _powers(code.device)
    levels = (codes[..., None] // powers % 3).flatten(-2).float() - 1
    values = levels.reshape(*scale.shape, GROUP) * scale[..., None]
    return values.flatten(-2)[..., :numbers]


def _powers(device: torch.device) -> Tensor:
    """1, 3, 9, 27, 81, made on the device: copied from the host they would be waited for."""
    return torch.pow(3, torch.arange(_A_BYTE, device=device)).to(torch.uint8)


def _groups(numbers: int) -> int:
    return -(-numbers // GROUP)


def _grouped(x_RC: Tensor) -> Tensor:
    numbers = x_RC.shape[-1]
    filled = functional.pad(x_RC, (0, _groups(numbers) * GROUP - numbers))
    return filled.reshape(*x_RC.shape[:-1], -1, GROUP)
