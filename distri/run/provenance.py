"""How a picture was made, as its result records it: by what, on what, with which scheduler and files."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distri.model.sampling.schedulers import SchedulerRecipe
from distri.ranks.mesh import Mesh
from pipeline.deployment.allow_lists import stem
from pipeline.deployment.settings import (
    ControlNetSource,
    EmbeddingSource,
    IPAdapterSource,
    LoraSource,
    ModelSource,
)
from pipeline.picture import Scheduler
from pipeline.promptset.names.samplers import READS, shown_name
from pipeline.records.attempt import AttemptSpec
from pipeline.records.provenance import Provenance
from pipeline.records.shards import ImageTask
from pipeline.version import installed_version

_PACKAGES = ("tessera-render", "torch", "diffusers", "transformers")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Provenances:
    """The provenance of the images of one job.

    Attributes:
        of_job: what is the same for all of them.
        recipe: of the model's own scheduler.
        loras, embeddings, controlnets, ip_adapters: the allow-lists of this pod.
        lean: images that are rendered in as little memory as can be, by index.
    """

    of_job: Provenance
    recipe: SchedulerRecipe
    loras: Mapping[str, LoraSource]
    embeddings: Mapping[str, EmbeddingSource]
    lean: tuple[int, ...]
    controlnets: Mapping[str, ControlNetSource] = field(default_factory=dict)
    ip_adapters: Mapping[str, IPAdapterSource] = field(default_factory=dict)

    def of(self, task: ImageTask, *, others: int = 0) -> Provenance:
        """That of one rendered image, which was evaluated with so many others at most."""
        used = scheduler_used(self.recipe, task.row.scheduler)
        sources = {one.name: self.loras[one.name] for one in task.row.loras}
        adapters = {one.adapter: self.ip_adapters[one.adapter] for one in task.row.reference}
        return self.of_job.model_copy(
            update={
                "lean": task.index in self.lean,
                "others": others,
                "loras": {name: source.sha256 for name, source in sources.items()},
                "lora_tensors": {name: tensors_sha256(Path(source.path)) for name, source in sources.items()},
                "embeddings": {name: self.embeddings[name].sha256 for name in task.row.embeddings},
                "controlnets": {one.model: self.controlnets[one.model].sha256 for one in task.row.control},
                "ip_adapters": {name: source.sha256 for name, source in adapters.items()},
                "image_encoders": {name: source.image_encoder_sha256 for name, source in adapters.items()},
                "sampler": shown_name(used),
                "scheduler": used,
            }
        )


def provenance_of_job(
    mesh: Mesh, spec: AttemptSpec, source: ModelSource, *, dtype: torch.dtype, vae_dtype: torch.dtype
) -> Provenance:
    """What is the same for all images of a job; `source` is its model."""
    return Provenance(
        model_revision=source.revision,
        model_sha256=source.sha256,
        refiner_revision=source.refiner.revision if source.refiner is not None else None,
        refiner=stem(source.refiner.path) if source.refiner is not None else None,
        vae=Path(source.vae).name if source.vae is not None else None,
        layout=mesh.layout,
        ranks=mesh.layout.ranks,
        exact=spec.exact,
        warmup_steps=spec.warmup_steps,
        displacement=spec.displacement,
        device=torch.cuda.get_device_name(mesh.device) if mesh.device.type == "cuda" else platform.machine(),
        dtype=str(dtype).removeprefix("torch."),
        vae_dtype=str(vae_dtype).removeprefix("torch."),
        attempt=spec.number,
        versions={name: installed_version(name) for name in _PACKAGES},
    )


def scheduler_used(recipe: SchedulerRecipe, wanted: Scheduler | None) -> Scheduler:
    """The scheduler that renders, with every setting that a row may give: a row's own over the model's."""
    made = recipe.make(wanted.name if wanted else None, wanted.settings if wanted else {}, seed=0)
    name = type(made).__name__
    found: dict[str, Any] = {setting: made.config.get(setting) for setting in READS.get(name, {})}
    return Scheduler(name=name, settings={key: value for key, value in found.items() if value is not None})


@functools.lru_cache(maxsize=1024)
def tensors_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file without its header, in hexadecimal: AutoV3 are its first 12 digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
