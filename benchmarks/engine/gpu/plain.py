"""Plain diffusers on one GPU, to compare with: eager, as one CUDA graph, and compiled whole, then as one graph."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine.gpu.bench import Bench, Row

# Compiling the whole UNet takes minutes; the one size at which launches cost most shows what it brings.
COMPILED_PX = 1024


@torch.inference_mode()
def measure(bench: Bench) -> Iterator[Row]:
    """A guided evaluation, both halves as one batch."""
    unet = bench.unet()
    for pixels in bench.pixels:
        evaluate = _evaluation(bench, unet, pixels)
        yield from bench.guarded({"pixels": pixels, "how": "eager"}, partial(bench.timed, evaluate))
        if not bench.small:
            yield from bench.guarded({"pixels": pixels, "how": "graph"}, partial(_graphed, bench, evaluate))
    pixels = bench.pixels[0] if bench.small else COMPILED_PX
    yield from bench.guarded({"pixels": pixels, "how": "compiled, graph"}, partial(_compiled, bench, unet, pixels))


def _evaluation(bench: Bench, unet: Any, pixels: int) -> Callable[[], Tensor]:
    latent, now = bench.latent(2, pixels, unet.dtype), torch.tensor(501.0, device=bench.device)
    conditions = bench.conditions(unet, 2, pixels)
    added = {"text_embeds": conditions.pooled, "time_ids": conditions.time_ids}

    def evaluate() -> Tensor:
        (noise,) = unet(latent, now, encoder_hidden_states=conditions.text, added_cond_kwargs=added, return_dict=False)
        return torch.as_tensor(noise)

    return evaluate


def _graph_of(evaluate: Callable[[], Tensor]) -> Callable[[], None]:
    """The evaluation captured whole; its inputs keep their places."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            evaluate()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        evaluate()
    return graph.replay


def _graphed(bench: Bench, evaluate: Callable[[], Tensor]) -> Row:
    return bench.timed(_graph_of(evaluate))


def _compiled(bench: Bench, unet: Any, pixels: int) -> Row:
    """The whole UNet through inductor, channels last; on a GPU then captured."""
    unet.to(memory_format=torch.channels_last)
    # A CPU's compiler takes minutes for the small network too; tracing it shows whether it can be compiled.
    whole = torch.compile(unet, dynamic=False, backend="aot_eager" if bench.small else "inductor")
    evaluate = _evaluation(bench, whole, pixels)
    first = bench.timed(evaluate, repeats=1)
    seconds = bench.timed(evaluate if bench.small else _graph_of(evaluate))
    return seconds | {"first_evaluations_ms": first["ms"]}
