"""What a deployment renders, as its controller announces it in Redis, so that a client can refuse bad rows itself.

A record with a line for each thing that a client may have to know, some 300 lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import ConfigDict, Field

from pipeline.checkpoints.control_files import ControlFile
from pipeline.deployment.allow_lists import AnyName, Names
from pipeline.deployment.allowed import (
    AllowedControlNet,
    AllowedEmbedding,
    AllowedIPAdapter,
    AllowedLora,
    AllowedModel,
    Everything,
)
from pipeline.deployment.cost import SDXL_NATIVE_PX
from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layout_choice import Load, fastest_layout
from pipeline.deployment.layouts import Layout, planned_layout
from pipeline.deployment.recipes import with_recipe
from pipeline.deployment.seen_files import (
    allowed_controlnets,
    allowed_files,
    base_seen,
    clip_vocabulary,
    inpainting_seen,
)
from pipeline.deployment.settings import (
    ConnectionSettings,
    MachineSettings,
    Settings,
    StandaloneSettings,
    default_of,
    variable_name,
)
from pipeline.deployment.slot_choice import fixed_slots
from pipeline.deployment.tenants import TenantLimits
from pipeline.picture import Enlargement, HighresAttention, Syntax
from pipeline.schema import Versioned

SCHEMA_VERSION = 1
SYNTAXES = tuple(one.value for one in Syntax)


class AnnouncedLimits(TenantLimits):
    """What a client needs to know of what a tenant may have."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _empty(value: object) -> bool:
    return not value


class Deployment(Versioned):
    """A deployment as it announces itself: the limits that rows are checked against.

    Newer controllers may announce more, and older clients ignore it; what an older one does not say is the default.
    """

    schema_version: int = SCHEMA_VERSION
    version: str = Field(description="Version of the controller that announced it.")
    models: dict[str, AllowedModel]
    default_model: str | None
    loras: dict[str, AllowedLora] = Field(default_factory=dict, description="LoRAs that rows may name.")
    embeddings: dict[str, AllowedEmbedding] = Field(
        default_factory=dict, description="Embeddings that prompts may name."
    )
    controlnets: dict[str, AllowedControlNet] = Field(
        default_factory=dict, exclude_if=_empty, description="Control networks that rows may name."
    )
    ip_adapters: dict[str, AllowedIPAdapter] = Field(
        default_factory=dict, exclude_if=_empty, description="IP-Adapters that rows may name."
    )
    guidance_intervals: bool = Field(
        False, description="Whether its pods read `guidance_interval`; earlier versions guide at every step."
    )
    displacements: bool = Field(
        False, description="Whether rows say how displaced evaluations are computed; earlier versions do not ask them."
    )
    settling: bool = Field(False, description="Whether rows say `settling_steps`; earlier versions do not settle.")
    syntaxes: tuple[str, ...] = Field((), description="Prompt syntaxes that its pods read; earlier versions read none.")
    images_in: bool = Field(False, description="Whether its pods begin with pictures; earlier versions do not.")
    masks: bool = Field(False, description="Whether its pods paint masked parts of them; earlier versions do not.")
    mask_rounds: bool = Field(False, description="Whether its pods fill masks in rounds; earlier versions do not.")
    cascades: bool = Field(False, description="Whether its pods know cascades; earlier versions do not.")
    cascade_guidance: bool = Field(False, description="Whether larger sizes of a cascade have a guidance of their own.")
    control: bool = Field(False, description="Whether its pods read `control`; earlier versions do not.")
    references: bool = Field(False, description="Whether its pods read `reference`; earlier versions do not.")
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
    exchange: Exchange = default_of("exchange")
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
    def of(
        cls,
        settings: StandaloneSettings,
        version: str,
        bases: Mapping[str, str] | None = None,
        control_files: Mapping[str, ControlFile] | None = None,
    ) -> Deployment:
        """What these settings render.

        `bases`: of LoRAs and embeddings that cannot be seen from here, the base model by SHA-256, where it is known.
        `control_files`: likewise, what control networks are.
        """
        known = bases or {}
        return cls(
            version=version,
            models={
                name: AllowedModel(
                    revision=model.revision,
                    native_px=model.native_px,
                    defaults=with_recipe(model.recipe, model.defaults),
                    refiner_switch_at=model.refiner.switch_at if model.refiner is not None else None,
                    clip_vocabulary=clip_vocabulary(model),
                    inpainting=inpainting_seen(model),
                )
                for name, model in settings.models.items()
            },
            default_model=settings.model_by_default,
            loras={
                name: AllowedLora(
                    models=lora.models,
                    names=lora.names,
                    base=known.get(lora.sha256) or base_seen(lora.path),
                    defaults=with_recipe(lora.recipe, lora.defaults),
                )
                for name, lora in settings.loras.items()
            },
            embeddings=allowed_files(AllowedEmbedding, settings.embeddings, known),
            controlnets=allowed_controlnets(settings.controlnets, known, control_files or {}),
            ip_adapters=allowed_files(AllowedIPAdapter, settings.ip_adapters, known),
            guidance_intervals=True,
            displacements=True,
            settling=True,
            syntaxes=SYNTAXES,
            images_in=True,
            masks=True,
            mask_rounds=True,
            cascades=True,
            cascade_guidance=True,
            control=True,
            references=True,
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
            exchange=settings.exchange,
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
            models=Everything(AllowedModel(revision="any", native_px=SDXL_NATIVE_PX, refiner_switch_at=1.0)),
            default_model="any",
            loras=Everything(AllowedLora()),
            embeddings=Everything(AllowedEmbedding()),
            controlnets=Everything(AllowedControlNet()),
            ip_adapters=Everything(AllowedIPAdapter()),
            guidance_intervals=True,
            displacements=True,
            settling=True,
            syntaxes=SYNTAXES,
            images_in=True,
            masks=True,
            mask_rounds=True,
            cascades=True,
            cascade_guidance=True,
            control=True,
            references=True,
            max_megapixels=float("inf"),
            max_rows=10**9,
            max_images=10**12,
            layout=Layout(1, 1, 1),
        )

    @cached_property
    def lora_names(self) -> Names:
        """The names that prompts know its LoRAs by."""
        return AnyName() if isinstance(self.loras, Everything) else Names(self.loras)

    @cached_property
    def embedding_names(self) -> Names:
        """The names that prompts know its embeddings by."""
        return AnyName() if isinstance(self.embeddings, Everything) else Names(self.embeddings)

    @cached_property
    def controlnet_names(self) -> Names:
        """The names that rows know its control networks by."""
        return AnyName() if isinstance(self.controlnets, Everything) else Names(self.controlnets)

    @cached_property
    def ip_adapter_names(self) -> Names:
        """The names that rows know its IP-Adapters by."""
        return AnyName() if isinstance(self.ip_adapters, Everything) else Names(self.ip_adapters)

    def usual_layout(self, width: int, height: int, adapter_pixels: int = 0) -> Layout:
        """The layout of a pod that has many images of this size to render, with what they name (`adapter_memory`)."""
        if self.goal != "throughput":
            return self.layout
        many = [Load(width, height, 1.0, adapter_pixels)] * self.gpus
        return fastest_layout(self.gpus, many, one_gpu_megapixels=self.one_gpu_megapixels).layout

    @property
    def shortest_long_side_px(self) -> int:
        """The least longer side, in pixels, that can be rendered."""
        return 0 if self.idle_ranks else self.layout.shortest_long_side_px

    def model_names(self) -> str:
        """The allowed models, for a message."""
        return ", ".join(sorted(self.models)) or "none"


def _megapixels_in_memory(settings: StandaloneSettings) -> float | None:
    """What all GPUs of one replica hold, as patches; None where one GPU's share is a default, which is no promise."""
    if "one_gpu_megapixels" not in settings.model_fields_set:
        return None
    replicas = settings.layout.data if settings.layout is not None else 1
    return settings.one_gpu_megapixels * settings.gpus / replicas


def _of_pods(settings: StandaloneSettings) -> dict[str, str]:
    """The settings that are no connection and belong to no machine, for whoever builds a pod's Job elsewhere."""
    apart = {variable_name(name) for part in (ConnectionSettings, MachineSettings) for name in part.model_fields}
    defaults = {variable_name(name) for name in Settings.model_fields.keys() - settings.model_fields_set}
    return {name: text for name, text in settings.environment().items() if name not in apart | defaults}
