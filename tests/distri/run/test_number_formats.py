"""Which number formats a pod computes in."""

import pytest
import torch

from distri.run.shard import vae_dtype_of
from tests.factories import attempt_spec, job_record


@pytest.mark.parametrize(
    ("stored", "on_gpu", "device", "wanted"),
    [
        ("float32", "bfloat16", "cuda", torch.bfloat16),
        ("float32", "bfloat16", "cpu", torch.float32),
        ("float32", None, "cuda", torch.float32),  # exact, or of version 0.2
        ("float16", None, "cuda", torch.float16),
        ("float16", None, "cpu", torch.float16),
    ],
)
def test_the_vae_has_a_format_of_its_own_on_a_gpu(
    stored: str, on_gpu: str | None, device: str, wanted: torch.dtype
) -> None:
    spec = attempt_spec(job_record(), vae_dtype=stored, vae_dtype_on_gpu=on_gpu)
    assert vae_dtype_of(spec, torch.device(device)) is wanted
