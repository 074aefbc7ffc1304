"""What adapters take of a GPU's memory, by the shapes of SDXL's, and what that decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.engine import networks
from benchmarks.engine.memory import peak_bytes
from pipeline.deployment import adapter_memory
from pipeline.deployment.adapter_memory import adapter_gb, adapter_pixels
from pipeline.deployment.layout_choice import Load, fastest_layout
from pipeline.deployment.settings import ModelSource, RenderingSettings
from pipeline.input_picture import AdapterReference, Control, ControlKind, InputPicture
from pipeline.operations.estimate import Estimator
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.attempt import loads_of
from tests.factories import deployment, resolved_row

IMAGE = InputPicture(sha256="0" * 64, width=8, height=8)
CANNY, POSE = (Control(model=name, image=IMAGE) for name in ("canny", "pose"))
FACE = AdapterReference(adapter="face", image=IMAGE)


def _half_gb(module: Any) -> float:
    return float(sum(one.numel() for one in module.parameters()) * torch.float16.itemsize / 1e9)


def test_sizes_are_those_of_sdxls_adapters_counted_by_their_shapes() -> None:
    unet = networks.sdxl_unet()
    attention = [one for one in unet.modules() if type(one).__name__ == "Attention" and one.is_cross_attention]
    control: Any = ControlNetModel
    union: Any = ControlNetUnionModel
    bigg: Any = CLIPVisionConfig(
        hidden_size=1664, intermediate_size=8192, num_hidden_layers=48, num_attention_heads=16, projection_dim=1280,
        image_size=224, patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        found = {
            ControlKind.CONTROLNET: control.from_unet(unet, load_weights_from_unet=False),
            ControlKind.UNION: union.from_unet(unet, load_weights_from_unet=False),
            ControlKind.T2I_ADAPTER: T2IAdapter(3, [320, 640, 1280, 1280], 2, 16, "full_adapter_xl"),
        }
        resampler = IPAdapterPlusImageProjection(1280, 2048, 1280, 4, 64, 20, 16)
        encoder = CLIPVisionModelWithProjection(bigg)
    for kind, network in found.items():
        assert adapter_memory.NETWORK_GB[kind] == pytest.approx(_half_gb(network), rel=1e-3), kind
    keys = sum(_half_gb(one.to_k) + _half_gb(one.to_v) for one in attention)
    assert pytest.approx(keys + _half_gb(resampler), rel=1e-3) == adapter_memory.IP_ADAPTER_GB
    assert pytest.approx(_half_gb(encoder), rel=1e-3) == adapter_memory.IMAGE_ENCODER_GB


def test_a_megapixel_is_what_its_decode_takes() -> None:
    peak = peak_bytes(networks.sdxl_vae().to(torch.bfloat16), "decode", (1024, 1024), 1)
    assert peak / 1e9 / (1024**2 / 1e6) == pytest.approx(adapter_memory.GB_A_MEGAPIXEL, rel=1e-3)


def _row(**more: Any) -> ResolvedRow:
    return resolved_row(**{"width": 1600, "height": 1600} | more)


def test_each_network_and_adapter_counts_once_and_the_encoder_once_for_all() -> None:
    network, adapter, encoder = 2.502, adapter_memory.IP_ADAPTER_GB, adapter_memory.IMAGE_ENCODER_GB
    assert adapter_gb(_row()) == 0
    assert adapter_gb(_row(control=(CANNY, POSE, POSE.model_copy(update={"mode": 1})))) == pytest.approx(2 * network)
    assert adapter_gb(_row(reference=(FACE, FACE))) == pytest.approx(adapter + encoder)
    both = _row(reference=(FACE, FACE.model_copy(update={"adapter": "style"})), control=(CANNY,))
    assert adapter_gb(both) == pytest.approx(network + 2 * adapter + encoder)


def test_patches_share_a_picture_and_each_has_all_adapters() -> None:
    """4 megapixels beside adapters of 3 that do not fit 4.2 alone do so on four ranks and more."""
    images = [Load(2000, 2000, 1.0, adapter_pixels=3_000_000)] * 64
    for gpus, layout in ((8, "2x"), (4, "1x")):
        assert str(fastest_layout(gpus, images, one_gpu_megapixels=4.2).layout).startswith(layout)
    assert str(fastest_layout(8, [Load(2000, 2000, 1.0)] * 64, one_gpu_megapixels=4.2).layout) == "8x1x1"


def test_plans_and_estimates_leave_room_for_them() -> None:
    """Two and a half megapixels fit one GPU, and beside two ControlNets two."""
    plain, steered = _row(num_images=64), _row(num_images=64, control=(CANNY, POSE))
    settings = RenderingSettings(models={"demo": ModelSource(path="/x", revision="r")})
    assert [one.adapter_pixels for one in loads_of([plain, steered], settings)] == [0, adapter_pixels(steered)]
    layouts = []
    for row in (plain, steered):
        estimator = Estimator(deployment(layout="1x2x4", gpus=8, goal="throughput", one_gpu_megapixels=4.2), {})
        estimator.add(row)
        layouts.append(estimator.estimate(pods=1).basis[0])
    assert "layout 8x1x1" in layouts[0]
    assert "layout 8x1x1" not in layouts[1]
