"""What a deployment renders, as its controller announces it in Redis, so that a client can refuse bad rows itself."""

from __future__ import annotations

import functools
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.checkpoints.clip import has_clip_vocabulary
from pipeline.deployment.allow_lists import AnyName, Names
from pipeline.deployment.cost import SDXL_NATIVE_PX
from pipeline.deployment.layout_choice import Load, fastest_layout
from pipeline.deployment.layouts import Layout, planned_layout
from pipeline.deployment.recipes import ModelDefaults, with_recipe
from pipeline.deployment.settings import (
    ConnectionSettings,
    MachineSettings,
    ModelSource,
    Settings,
    default_of,
    variable_name,
)
from pipeline.deployment.slot_choice import fixed_slots
from pipeline.deployment.tenants import TenantLimits
from pipeline.picture import Enlargement, HighresAttention, Syntax
from pipeline.schema import Versioned

SCHEMA_VERSION = 1
SYNTAXES = tuple(one.value for one in Syntax)


class AllowedModel(BaseModel):
    """What a client needs to know of a model that rows may name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: str
    native_px: int
    defaults: ModelDefaults = Field(ModelDefaults(), description="What rows get with it where they say nothing.")
    refiner_switch_at: float | None = Field(None, description="Where its refiner takes over; none: it has none.")
    clip_vocabulary: bool | None = Field(
        None, description="Whether its tokenizers have CLIP's, so that tokens can be counted; None: it is not known."
    )


class _AllowedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[str, ...] = Field((), description="Model ids that it fits; none means all.")
    names: tuple[str, ...] = Field((), description="Those beside its id: aliases and its file's name.")

    def fits(self, model: str) -> bool:
        """Whether it was made for this model."""
        return not self.models or model in self.models


class AllowedLora(_AllowedFile):
    """What a client needs to know of a LoRA that rows may name."""

    defaults: ModelDefaults = Field(ModelDefaults(), description="What rows get with it where they say nothing.")


class AllowedEmbedding(_AllowedFile):
    """What a client needs to know of an embedding (textual inversion) that prompts may name."""


class AnnouncedLimits(TenantLimits):
    """What a client needs to know of what a tenant may have."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _empty(value: object) -> bool:
    return not value


class Deployment(Versioned):
    """A deployment as it announces itself: the limits that rows are checked against.

    Newer controllers may announce more, and older clients ignore it; what an older one does not say is the default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    version: str = Field(description="Version of the controller that announced it.")
    models: dict[str, AllowedModel]
    default_model: str | None
    loras: dict[str, AllowedLora] = Field(default_factory=dict, description="LoRAs that rows may name.")
    embeddings: dict[str, AllowedEmbedding] = Field(
        default_factory=dict, description="Embeddings that prompts may name."
    )
    guidance_intervals: bool = Field(
        False, description="Whether its pods read `guidance_interval`; earlier versions guide at every step."
    )
    syntaxes: tuple[str, ...] = Field((), description="Prompt syntaxes that its pods read; earlier versions read none.")
    images_in: bool = Field(False, description="Whether its pods begin with pictures; earlier versions do not.")
    prompt_syntax: str = Field(default_of("prompt_syntax").value, description="Of rows that do not say theirs.")
    max_megapixels: float
    max_rows: int
    max_images: int = default_of("max_images")
    tenants: dict[str, AnnouncedLimits] = Field(default_factory=dict, description="Limits by tenant; `*`: all others.")
    prompt_buckets: tuple[str, ...] | None = Field(
        None, description="Buckets of schedules' prompts beside its own; None: it does not say."
    )
    highres_attention: HighresAttention | None = Field(
        None, description="Of later passes, where rows do not say; None: its version knows whole attention alone."
    )
    highres_window_px: int | None = Field(None, description="Side of a window; None: the model's native size.")
    highres_enlargement: Enlargement = Field(
        Enlargement.PIXELS, description="Between passes, where rows do not say theirs."
    )
    layout: Layout
    goal: str = default_of("goal")
    slots: int | None = Field(
        1, description="Images that a replica evaluates together; None: whatever gives most images an hour."
    )
    device: str = Field("auto", description="What a pod's ranks compute on.")
    one_gpu_megapixels: float = default_of("one_gpu_megapixels")
    exact: bool = default_of("exact")
    gpus: int = Field(default_of("gpus"), description="Of one pod.")
    images_per_job: int = default_of("images_per_job")
    job_seconds: float = default_of("job_seconds")
    idle_ranks: bool = Field(
        default_of("idle_ranks"), description="Images too small for the layout are rendered on fewer ranks."
    )
    webhooks: bool = Field(False, description="Whether it sends webhooks; earlier versions do not.")
    webhook_networks: tuple[str, ...] = Field((), description="Networks that they reach beside public ones.")
    image: str | None = Field(None, description="Container image that batches accepted now are rendered with.")
    pods: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=_empty,
        description="Settings that decide how its pods look in a cluster, as variables; no secret is among them.",
    )
    awaits: dict[str, str] = Field(
        default_factory=dict, exclude_if=_empty, description="Models whose weights are not there yet, and why."
    )
    megapixels_in_memory: float | None = Field(
        None, description="Largest image that a replica's GPUs hold, where the settings say what one GPU does."
    )

    @classmethod
    def of(cls, settings: Settings, version: str) -> Deployment:
        """What these settings render."""
        return cls(
            version=version,
            models={
                name: AllowedModel(
                    revision=model.revision,
                    native_px=model.native_px,
                    defaults=with_recipe(model.recipe, model.defaults),
                    refiner_switch_at=model.refiner.switch_at if model.refiner is not None else None,
                    clip_vocabulary=_has_clips_vocabulary(model),
                )
                for name, model in settings.models.items()
            },
            default_model=settings.model_by_default,
            loras={
                name: AllowedLora(
                    models=lora.models, names=lora.names, defaults=with_recipe(lora.recipe, lora.defaults)
                )
                for name, lora in settings.loras.items()
            },
            embeddings={
                name: AllowedEmbedding(models=one.models, names=one.names) for name, one in settings.embeddings.items()
            },
            guidance_intervals=True,
            syntaxes=SYNTAXES,
            images_in=True,
            prompt_syntax=settings.prompt_syntax.value,
            highres_attention=settings.highres_attention,
            highres_window_px=settings.highres_window_px,
            highres_enlargement=settings.highres_enlargement,
            max_megapixels=settings.max_megapixels,
            max_rows=settings.max_rows,
            max_images=settings.max_images,
            tenants={name: AnnouncedLimits(**limits.model_dump()) for name, limits in settings.tenants.items()},
            prompt_buckets=settings.prompt_buckets,
            layout=planned_layout(settings.gpus, settings.layout),
            goal=settings.goal if settings.layout is None else "latency",
            slots=fixed_slots(settings.slots, settings.goal),
            device=settings.device,
            one_gpu_megapixels=settings.one_gpu_megapixels,
            exact=settings.exact,
            gpus=settings.gpus,
            images_per_job=settings.images_per_job,
            job_seconds=settings.job_seconds,
            idle_ranks=settings.idle_ranks,
            webhooks=settings.webhook_key is not None,
            webhook_networks=settings.webhook_networks,
            image=settings.image,
            pods=_of_pods(settings) if settings.launcher == "kubernetes" else {},
            megapixels_in_memory=_megapixels_in_memory(settings),
        )

    @classmethod
    def any(cls) -> Deployment:
        """One that renders whatever is asked for: rows are checked against it where there is no deployment."""
        return cls.model_construct(
            version="none",
            models=_Everything(AllowedModel(revision="any", native_px=SDXL_NATIVE_PX, refiner_switch_at=1.0)),
            default_model="any",
            loras=_Everything(AllowedLora()),
            embeddings=_Everything(AllowedEmbedding()),
            guidance_intervals=True,
            syntaxes=SYNTAXES,
            images_in=True,
            max_megapixels=float("inf"),
            max_rows=10**9,
            max_images=10**12,
            layout=Layout(1, 1, 1),
        )

    @cached_property
    def lora_names(self) -> Names:
        """The names that prompts know its LoRAs by."""
        return AnyName() if isinstance(self.loras, _Everything) else Names(self.loras)

    @cached_property
    def embedding_names(self) -> Names:
        """The names that prompts know its embeddings by."""
        return AnyName() if isinstance(self.embeddings, _Everything) else Names(self.embeddings)

    def usual_layout(self, width: int, height: int) -> Layout:
        """The layout of a pod that has many images of this size to render."""
        if self.goal != "throughput":
            return self.layout
        many = [Load(width, height, 1.0)] * self.gpus
        return fastest_layout(self.gpus, many, one_gpu_megapixels=self.one_gpu_megapixels).layout

    @property
    def shortest_long_side_px(self) -> int:
        """The least longer side, in pixels, that can be rendered."""
        return 0 if self.idle_ranks else self.layout.shortest_long_side_px

    def model_names(self) -> str:
        """The allowed models, for a message."""
        return ", ".join(sorted(self.models)) or "none"


def _megapixels_in_memory(settings: Settings) -> float | None:
    """What all GPUs of one replica hold, as patches; None where one GPU's share is a default, which is no promise."""
    if "one_gpu_megapixels" not in settings.model_fields_set:
        return None
    replicas = settings.layout.data if settings.layout is not None else 1
    return settings.one_gpu_megapixels * settings.gpus / replicas


def _of_pods(settings: Settings) -> dict[str, str]:
    """The settings that are no connection and belong to no machine, for whoever builds a pod's Job elsewhere."""
    apart = {variable_name(name) for part in (ConnectionSettings, MachineSettings) for name in part.model_fields}
    defaults = {variable_name(name) for name in Settings.model_fields.keys() - settings.model_fields_set}
    return {name: text for name, text in settings.environment().items() if name not in apart | defaults}


def _has_clips_vocabulary(model: ModelSource) -> bool:
    """As the settings say, or the model's folder where it can be seen from here; every SDXL model's is CLIP's."""
    if model.clip_vocabulary is not None:
        return model.clip_vocabulary
    tokenizer = Path(model.path) / "tokenizer"
    changed = tokenizer.stat().st_mtime if tokenizer.is_dir() else None
    return _looked_up(model.path, changed)


@functools.lru_cache(maxsize=256)
def _looked_up(path: str, _changed: float | None) -> bool:
    found = has_clip_vocabulary(Path(path))
    return True if found is None else found


class _Everything(dict[str, Any]):
    """An allow-list with every name on it."""

    def __init__(self, each: Any) -> None:
        super().__init__()
        self._each = each

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> Any:
        return self._each
