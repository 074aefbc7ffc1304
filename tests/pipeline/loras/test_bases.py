"""The base model that a LoRA file was made for."""

import pytest

from pipeline.loras.bases import base_of

KEY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
OLD = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"  # of diffusers before peft


@pytest.mark.parametrize(
    ("shapes", "metadata", "base"),
    [
        ({f"{KEY}.lora_down.weight": (8, 2048)}, {"ss_base_model_version": "sd_v1"}, "SDXL"),
        ({f"{KEY}.lora_down.weight": (8, 768)}, {}, "SD 1.x"),
        ({f"{KEY}.lora_down.weight": (8, 1024, 1, 1)}, {}, "SD 2.x"),
        ({f"{KEY}.hada_w1_b": (8, 1280)}, {}, "the SDXL refiner"),
        ({f"{KEY}.lokr_w1": (4, 8), f"{KEY}.lokr_w2_b": (4, 256)}, {}, "SDXL"),
        ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (8, 3072)}, {}, "Flux"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (8, 3072)}, {}, "Flux"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (8, 1536)}, {}, "SD 3"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (8, 1536)}, {}, "Wan"),
        ({"blocks.0.self_attn.q.lora_A.weight": (8, 1536)}, {}, "Wan"),
        ({"diffusion_model.double_stream_blocks.0.block.attn1.to_q.lora_A.weight": (8, 2560)}, {}, "HiDream"),
        ({"diffusion_model.distilled_guidance_layer.layers.0.lora_A.weight": (8, 64)}, {}, "Chroma"),
        ({"lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": (8, 3072)}, {}, "a diffusion transformer"),
        ({f"unet.{OLD}.down.weight": (8, 768)}, {}, "SD 1.x"),
        ({f"unet.{OLD}.down.weight": (8, 2048)}, {}, "SDXL"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)}, {}, None),
        ({}, {"ss_base_model_version": "sd_v1"}, "SD 1.x"),
        ({}, {"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        ({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
        ({}, {"modelspec.architecture": "Flux.1-dev/lora"}, "Flux"),
        ({}, {"ss_base_model_version": "sd3-m"}, "SD 3"),
    ],
)
def test_shapes_go_before_names_and_names_before_metadata(
    shapes: dict[str, tuple[int, ...]], metadata: dict[str, str], base: str | None
) -> None:
    assert base_of(shapes, metadata) == base
