"""Which tensors the four networks of an SDXL pipeline have, by name and shape, from their configurations.

The names are diffusers' and transformers' own, for text encoders without `text_model.`, which versions of transformers
write or leave out. Any width and depth of SDXL's architecture; what the engine knows no layer for is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import BadCheckpoint

Shapes = dict[str, tuple[int, ...]]
Config = Mapping[str, Any]

# What a UNet's configuration may say of parts that SDXL does not have.
_UNET_WITHOUT = {
    "class_embed_type": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "attention_type": "default",
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_norm": None,
    "resnet_time_scale_shift": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}


def unet_tensors(config: Config) -> Shapes:
    """Those of a `UNet2DConditionModel`. Raises BadCheckpoint: it has parts that SDXL has not, or lacks a number."""
    for name, wanted in _UNET_WITHOUT.items():
        if (found := config.get(name, wanted)) != wanted:
            raise BadCheckpoint(f"its UNet's {name} is {found!r}; {wanted!r} wanted, as SDXL has it")
    try:
        return dict(_unet(config))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _unreadable("unet", error) from error


def vae_tensors(config: Config) -> Shapes:
    """Those of an `AutoencoderKL`. Raises BadCheckpoint: its configuration lacks a number."""
    try:
        return dict(_vae(config))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _unreadable("vae", error) from error


def text_encoder_tensors(config: Config, *, projected: bool) -> Shapes:
    """Those of a `CLIPTextModel`, or with `projected` of a `CLIPTextModelWithProjection`. Raises BadCheckpoint."""
    try:
        return dict(_text_encoder(config, projected=projected))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _unreadable("text_encoder", error) from error


def _unreadable(part: str, error: Exception) -> BadCheckpoint:
    reason = f"{type(error).__name__}: {error}"
    return BadCheckpoint(f"{part}: its configuration does not describe an SDXL network ({reason[:200]})")


def _unet(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    widths, count = list(config["block_out_channels"]), len(config["block_out_channels"])
    layers = int(config.get("layers_per_block", 2))
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * count if isinstance(depths, int) else list(depths)
    time, text = 4 * widths[0], int(config["cross_attention_dim"])
    linear = bool(config.get("use_linear_projection", False))
    yield from _conv("conv_in", widths[0], config["in_channels"], 3)
    yield from _linear("time_embedding.linear_1", time, widths[0])
    yield from _linear("time_embedding.linear_2", time, time)
    if config.get("addition_embed_type") == "text_time":
        yield from _linear("add_embedding.linear_1", time, config["projection_class_embeddings_input_dim"])
        yield from _linear("add_embedding.linear_2", time, time)
    elif config.get("addition_embed_type") is not None:
        raise ValueError(f"addition_embed_type is {config['addition_embed_type']!r}")

    def attention(site: str, width: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _transformer(site, width, depth, text, linear=linear)

    width = widths[0]
    for i, (kind, out) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        attends = _attends(kind, "DownBlock2D", "CrossAttnDownBlock2D")
        for j in range(layers):
            yield from _resnet(f"down_blocks.{i}.resnets.{j}", width, out, time)
            if attends:
                yield from attention(f"down_blocks.{i}.attentions.{j}", out, depths[i])
            width = out
        if i < count - 1:
            yield from _conv(f"down_blocks.{i}.downsamplers.0.conv", out, out, 3)
    for j in range(2):
        yield from _resnet(f"mid_block.resnets.{j}", width, width, time)
    yield from attention("mid_block.attentions.0", width, depths[-1])
    turned, turned_depths = widths[::-1], depths[::-1]
    for i, (kind, out) in enumerate(zip(config["up_block_types"], turned, strict=True)):
        attends = _attends(kind, "UpBlock2D", "CrossAttnUpBlock2D")
        below = turned[min(i + 1, count - 1)]
        for j in range(layers + 1):
            yield from _resnet(f"up_blocks.{i}.resnets.{j}", width + (below if j == layers else out), out, time)
            if attends:
                yield from attention(f"up_blocks.{i}.attentions.{j}", out, turned_depths[i])
            width = out
        if i < count - 1:
            yield from _conv(f"up_blocks.{i}.upsamplers.0.conv", out, out, 3)
    yield from _norm("conv_norm_out", widths[0])
    yield from _conv("conv_out", config["out_channels"], widths[0], 3)


def _attends(kind: str, plain: str, attending: str) -> bool:
    if kind not in (plain, attending):
        raise ValueError(f"a block is a {kind}; {plain} or {attending} wanted")
    return kind == attending


def _transformer(
    site: str, width: int, depth: int, text: int, *, linear: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{site}.norm", width)
    for name in ("proj_in", "proj_out"):
        yield from _linear(f"{site}.{name}", width, width) if linear else _conv(f"{site}.{name}", width, width, 1)
    for k in range(depth):
        block = f"{site}.transformer_blocks.{k}"
        for name, read in (("attn1", width), ("attn2", text)):
            yield f"{block}.{name}.to_q.weight", (width, width)
            yield f"{block}.{name}.to_k.weight", (width, read)
            yield f"{block}.{name}.to_v.weight", (width, read)
            yield from _linear(f"{block}.{name}.to_out.0", width, width)
        for name in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{block}.{name}", width)
        yield from _linear(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _linear(f"{block}.ff.net.2", width, 4 * width)


def _vae(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    widths, count = list(config["block_out_channels"]), len(config["block_out_channels"])
    layers, latent = int(config.get("layers_per_block", 1)), int(config["latent_channels"])
    yield from _conv("encoder.conv_in", widths[0], config["in_channels"], 3)
    width = widths[0]
    for i, (kind, out) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        _attends(kind, "DownEncoderBlock2D", "DownEncoderBlock2D")
        for j in range(layers):
            yield from _resnet(f"encoder.down_blocks.{i}.resnets.{j}", width, out)
            width = out
        if i < count - 1:
            yield from _conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", out, out, 3)
    yield from _vae_middle("encoder", width)
    yield from _norm("encoder.conv_norm_out", width)
    yield from _conv("encoder.conv_out", 2 * latent, width, 3)
    yield from _conv("decoder.conv_in", width, latent, 3)
    yield from _vae_middle("decoder", width)
    for i, (kind, out) in enumerate(zip(config["up_block_types"], widths[::-1], strict=True)):
        _attends(kind, "UpDecoderBlock2D", "UpDecoderBlock2D")
        for j in range(layers + 1):
            yield from _resnet(f"decoder.up_blocks.{i}.resnets.{j}", width, out)
            width = out
        if i < count - 1:
            yield from _conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", out, out, 3)
    yield from _norm("decoder.conv_norm_out", width)
    yield from _conv("decoder.conv_out", config["out_channels"], width, 3)
    if config.get("use_quant_conv", True):
        yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config.get("use_post_quant_conv", True):
        yield from _conv("post_quant_conv", latent, latent, 1)


def _vae_middle(half: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for j in range(2):
        yield from _resnet(f"{half}.mid_block.resnets.{j}", width, width)
    site = f"{half}.mid_block.attentions.0"
    yield from _norm(f"{site}.group_norm", width)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _linear(f"{site}.{name}", width, width)


def _text_encoder(config: Config, *, projected: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    yield "embeddings.token_embedding.weight", (int(config["vocab_size"]), width)
    yield "embeddings.position_embedding.weight", (int(config.get("max_position_embeddings", 77)), width)
    for i in range(int(config["num_hidden_layers"])):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.mlp.fc1", inner, width)
        yield from _linear(f"{layer}.mlp.fc2", width, inner)
    yield from _norm("final_layer_norm", width)
    if projected:
        yield "text_projection.weight", (int(config["projection_dim"]), width)


def _resnet(site: str, width: int, out: int, time: int | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{site}.norm1", width)
    yield from _conv(f"{site}.conv1", out, width, 3)
    if time is not None:
        yield from _linear(f"{site}.time_emb_proj", out, time)
    yield from _norm(f"{site}.norm2", out)
    yield from _conv(f"{site}.conv2", out, out, 3)
    if width != out:
        yield from _conv(f"{site}.conv_shortcut", out, width, 1)


def _norm(site: str, width: int) -> Sequence[tuple[str, tuple[int, ...]]]:
    return (f"{site}.weight", (width,)), (f"{site}.bias", (width,))


def _linear(site: str, out: int, width: int) -> Sequence[tuple[str, tuple[int, ...]]]:
    return (f"{site}.weight", (out, width)), (f"{site}.bias", (out,))


def _conv(site: str, out: int, width: int, side: int) -> Sequence[tuple[str, tuple[int, ...]]]:
    return (f"{site}.weight", (out, width, side, side)), (f"{site}.bias", (out,))
