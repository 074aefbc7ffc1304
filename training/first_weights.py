"""The VAE's weights before training: blocks of 8 x 8 px to their mean colour and back.

With diffusers' random first weights the latents carried one brightness and no colour for the first hundreds of steps
(held-out pictures came back at 16 dB after 300). Begun as below they come back at 20.8 dB before the first step.

A colour passes the activation before the last convolution as two channels: silu(x) - silu(-x) = x.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

COLOURS = 3
GAIN = 0.5  # about what the normalisation before the last convolution has made a colour larger by
LOG_VARIANCE = -6.0  # a spread of 1 would drown what the encoder has to say at first


@torch.no_grad()
def pass_mean_colours(network: Any) -> None:
    """Give an AutoencoderKL these weights; channels beyond the colours keep their random ones."""
    for part in network.modules():
        if isinstance(part, ResnetBlock2D):
            _zero(part.conv2)
            if part.conv_shortcut is not None:
                _identity(part.conv_shortcut)
        elif isinstance(part, Downsample2D):
            _zero(part.conv)
            channels = torch.arange(len(part.conv.weight))
            part.conv.weight[channels, channels, :2, :2] = 0.25
        elif isinstance(part, Upsample2D):
            conv: Any = part.conv
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        elif isinstance(part, Attention):
            _zero(part.to_out[0])
    for side in (network.encoder, network.decoder):
        _begin(side.conv_in)
        _end(side.conv_out)
    latents = network.config.latent_channels
    for one in (network.quant_conv, network.post_quant_conv):
        one.weight[:latents], one.bias[:latents] = 0.0, 0.0
        one.weight[range(latents), range(latents)] = 1.0
    network.quant_conv.weight[latents:] = 0.0
    network.quant_conv.bias[latents:] = LOG_VARIANCE


def _zero(part: Any) -> None:
    nn.init.zeros_(part.weight)
    nn.init.zeros_(part.bias)


def _identity(shortcut: Any) -> None:
    """Channels that are on both sides pass unchanged."""
    shared = min(shortcut.weight.shape[:2])
    shortcut.weight[:shared] = 0.0
    shortcut.weight[range(shared), range(shared)] = 1.0
    nn.init.zeros_(shortcut.bias)


def _begin(conv: Any) -> None:
    """Colours, their negatives, and one channel of ones, from which a normalisation can tell dark from bright."""
    conv.weight[: 2 * COLOURS + 1] = 0.0
    conv.bias[: 2 * COLOURS + 1] = 0.0
    conv.bias[2 * COLOURS] = 1.0
    for colour in range(COLOURS):
        conv.weight[colour, colour, 1, 1] = 1.0
        conv.weight[COLOURS + colour, colour, 1, 1] = -1.0


def _end(conv: Any) -> None:
    conv.weight[:COLOURS] = 0.0
    nn.init.zeros_(conv.bias)
    for colour in range(COLOURS):
        conv.weight[colour, colour, 1, 1] = GAIN
        conv.weight[colour, COLOURS + colour, 1, 1] = -GAIN
