"""What all parts measure on: the device, networks of its size, and how a time is taken."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.engine import networks
from distri.layers.conditions import Conditions
from distri.ranks.kept_shapes import KeptShapes, kept_bytes_of
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.patches import Patches
from distri.ranks.phase import EXACT, Evaluation, Phase
from distri.ranks.progress import Progress
from distri.ranks.recorder import Recorder, Replay
from distri.ranks.replay import recorder_of

Row = dict[str, Any]
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
SETTLING = Evaluation(Phase.DISPLACED, publish=True, rest=EXACT)  # keys and values alone
PUBLISHING = Evaluation(Phase.SYNCHRONOUS, publish=True)
WARM_UP = 3  # the first evaluates, the second records, and from the third on it is replayed


@dataclass(frozen=True)
class Bench:
    """What a part is asked for; it travels to the part's process.

    Attributes:
        small: small networks on the CPU, to see that a part works.
        repeats: of what is timed, after some rounds that are not.
        link_gb_s: what a GPU receives from others, in GB a second.
    """

    small: bool
    repeats: int
    link_gb_s: float

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.small else "cuda")

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet."""
        return torch.float32 if self.small else torch.float16

    @property
    def pixels(self) -> tuple[int, ...]:
        """Sides of the pictures."""
        return (256,) if self.small else (1024, 2048, 3840)

    @property
    def replay(self) -> Replay:
        """How evaluations are replayed on the device."""
        return Replay.OPERATORS if self.small else Replay.AUTO

    def recorder(self) -> Recorder | None:
        return recorder_of(self.replay, self.device)

    def shapes(self, *, replayed: bool) -> KeptShapes:
        return KeptShapes(kept_bytes_of(self.device), self.recorder() if replayed else None)

    def unet(self) -> Any:
        if self.small:
            return networks.speed_unet()
        return networks.initialised(networks.sdxl_unet(), self.device).to(self.dtype)

    def vae(self, dtype: torch.dtype) -> Any:
        vae = networks.small_vae() if self.small else networks.initialised(networks.sdxl_vae(), self.device)
        return vae.to(dtype)

    def conditions(self, unet: Any, batch: int, pixels: int, seed: int = 5) -> Conditions:
        """Random ones, of the UNet's widths."""
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        generator = torch.Generator().manual_seed(seed)
        text, pooled_text = (
            torch.randn(shape, generator=generator).to(self.device, unet.dtype)
            for shape in ((batch, 77, unet.config.cross_attention_dim), (batch, pooled))
        )
        return Conditions(text, pooled_text, torch.full((batch, 6), float(pixels), device=self.device))

    def latent(self, batch: int, pixels: int, dtype: torch.dtype) -> torch.Tensor:
        shape = (batch, 4, pixels // 8, pixels // 8)
        return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(self.device, dtype)

    def timed(self, work: Callable[[], object], *, repeats: int | None = None) -> Row:
        """Medians of some rounds, and the most memory held meanwhile.

        `ms` is until the device is through; `launch_ms` until the call has returned, which on a GPU is the CPU's time.
        """
        if not self.small:
            torch.cuda.reset_peak_memory_stats()
        times, launches = [], []
        for turn in range(WARM_UP + (repeats or self.repeats)):
            self.wait()
            began = time.perf_counter()
            work()
            returned = time.perf_counter()
            self.wait()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - began)
                launches.append(returned - began)
        memory_bytes = 0 if self.small else torch.cuda.max_memory_allocated()
        return {
            "ms": round(1000 * statistics.median(times), 2),
            "launch_ms": round(1000 * statistics.median(launches), 2),
            "memory_gb": round(memory_bytes / 1e9, 2),
        }

    def synchronises(self, work: Callable[[], object]) -> str | None:
        """Where it waits for the device, as torch says; None if nowhere, or if there is none."""
        if self.small:
            return None
        self.wait()
        torch.cuda.set_sync_debug_mode("error")
        try:
            work()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return None

    def wait(self) -> None:
        """Until the device has done all that it was asked for."""
        if not self.small:
            torch.cuda.synchronize()

    def guarded(self, row: Row, work: Callable[[], Row]) -> Iterator[Row]:
        """The row with what was measured, or with the reason why it could not be: the other rows go on."""
        try:
            yield row | work()
        except Exception as error:  # noqa: BLE001 - whatever a new GPU or torch says belongs into the results
            yield row | {
                "failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            }
            if not self.small:
                torch.cuda.empty_cache()

    def busiest(self, patches: Patches) -> tuple[Axis, int]:
        """The axis as the rank with most rows sees it, without any peers but with its marks, and its place."""
        index, ranks = max(range(patches.count), key=patches.rows), tuple(range(patches.count))
        return Axis(AxisName.PATCH, ranks, index, None, TrafficCounter(), Progress.of(self.device)), index
