"""Decodes final latents beside the evaluations of others: on a thread, and on a GPU on a stream of its own."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from distri.ranks.device_errors import device_failure
from distri.ranks.errors import OutOfMemory
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RenderSpan, Spans
from distri.sampling.pixels import DecodedImage, ReplicaVAE

TRACK = "decode"


class Decoder:
    """One thread, which decodes one latent after the other, in the order in which they come.

    Only where one rank has the whole image: ranks that share it send each other messages as they decode, and all of
    them would have to put these among the messages of evaluations in one order.

    Args:
        vae: nobody else may use it before `wait` has returned.
        mesh: whose rank it is.
        spans: where it is noted what is decoded when.
    """

    def __init__(self, vae: ReplicaVAE, mesh: Mesh, spans: Spans) -> None:
        self._vae, self._spans, self._alone = vae, spans, mesh.replica.size == 1
        self._device = mesh.device
        # Else its first work would make a context, of half a gigabyte, on the first GPU of the pod.
        begin = (torch.cuda.set_device, (self._device,)) if self._device.index is not None else (None, ())
        self._thread = ThreadPoolExecutor(1, TRACK, *begin)
        self._last: Future[DecodedImage | None] | None = None
        self._stream: Any = None

    @property
    def usable(self) -> bool:
        """Whether this rank decodes by itself."""
        return self._alone

    def decode(
        self, latent_1CHW: Tensor, crop: tuple[int, int], size: tuple[int, int], about: Mapping[str, str]
    ) -> "Future[DecodedImage | None]":
        """Begin to decode a latent, and return at once.

        Args:
            latent_1CHW, crop, size: see `ReplicaVAE.decode`.
            about: what the span says besides.

        Returns:
            The picture; None if there was too little memory for it beside the evaluations. What is not finite has not
            been decoded again.
        """
        ready: Any = None
        if self._device.type == "cuda":
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            ready = torch.cuda.current_stream(self._device).record_event()
        self._last = self._thread.submit(self._decode, latent_1CHW, crop, size, ready, about)
        return self._last

    def wait(self) -> None:
        """Return when all that was begun is decoded."""
        if self._last is not None:
            wait((self._last,))
            self._last = None

    @torch.inference_mode()
    def _decode(
        self, latent_1CHW: Tensor, crop: tuple[int, int], size: tuple[int, int], ready: Any, about: Mapping[str, str]
    ) -> DecodedImage | None:
        # Its memory is used by nobody else before the caller, who holds it, has seen the picture.
        on_stream = nullcontext() if ready is None else torch.cuda.stream(self._stream)
        with self._spans.span(RenderSpan.DECODE, track=TRACK, **about), on_stream:
            if ready is not None:
                self._stream.wait_event(ready)
            try:
                return self._vae.decode(latent_1CHW, crop, size, repairs=False)
            except (MemoryError, RuntimeError) as error:
                if not isinstance(device_failure(error), OutOfMemory):
                    raise
                return None
