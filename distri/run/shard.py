"""Go through a job's images, all ranks of a replica together."""

from __future__ import annotations

import structlog
import torch

from distri.engine import Engine, EngineSettings
from distri.ranks.errors import LayoutError, ModelError, Unsplittable
from distri.ranks.mesh import Mesh
from distri.ranks.phase import Exchanged, NormMode
from distri.ranks.recorder import Replay
from distri.ranks.spans import Spans
from distri.run.kernels_pay import gpu_of, keep_start, kernels_pay
from distri.run.loaded import LoadedEngine
from distri.run.provenance import Provenances, provenance_of_job
from distri.run.replica import Replica, render_images
from distri.run.signals import LeaderSignal, Leads, LoadedShard, await_signal
from pipeline.bucket.trace import TracePhase
from pipeline.deployment.settings import ModelSource, RenderingSettings
from pipeline.errors import TesseraError
from pipeline.records.attempt import AttemptSpec
from pipeline.records.shards import ImageTask, images_of, parsed_shard

log = structlog.get_logger(__name__)


class PodMisconfigured(TesseraError):
    """The pod lacks something that no retry brings: a model, say."""


class LeaderRefused(TesseraError):
    """The leader could not begin; its own rank raises the reason."""


def render_shard(
    mesh: Mesh,
    leader: Leads | None,
    spec: AttemptSpec,
    settings: RenderingSettings,
    spans: Spans,
    *,
    loaded: LoadedEngine | None = None,
) -> None:
    """Claim the job, load its model, unless `loaded` has it, and render its images, each replica its share.

    What only one rank can know is broadcast before any rank acts on it. Raises on all ranks of the replica.
    """
    with spans.span(TracePhase.CLAIM):
        tasks = _share_tasks(mesh, leader, spec)
    model_id = tasks[0].row.model
    source = settings.models.get(model_id)
    if source is None:
        raise PodMisconfigured(f"model {model_id!r} is not in TESSERA_MODELS of this pod")
    loaded = LoadedEngine() if loaded is None else loaded
    try:
        with spans.span(TracePhase.LOAD):
            # The leader's word, since it says in which order halo rows cross.
            worth_it = loaded.is_fused or kernels_pay(tasks, mesh.layout, gpu_of(mesh.device))
            fused = settings.fused == "auto" and bool(mesh.broadcast_int(worth_it))
            wanted = engine_settings(spec, source, fused=fused, replay=Replay(settings.replay))
            key = (source.model_dump_json(), wanted, spec.dtype, spec.vae_dtype, spec.vae_dtype_on_gpu)
            engine = loaded.engine(model_id, key, lambda: _load_engine(mesh, spec, source, spans, wanted))
    except (ModelError, LayoutError, Unsplittable) as error:
        raise PodMisconfigured(f"model {model_id!r}: {error}") from error
    dtype, vae_dtype = _dtype(spec.dtype, mesh.device), vae_dtype_of(spec, mesh.device)
    of_job = provenance_of_job(mesh, spec, source, dtype=dtype, vae_dtype=vae_dtype)
    listed = settings.loras, settings.embeddings
    further = settings.controlnets, settings.ip_adapters
    provenances = Provenances(of_job, engine.scheduler, *listed, spec.lean, *further)
    log.info("model loaded", model=model_id, revision=source.revision, images=len(tasks), notes=engine.notes)
    replica = Replica(mesh, engine, leader, spec, *listed, provenances, *further)
    render_images(replica, tasks[mesh.data_index :: mesh.layout.data])
    if mesh.rank == 0:
        keep_start(engine, gpu_of(mesh.device))
    with spans.span(TracePhase.FINISH):
        if leader is not None:
            whole = mesh.layout.data == 1 and leader.stopped_because is None
            leader.finish(spec.job_index if whole else None)
        await_signal(mesh, lambda: leader.wait_until_finished() if leader is not None else LeaderSignal.WAIT)


def _load_engine(mesh: Mesh, spec: AttemptSpec, source: ModelSource, spans: Spans, settings: EngineSettings) -> Engine:
    dtype, vae_dtype = _dtype(spec.dtype, mesh.device), vae_dtype_of(spec, mesh.device)
    return Engine.load(
        source.files,
        mesh,
        dtype=dtype,
        settings=settings,
        vae_dtype=vae_dtype,
        spans=spans,
        refiner=source.refiner.files if source.refiner is not None else None,
    )


def engine_settings(spec: AttemptSpec, source: ModelSource, *, fused: bool, replay: Replay) -> EngineSettings:
    """The engine's settings of an attempt with a model."""
    return EngineSettings(
        exact=spec.exact,
        warmup=spec.warmup_steps,
        settling=spec.displacement.settling_steps,
        resync=spec.displacement.resync,
        norm_mode=NormMode(spec.displacement.norm_mode.value),
        most_work=spec.displacement.most_work,
        exchange=Exchanged(spec.displacement.exchange.value),
        native_px=source.native_px,
        idle_ranks=spec.idle_ranks,
        fused=fused,
        replay=replay,
    )


def _share_tasks(mesh: Mesh, leader: Leads | None, spec: AttemptSpec) -> list[ImageTask]:
    """The job's images: the leader broadcasts its shard's bytes as it has read them; blocks.

    If the leader cannot begin, all ranks raise, the leader with its own error.
    """
    shard: LoadedShard | None = None
    problem: TesseraError | None = None

    def begin() -> LeaderSignal:
        nonlocal shard, problem
        if leader is None:
            return LeaderSignal.WAIT
        try:
            shard = leader.begin()
        except TesseraError as error:
            problem = error
            return LeaderSignal.STOP
        return LeaderSignal.WAIT if shard is None else LeaderSignal.RENDER

    if await_signal(mesh, begin) is LeaderSignal.STOP:
        reason = mesh.broadcast_bytes(str(problem).encode())
        raise problem or LeaderRefused(reason.decode())
    body = mesh.broadcast_bytes(shard.body if shard is not None else b"")
    return shard.tasks if shard is not None else images_of(parsed_shard(body, spec.shard_key))


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def vae_dtype_of(spec: AttemptSpec, device: torch.device) -> torch.dtype:
    """What the VAE computes in on this device."""
    on_gpu = spec.vae_dtype_on_gpu if device.type == "cuda" else None
    dtype: torch.dtype = getattr(torch, on_gpu or spec.vae_dtype)
    return dtype
