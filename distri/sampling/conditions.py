"""What the network is given of one image at which step of a pass: conditions of the negative prompt and the prompts."""

from dataclasses import dataclass

from distri.layers.conditions import Conditions
from distri.model.text.timeline import Timeline


@dataclass(frozen=True)
class PassConditions:
    """What one image is conditioned on in one pass; equal on all ranks.

    Attributes:
        negative: needed where guidance is on.
        positives: one for each prompt whose guidance is added up, mostly one.
        weights: of their guidance, by prompt.
    """

    negative: Timeline[Conditions] | None
    positives: tuple[Timeline[Conditions], ...]
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def always(cls, positive: Conditions, negative: Conditions | None) -> "PassConditions":
        """Those that do not change."""
        return cls(None if negative is None else Timeline.always(negative), (Timeline.always(positive),))

    @property
    def composed(self) -> bool:
        """Whether the prompts' prediction is put together from several, or from one that has a weight."""
        return self.weights != (1.0,)

    def at(self, step: int, *, guided: bool) -> list[Conditions]:
        """Those of the negative prompt, where the step is guided, and of the prompts."""
        return [timeline.at(step) for timeline in self._timelines(guided)]

    def spread_over(self, share: float) -> "PassConditions":
        """The same in a pass of this share of the steps."""
        negative = None if self.negative is None else self.negative.spread_over(share)
        return PassConditions(negative, tuple(one.spread_over(share) for one in self.positives), self.weights)

    @property
    def changes(self) -> frozenset[int]:
        """The steps at which any of them changes, but the first."""
        timelines = self._timelines(self.negative is not None)
        return frozenset(step for timeline in timelines for step in timeline.changes if step > 0)

    def _timelines(self, guided: bool) -> tuple[Timeline[Conditions], ...]:
        if not guided:
            return self.positives
        if self.negative is None:
            raise AssertionError("guidance needs the negative half")
        return self.negative, *self.positives
