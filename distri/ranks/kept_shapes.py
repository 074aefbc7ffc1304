"""What is kept from image to image, by shape: the buffers of the exchange, recordings, and what those read."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distri.ranks.exchange import Exchange
from distri.ranks.recorder import Recorder
from distri.ranks.replay import Replays
from distri.ranks.residuals import Residuals

# Of a GPU's memory; SDXL at 3840 pixels on eight patch ranks takes 10 GB of buffers, at 1024 pixels 0.7.
SHARE_OF_DEVICE = 0.25
BYTES_WITHOUT_DEVICE = 1 << 30

Text = dict[str, tuple[Tensor, ...]]  # keys and values by layer, of a text and of references; their masks


@dataclass
class KeptShape:
    """One shape.

    Attributes:
        exchange: its buffers.
        replays: its recordings.
        residuals: what it has of other ranks' keys and values, where these cross as residuals.
        texts: keys and values of texts and references, by the kind of conditions; recordings read them at their place.
    """

    exchange: Exchange
    replays: Replays
    residuals: Residuals = field(default_factory=Residuals)
    texts: dict[Hashable, Text] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """What it counts for, without its recordings; equal on all ranks."""
        return (
            self.exchange.weight_bytes
            + self.residuals.held_bytes
            + sum(tensor.nbytes for text in self.texts.values() for both in text.values() for tensor in both)
        )


class KeptShapes:
    """The recently used shapes of one network, or of several.

    When they weigh too much, those that were not used for longest are dropped.

    Args:
        most_bytes: that all together may weigh; the one in use is kept whatever it weighs.
        recorder: of their recordings, which share memory and weigh what it has taken.
    """

    def __init__(self, most_bytes: int, recorder: Recorder | None = None) -> None:
        self.recorder = recorder
        self._most_bytes = most_bytes
        self._by_shape: OrderedDict[Hashable, KeptShape] = OrderedDict()

    def get(self, shape: Hashable, make: Callable[[], KeptShape]) -> KeptShape:
        """What is kept of a shape, made when nothing is. All ranks must ask in the same order."""
        if shape not in self._by_shape:
            self._by_shape[shape] = make()
        self._by_shape.move_to_end(shape)
        self.drop_surplus()
        return self._by_shape[shape]

    def drop_surplus(self) -> None:
        """Drop shapes until the others weigh as much as they may. Messages may be in flight for the last one alone."""
        while len(self._by_shape) > 1 and self.weight_bytes > self._most_bytes:
            _, dropped = self._by_shape.popitem(last=False)
            dropped.replays.release()

    def drop_recordings(self, *, but: Hashable = None) -> bool:
        """Drop the recordings of all shapes, or of all but one; whether there were any. Buffers are kept."""
        dropped = [kept.replays for shape, kept in self._by_shape.items() if shape != but and kept.replays.count]
        for replays in dropped:
            replays.release()
        return bool(dropped)

    def clear(self) -> None:
        """Drop all of them; no message may be in flight."""
        for kept in self._by_shape.values():
            kept.replays.release()
        self._by_shape.clear()

    @property
    def weight_bytes(self) -> int:
        """What all of them count for on this rank."""
        held_bytes = 0 if self.recorder is None else self.recorder.held_bytes
        return held_bytes + sum(kept.weight_bytes for kept in self._by_shape.values())

    @property
    def spare_bytes(self) -> int:
        """How much more they may weigh; less than nothing where the one in use alone weighs more than all may."""
        return self._most_bytes - self.weight_bytes

    @property
    def buffer_bytes(self) -> int:
        """Held on this rank by the exchanges."""
        return sum(kept.exchange.buffer_bytes + kept.residuals.held_bytes for kept in self._by_shape.values())

    @property
    def recordings(self) -> int:
        """How many kinds of evaluations are replayed on this rank."""
        return sum(kept.replays.count for kept in self._by_shape.values())


def kept_bytes_of(device: torch.device) -> int:
    """How much the kept shapes may weigh on a device."""
    if device.type == "cuda":
        return int(SHARE_OF_DEVICE * torch.cuda.get_device_properties(device).total_memory)
    return BYTES_WITHOUT_DEVICE
