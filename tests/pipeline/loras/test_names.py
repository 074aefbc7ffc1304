"""Names of all trainers for the modules of SDXL."""

import pytest

from pipeline.loras.names import ModuleName, ldm_names, module_names, places, split_key

ATTENTIONS = {"down_blocks": {1: 2, 2: 2}, "up_blocks": {0: 3, 1: 3}}
MODULES = [
    *("conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_1", "add_embedding.linear_2"),
    *(
        f"down_blocks.{b}.resnets.{n}.{m}"
        for b in range(3)
        for n in range(2)
        for m in ("conv1", "norm2", "conv_shortcut")
    ),
    *(f"up_blocks.{b}.resnets.{n}.{m}" for b in range(3) for n in range(3) for m in ("conv2", "time_emb_proj")),
    *(f"down_blocks.{b}.downsamplers.0.conv" for b in range(2)),
    *(f"up_blocks.{b}.upsamplers.0.conv" for b in range(2)),
    *(f"mid_block.resnets.{n}.conv1" for n in range(2)),
    *(
        f"{side}.{b}.attentions.{n}.{m}"
        for side, blocks in ATTENTIONS.items()
        for b, count in blocks.items()
        for n in range(count)
        for m in ("proj_in", "norm", "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_out.0")
    ),
    "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
]
# As sgm's SDXL has them: https://github.com/Stability-AI/generative-models, sgm/modules/diffusionmodules/openaimodel.py
ORIGINAL = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "conv_norm_out": "out.0",
    "time_embedding.linear_1": "time_embed.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.1.norm2": "input_blocks.2.0.out_layers.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q": "input_blocks.8.1.transformer_blocks.0.attn1.to_q",
    "mid_block.resnets.1.conv1": "middle_block.2.in_layers.2",
    "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj": "middle_block.1.transformer_blocks.9.ff.net.0.proj",
    "up_blocks.0.attentions.0.norm": "output_blocks.0.1.norm",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
    "up_blocks.2.resnets.2.conv2": "output_blocks.8.0.out_layers.3",
    "up_blocks.2.resnets.0.time_emb_proj": "output_blocks.6.0.emb_layers.1",
}
TEXT = ["text_model.encoder.layers.3.self_attn.out_proj", "text_model.encoder.layers.3.mlp.fc1", "text_projection"]


def test_modules_have_the_names_of_the_original_network() -> None:
    found = ldm_names(MODULES)
    assert {module: found[module] for module in ORIGINAL} == ORIGINAL
    assert len(set(found.values())) == len(MODULES)


Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_out.0"
FC, OUT_PROJ = "text_model.encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3.self_attn.out_proj"


@pytest.mark.parametrize(
    ("key", "part", "module", "side"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight", "unet", Q, "down"),
        (f"lora_unet_{Q.replace('.', '_')}.lora_up.weight", "unet", Q, "up"),
        ("oft_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.oft_blocks", "unet", Q, "oft_blocks"),
        (f"lycoris_{Q.replace('.', '_')}.oft_diag", "unet", Q, "oft_blocks"),
        (f"oft_te2_text_model_{FC.removeprefix('text_model.').replace('.', '_')}.alpha", "text_encoder_2", FC, "alpha"),
        (f"lycoris_{Q.replace('.', '_')}.lokr_w1_a", "unet", Q, "lokr_w1_a"),
        (f"unet.{Q}.lora_A.weight", "unet", Q, "down"),
        (f"unet.{Q}.lora.up.weight", "unet", Q, "up"),
        (f"unet.{Q}.lora_magnitude_vector", "unet", Q, "magnitude"),
        (f"base_model.model.{Q}.lora_A.default.weight", "unet", Q, "down"),
        (f"base_model.model.{Q}.lora_magnitude_vector.default.weight", "unet", Q, "magnitude"),
        (f"base_model.model.unet.{OUT}.lora_B.my_style.bias", "unet", OUT, "up_bias"),
        ("unet.up_blocks.0.attentions.2.transformer_blocks.0.attn1.processor.to_out_lora.up.weight", "unet", OUT, "up"),
        ("unet.up_blocks.0.attentions.2.transformer_blocks.0.attn1.processor.to_out_lora.alpha", "unet", OUT, "alpha"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.lora_A.weight", "unet", Q, "down"),
        ("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.diff", "unet", Q, "diff"),
        (f"{OUT.replace('attn1', 'attn1')}.hada_t1", "unet", OUT, "hada_t1"),
        ("lora_unet_out_2.diff_b", "unet", "conv_out", "diff_b"),
        ("lora_unet_out_0.w_norm", "unet", "conv_norm_out", "w_norm"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1.alpha", "text_encoder", FC, "alpha"),
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.dora_scale", "text_encoder", FC, "dora_scale"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_mid.weight", "text_encoder_2", FC, "mid"),
        ("lora_te2_text_projection.lora_up.weight", "text_encoder_2", "text_projection", "up"),
        (f"text_encoder.{FC}.lora_A.weight", "text_encoder", FC, "down"),
        (f"text_encoder_2.{FC}.lora_linear_layer.down.weight", "text_encoder_2", FC, "down"),
        (
            "text_encoder_2.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight",
            "text_encoder_2",
            OUT_PROJ,
            "up",
        ),
        (f"text_encoders.clip_l.transformer.{FC}.lora_down.weight", "text_encoder", FC, "down"),
        (f"text_encoders.clip_g.transformer.{FC}.lora_down.weight", "text_encoder_2", FC, "down"),
        (f"clip_g.transformer.{FC}.oft_blocks", "text_encoder_2", FC, "oft_blocks"),
        (f"clip_l.{FC}.lora_down.weight", "text_encoder", FC, "down"),
        (f"base_model.model.{FC}.lora_B.default.weight", "text_encoder", FC, "up"),
    ],
)
def test_a_key_of_every_trainer_is_a_module_and_what_it_is(key: str, part: str, module: str, side: str) -> None:
    known = {
        **module_names("unet", MODULES),
        **module_names("text_encoder", TEXT),
        **module_names("text_encoder_2", TEXT),
    }
    name, found = split_key(key)
    assert found == side
    assert [(place.part, known[place]) for place in places(name) if place in known] == [(part, module)]


def test_what_is_no_name_of_a_module_is_none() -> None:
    assert split_key("bundle_emb.style.clip_l") == ("bundle_emb.style.clip_l", "")
    assert ModuleName("unet", "double_blocks_0") in list(places("lora_unet_double_blocks_0"))
