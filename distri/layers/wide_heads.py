"""Attention whose heads are too wide for a fused kernel: the middle of a VAE, whose one head is 512 wide."""

# B batch, H heads, T tokens of this rank's patch, K tokens of the whole image, D numbers of a head

import torch
from torch import Tensor

from distri.layers.kernels.fused import FusedKernels

# No flash or cuDNN kernel of torch takes a wider head. The memory-efficient one does, at a fraction of the speed: it
# was half of a decode at 3840 pixels on eight ranks (H200, bfloat16).
MOST_FUSED_WIDTH = 256

# Of one chunk's scores. Twice as much is held at a time, scores and their softmax, whatever the size of the image.
SCORE_BYTES = 1 << 28

ROWS = 128  # of a matrix product's tile: whole tiles leave no part of the GPU idle


def is_too_wide(like: Tensor, width: int) -> bool:
    """Whether heads of this width are better attended to by chunks, where `like` lives."""
    return like.is_cuda and width > MOST_FUSED_WIDTH


def attend_in_chunks(
    q_BHTD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, kernels: FusedKernels, *, score_bytes: int = SCORE_BYTES
) -> Tensor:
    """Scaled dot-product attention by matrix products over some queries at a time; returns BHTD.

    Scores are float32 in half precision too: bfloat16 would round one of 40 by 0.1.

    Args:
        q_BHTD: queries.
        k_BHKD, v_BHKD: keys and values, of the same dtype.
        kernels: one of them may take the softmax of half precision.
        score_bytes: of the scores of one chunk, which has at least one query.

    No communication.
    """
    (batch, heads, tokens, width), dtype = q_BHTD.shape, q_BHTD.dtype
    q_NTD, k_NKD, v_NKD = (x.reshape(batch * heads, -1, width) for x in (q_BHTD * width**-0.5, k_BHKD, v_BHKD))
    score_size = torch.promote_types(dtype, torch.float32).itemsize
    rows = max(1, score_bytes // (len(k_NKD) * k_NKD.shape[1] * score_size))
    rows = rows // ROWS * ROWS or rows
    out_NTD = torch.empty_like(q_NTD)
    for chunk in (slice(start, start + rows) for start in range(0, tokens, rows)):
        scores_NRK = _scores(q_NTD[:, chunk], k_NKD.transpose(1, 2))
        out_NTD[:, chunk] = _softmax(scores_NRK, v_NKD, kernels) @ v_NKD
    return out_NTD.view(q_BHTD.shape)


def _softmax(scores_NRK: Tensor, values_NKD: Tensor, kernels: FusedKernels) -> Tensor:
    """Softmax over the keys, in the dtype of the values."""

    def plain() -> Tensor:
        return scores_NRK.softmax(-1).to(values_NKD.dtype)

    if values_NKD.dtype == scores_NRK.dtype or not kernels.takes(values_NKD):
        return plain()
    return kernels.softmax(scores_NRK, values_NKD, plain=plain)


def _scores(q_NRD: Tensor, k_NDK: Tensor) -> Tensor:
    """The product in float32, or in float64 if that is what is given."""
    if q_NRD.element_size() >= 4:
        return q_NRD @ k_NDK
    if q_NRD.is_cuda:
        return torch.bmm(q_NRD, k_NDK, out_dtype=torch.float32)
    return q_NRD.float() @ k_NDK.float()
