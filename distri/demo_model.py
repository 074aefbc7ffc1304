"""A small pipeline of SDXL's architecture with random weights, for demonstrations and tests without a download.

Made offline from a seed, the same every time. Run it as `python -m distri.demo_model DIR`. Its images show coloured
structure that follows from prompt, seed and size, and nothing else: it is untrained.
"""

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 400
CONTEXT_TOKENS = 77

# What the vocabulary is learnt from: words that prompts are made of.
CORPUS = """
a photo of the mountain lake at sunrise with morning fog over the water and the light of the sun on the snow
an oil painting of an old fishing boat in the harbour under a stormy sky with dramatic clouds and strong brush strokes
a portrait of a young woman with red hair wearing a green coat in the autumn forest soft light shallow depth of field
a futuristic city at night with neon signs reflected in the wet street and flying cars between the glass towers
a watercolor illustration of a small house in a garden full of flowers with birds and butterflies in the spring
a detailed drawing of an astronaut riding a horse on the surface of the moon with the earth in the background
a cute cat sleeping on a wooden chair beside the window warm afternoon light high quality detailed realistic
a macro photograph of a dew drop on a leaf sharp focus bokeh beautiful colors high resolution
a castle on a hill above the river in the style of a medieval tapestry gold thread rich texture intricate pattern
minimal poster design with bold geometric shapes and three colors blue orange white flat vector graphic
low quality blurry ugly deformed bad anatomy extra fingers watermark text signature worst quality
a bowl of fresh fruit on a table still life painting baroque lighting cinematic composition masterpiece
"""


def write(directory: Path, *, seed: int = 0) -> Path:
    """Write the pipeline's files below `directory`, which is made if it is not there; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = byte_pairs(CORPUS, MERGES)
    generator = torch.Generator().manual_seed(seed)
    tokenizer_of: Any = CLIPTokenizer
    for name, padding in (("tokenizer", END), ("tokenizer_2", "!")):
        tokenizer = tokenizer_of(
            vocab=vocabulary,
            merges=merges,
            unk_token=END,
            bos_token=START,
            eos_token=END,
            pad_token=padding,
            model_max_length=CONTEXT_TOKENS,
        )
        tokenizer.save_pretrained(directory / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = CLIPTextModel(_text_config(vocabulary, width=32, activation="quick_gelu"))
        second = CLIPTextModelWithProjection(_text_config(vocabulary, width=64, activation="gelu"))
        unet = _unet(text_width=32 + 64, pooled_width=64)
        vae = _vae()
    parts: tuple[Any, ...] = (first, second, unet, vae)
    for part in parts:
        _randomise(part, generator)
    first.save_pretrained(directory / "text_encoder")
    second.save_pretrained(directory / "text_encoder_2")
    unet.save_pretrained(directory / "unet")
    vae.save_pretrained(directory / "vae")
    scheduler: Any = EulerDiscreteScheduler
    scheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        interpolation_type="linear",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=False,
    ).save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.36.0",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    (directory / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return directory


def byte_pairs(corpus: str, count: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's kind of byte-level vocabulary, learnt from a corpus (Sennrich, Haddow and Birch 2016).

    Returns:
        Every byte alone and at a word's end, `count` merged pairs, start and end token; and the merges in order. Ties
        go to the pair that sorts first, so that the result depends on nothing but the corpus.
    """
    letters = _byte_letters()
    words = Counter((*word[:-1], word[-1] + "</w>") for word in corpus.split())
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): times for word, times in words.items()})
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for letter in word:
        if merged and (merged[-1], letter) == pair:
            merged[-1] += letter
        else:
            merged.append(letter)
    return tuple(merged)


def _byte_letters() -> list[str]:
    """One printable letter for each byte, as GPT-2's and CLIP's tokenizers have it: "!" is the first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def _text_config(vocabulary: dict[str, int], *, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=width // 16,
        max_position_embeddings=CONTEXT_TOKENS,
        hidden_act=activation,
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )


def _unet(*, text_width: int, pooled_width: int) -> Any:
    kind: Any = UNet2DConditionModel
    return kind(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 80),
        layers_per_block=2,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 5),
        cross_attention_dim=text_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + pooled_width,
    )


def _vae() -> Any:
    kind: Any = AutoencoderKL
    return kind(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
        scaling_factor=0.13025,
        force_upcast=True,
    )


def _randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights from this generator, with a spread at which signals neither vanish nor explode."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim >= 2:
                inputs = parameter[0].numel()
                spread = 0.7 if "embedding" in name and "time" not in name and "add" not in name else inputs**-0.5
                parameter.normal_(0.0, spread, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, 0.05, generator=generator)


def main() -> None:
    """`python -m distri.demo_model DIR [--seed N]`."""
    parser = argparse.ArgumentParser(description="Write a small SDXL pipeline with random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.directory, seed=arguments.seed)


if __name__ == "__main__":
    main()
