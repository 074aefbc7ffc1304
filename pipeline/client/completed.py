"""Images of a batch as they are committed, for a loop and for an asynchronous one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator

from pipeline.client.image import RenderedImage
from pipeline.operations.status import BatchStatus

# Looking into the bucket takes at most this part of the time: its listing grows with the batch.
_SHARE = 0.1


class Completed:
    """Each image once, as soon as it is committed, until the batch has ended. Whatever fails is in `Batch.errors`."""

    def __init__(
        self, updates: Iterator[BatchStatus], images: Callable[[Container[str]], Iterable[RenderedImage]]
    ) -> None:
        """Take the statuses of a batch, and its images in the bucket but for those whose ids are given."""
        self._updates, self._images = updates, images
        self._seen: set[str] = set()
        self._look_at = 0.0

    def __iter__(self) -> Iterator[RenderedImage]:
        while (images := self._next()) is not None:
            yield from images

    async def __aiter__(self) -> AsyncIterator[RenderedImage]:
        import asyncio

        # A step at a time, each a second at most, so that a task that is cancelled leaves no thread behind.
        while (images := await asyncio.to_thread(self._next)) is not None:
            for image in images:
                yield image

    def _next(self) -> list[RenderedImage] | None:
        """What is new after the next look at the batch; None if it has ended."""
        status = next(self._updates, None)
        if status is None:
            return None
        began = time.monotonic()
        if not status.finished and (status.succeeded <= len(self._seen) or began < self._look_at):
            return []
        found = list(self._images(self._seen))
        self._seen.update(image.result.image_id for image in found)
        self._look_at = began + (time.monotonic() - began) / _SHARE
        return found
