"""How a picture was made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.deployment.displacement import UNSAID, Displacement
from pipeline.deployment.layouts import Layout
from pipeline.picture import Scheduler
from pipeline.stored import Record

# What encoding, denoising and decoding of an image took.
RenderSeconds = Annotated[float, Field(ge=0)]


class Provenance(Record):
    """How a picture was made: enough to make it again, and to say what differs if it comes out differently."""

    model_revision: str
    layout: Layout
    ranks: int
    exact: bool
    warmup_steps: int
    displacement: Displacement = Field(
        UNSAID, exclude_if=lambda value: value == UNSAID, description="How displaced evaluations are computed."
    )
    device: str
    dtype: str
    vae_dtype: str = "float32"
    lean: bool = False
    others: int = Field(
        0, ge=0, exclude_if=lambda value: not value, description="Most images that were evaluated together with it."
    )
    loras: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each LoRA's file, by name.")
    lora_tensors: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="SHA-256 of what follows the header of each LoRA's file, by name: AutoV3 are its first 12 digits.",
    )
    model_sha256: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Of the model's file, where it is a single one."
    )
    refiner_revision: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Of the model's refiner, where it has one."
    )
    refiner: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Name of its file or folder, without the ending."
    )
    vae: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Name of another VAE's file than the model's own."
    )
    sampler: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="The sampler that was used, by the name users know, also where the row named none.",
    )
    scheduler: Scheduler | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Its diffusers class, with every setting that a row could have given, the model's own among them.",
    )
    embeddings: dict[str, str] = Field(
        default_factory=dict, exclude_if=lambda value: not value, description="SHA-256 of each embedding's file, by id."
    )
    controlnets: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="SHA-256 of each control network's file, by id.",
    )
    ip_adapters: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="SHA-256 of each IP-Adapter's file, by id.",
    )
    image_encoders: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="SHA-256 of the weights of what read pictures for it, by the IP-Adapter's id.",
    )
    attempt: int
    versions: dict[str, str]
