"""What a deployment may render, and how its pods do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.checkpoints.checkpoint import ModelFiles
from pipeline.deployment.allow_lists import stem
from pipeline.deployment.cost import SDXL_NATIVE_PX
from pipeline.deployment.displacement import MOST_WORK, Displacement, Exchange
from pipeline.deployment.layouts import Layout
from pipeline.deployment.recipes import ModelDefaults, Recipe
from pipeline.deployment.settings.variables import SettingsPart
from pipeline.deployment.tenants import Tenants
from pipeline.picture import Enlargement, HighresAttention, NormMode, Syntax


class RefinerSource(BaseModel):
    """The refiner of a model: a second network that takes over for the last share of the schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(description="As the pod sees it: a single file, or a folder of its diffusers pipeline.")
    revision: str = Field(description="Pinned revision; part of every image's provenance.", min_length=1)
    switch_at: float = Field(0.8, gt=0, le=1, description="Share of the schedule after which it takes over.")
    variant: str | None = Field(None, description="Of a folder's weights.")
    config: str | None = Field(None, description="Folder that describes a single file of another size than SDXL's.")

    @property
    def files(self) -> ModelFiles:
        """Where its parts lie."""
        config = Path(self.config) if self.config is not None else None
        return ModelFiles(Path(self.path), variant=self.variant, config=config)


class ModelSource(BaseModel):
    """A model of the allow-list: where its weights lie in the pod, and which revision they must be."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(
        description="As the pod sees it: a single SDXL `.safetensors` file, or a folder of a diffusers SDXL pipeline."
    )
    revision: str = Field(description="Pinned revision; part of every image's provenance.", min_length=1)
    native_px: int = Field(SDXL_NATIVE_PX, ge=64, description="Side of the square that the model was trained on.")
    variant: str | None = Field(None, description="Of a folder's weights: `fp16` reads `model.fp16.safetensors`.")
    vae: str | None = Field(None, description="File or folder of another VAE.")
    text_encoders: str | None = Field(None, description="File or folder that the text encoders are taken from.")
    config: str | None = Field(
        None, description="Folder of a diffusers pipeline that describes a single file of another size than SDXL's."
    )
    prediction: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="What its network predicts, where its files do not say."
    )
    zero_snr: bool | None = Field(None, description="Trained with zero terminal SNR, where its files do not say.")
    recipe: Recipe | None = Field(None, description="Steps, guidance and scheduler of a distilled model.")
    defaults: ModelDefaults | None = Field(None, description="Likewise, one by one, over those of the recipe.")
    refiner: RefinerSource | None = Field(None, description="SDXL's refiner, which finishes this model's pictures.")
    sha256: str | None = Field(None, description="Of a single file; the warm-up checks it.", pattern=r"^[0-9a-f]{64}$")
    clip_vocabulary: bool | None = Field(
        None, description="Whether its tokenizers have CLIP's vocabulary, by which long prompts are found."
    )
    inpainting: bool | None = Field(
        None, description="Whether it was made to fill masks (nine channels); None: as its files say, where seen."
    )

    @property
    def files(self) -> ModelFiles:
        """Where its parts lie."""
        paths = {name: Path(value) for name in ("vae", "text_encoders", "config") if (value := getattr(self, name))}
        return ModelFiles(
            Path(self.path), variant=self.variant, prediction=self.prediction, zero_snr=self.zero_snr, **paths
        )


class AddedFile(BaseModel):
    """A file of an allow-list that is added to a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(description="Safetensors file, as the pod sees it: beside the models, on the same volume.")
    sha256: str = Field(description="Of the file, checked before use.", pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] = Field((), description="Model ids that it fits; none means all.")
    aliases: tuple[str, ...] = Field(
        (), exclude_if=lambda value: not value, description="Other names that prompts know it by, beside its file's."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Those beside its id: aliases and its file's name."""
        return (*self.aliases, stem(self.path))


class LoraSource(AddedFile):
    """A LoRA of the allow-list: its file in the pod, which file it must be, and the models it was made for."""

    recipe: Recipe | None = Field(
        None, description="Steps, guidance and scheduler of rows with it: Lightning, Hyper, LCM as a LoRA."
    )
    defaults: ModelDefaults | None = Field(None, description="Likewise, one by one, over those of the recipe.")


class EmbeddingSource(AddedFile):
    """An embedding (textual inversion) of the allow-list: its file, which it must be, the models it was made for."""


class ControlNetSource(AddedFile):
    """A control network of the allow-list: its file in diffusers' naming, which it must be, its models."""


class IPAdapterSource(AddedFile):
    """An IP-Adapter of the allow-list: its file in its authors' naming, which it must be, and its image encoder."""

    image_encoder: str = Field(
        description="Folder of the CLIP image encoder that it was made with: `config.json` and `model.safetensors`."
    )
    image_encoder_sha256: str = Field(
        description="Of the encoder's `model.safetensors`, checked before use.", pattern=r"^[0-9a-f]{64}$"
    )


class RenderingSettings(SettingsPart):
    """What may be rendered, and how a pod renders."""

    # What may be rendered
    models: dict[str, ModelSource] = Field(
        default_factory=dict, description="Allow-list: model id to its source (JSON)."
    )
    default_model: str | None = Field(None, description="Model of rows that name none; the only one if there is one.")
    loras: dict[str, LoraSource] = Field(default_factory=dict, description="Allow-list: LoRA id to its source (JSON).")
    embeddings: dict[str, EmbeddingSource] = Field(
        default_factory=dict, description="Allow-list: embedding (textual inversion) id to its source (JSON)."
    )
    controlnets: dict[str, ControlNetSource] = Field(
        default_factory=dict, description="Allow-list: control network id to its source (JSON)."
    )
    ip_adapters: dict[str, IPAdapterSource] = Field(
        default_factory=dict, description="Allow-list: IP-Adapter id to its source (JSON)."
    )
    prompt_syntax: Syntax = Field(
        Syntax.NONE, description="How prompts of rows that do not say `syntax` are read; `none` as literal text."
    )
    max_megapixels: float = Field(64.0, gt=0, description="Largest image that a row may ask for.")
    max_rows: int = Field(1_000_000, gt=0, description="Most rows of one batch.")
    max_images: int = Field(1_000_000, gt=0, description="Most images of one batch.")

    tenants: Tenants = Field(
        default_factory=dict, description="Limits by tenant (JSON), `*` for all others; none means no limits."
    )

    # How a pod renders
    gpus: int = Field(8, ge=1, description="Ranks of one pod: its GPUs, or processes on a CPU.")
    layout: Layout | None = Field(None, description="data x cfg x patch, as in 1x2x4; none lets the planner choose.")
    goal: Literal["latency", "throughput"] = Field(
        "latency", description="Without a layout: all GPUs on one image, or whatever is through with a job first."
    )
    one_gpu_megapixels: float = Field(
        4.2,
        gt=0,
        description="Largest image that fits one GPU, for `throughput`. Where it is set, rows larger than a replica's "
        "GPUs hold together are refused.",
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Images that a replica evaluates together at most; none lets goal and experience choose, 1 for "
        "`latency`.",
    )
    exact: bool = Field(False, description="Exchange synchronously at every step: the one-rank image, but slower.")
    warmup_steps: int = Field(
        1, ge=1, description="Synchronous evaluations at the beginning of a pass, before displaced ones."
    )
    settling_steps: int = Field(
        20,
        ge=0,
        description="Evaluations at the beginning of a pass, the warm-up among them, in which it is decided what is "
        "where: keys and values alone are displaced, all else waits. 0: none, for drafts; 1000: all, for the nearest "
        "pictures.",
    )
    resync: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Drift of the noise prediction above which one more evaluation is synchronous; none: never.",
    )
    norm_mode: NormMode = Field(
        NormMode.CORRECTED,
        description="GroupNorm in displaced evaluations: `corrected`, `stale`, `synchronous` or `local`.",
    )
    most_work: float = Field(
        MOST_WORK,
        ge=1,
        allow_inf_nan=False,
        description="Work of a rank, times the mean, above which it hands tokens on; a large number: never.",
    )
    exchange: Exchange = Field(
        Exchange.DISPLACED,
        description="How evaluations after the warm-up see other ranks' activations: `displaced`, an evaluation late; "
        "`residual`, as they are, keys and values in few bits, for GPUs joined by PCIe or Ethernet.",
    )
    highres_attention: HighresAttention = Field(
        HighresAttention.WHOLE,
        description="What self-attention sees in later passes of `refine` where rows do not say: `whole` or `windows`.",
    )
    highres_window_px: int | None = Field(
        None, ge=64, description="Side of such a window; none: the model's native size."
    )
    highres_enlargement: Enlargement = Field(
        Enlargement.PIXELS,
        description="What is enlarged between passes of `refine` where rows do not say: `pixels`, `latents`, "
        "`frequencies`.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="What a pod's ranks compute on.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="UNet's number format.")
    vae_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="VAE's number format; what is not finite in it is decoded again in float32. `auto` is bfloat16 on "
        "a GPU, and float32 without one or where `TESSERA_EXACT` is set.",
    )
    idle_ranks: bool = Field(
        False, description="Render images with too few rows for the layout on fewer ranks, instead of refusing them."
    )
    fused: Literal["auto", "never"] = Field(
        "auto",
        description="Whether fused kernels are used; `auto` does so on a GPU, in jobs that are long enough for it.",
    )
    replay: Literal["auto", "never"] = Field(
        "auto", description="Whether evaluations are recorded once a shape and replayed; `auto` does so on a GPU."
    )
    collective_timeout_s: float = Field(
        300.0, ge=10, le=24 * 3600, description="A rank that is silent so long ends its attempt."
    )
    image: str = Field("local", description="Container image of a pod, by digest; `local` for processes.")

    pod: dict[str, Any] = Field(
        default_factory=dict, description="How a pod looks in its cluster (JSON, see k8s/pod.py); not for `local`."
    )

    @model_validator(mode="after")
    def _check_default_model(self) -> Self:
        if self.default_model is not None and self.default_model not in self.models:
            raise ValueError(f"default_model {self.default_model!r} is not among models ({_names(self.models)})")
        return self

    @model_validator(mode="after")
    def _check_models_of_files(self) -> Self:
        files: dict[str, Mapping[str, AddedFile]] = {
            "lora": self.loras,
            "embedding": self.embeddings,
            "controlnet": self.controlnets,
            "IP-Adapter": self.ip_adapters,
        }
        for kind, listed in files.items():
            for name, file in listed.items():
                if unknown := sorted(set(file.models) - self.models.keys()):
                    found = ", ".join(map(repr, unknown))
                    raise ValueError(f"{kind} {name!r} is for {found}, not among models ({_names(self.models)})")
        return self

    @property
    def displacement(self) -> Displacement:
        """How displaced evaluations are computed."""
        return Displacement(
            resync=self.resync,
            norm_mode=self.norm_mode,
            most_work=self.most_work,
            settling_steps=self.settling_steps,
            exchange=self.exchange,
        )

    @property
    def model_by_default(self) -> str | None:
        """The model of a row that names none: the chosen one, or the only one."""
        return self.default_model or (next(iter(self.models)) if len(self.models) == 1 else None)


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
