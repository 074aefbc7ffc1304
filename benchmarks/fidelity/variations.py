"""The default, and what differs from it by one factor; and the one-rank renders that each is compared with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from benchmarks.fidelity.inputs import STRENGTH, Input, given
from distri.engine import EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.stages import Highres
from distri.ranks.patches import MOST_WORK
from distri.ranks.phase import Exchanged, NormMode
from pipeline.promptset.names.samplers import scheduler_of
from training.scenes import caption, drawn_held_out

PROMPTS, FEWER, FEWEST = 50, 16, 8
SIDE_PX = 256
GUIDANCE = 5.0
SCHEDULERS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler")


@dataclass(frozen=True)
class Variation:
    """A way to render the prompts.

    Attributes:
        factor, value: what differs from the default, for tables; the default has factor "default".
        ranks: patch ranks; both halves of guidance are a batch, so all of them share one picture.
        hand_on: whether ranks with more rows hand tokens on, which at this size concerns 3 and 5 ranks.
        images: how many of the prompts.
        side_px: of the pictures; larger ones than the model's are refined, and every pass is displaced.
        begun: which picture each image has beside its prompt.
    """

    factor: str
    value: str
    ranks: int = 8
    exact: bool = False
    warmup: int = EngineSettings.warmup
    settling: int = EngineSettings.settling
    steps: int = 50
    scheduler: str = SCHEDULERS[0]
    norm_mode: NormMode = NormMode.CORRECTED
    resync: float | None = None
    exchange: Exchanged = Exchanged.DISPLACED
    hand_on: bool = True
    images: int = FEWER
    side_px: int = SIDE_PX
    begun: Input = Input.NONE

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.factor}-{self.value}".replace(" ", "-").replace("/", "-").lower()

    @property
    def settings(self) -> EngineSettings:
        """The engine's."""
        return EngineSettings(
            exact=self.exact,
            warmup=self.warmup,
            settling=self.settling,
            norm_mode=self.norm_mode,
            most_work=MOST_WORK if self.hand_on else math.inf,
            resync=self.resync,
            exchange=self.exchange,
            native_px=SIDE_PX,
        )

    @property
    def reference(self) -> Variation:
        """One rank, with the same steps and scheduler."""
        return Variation(
            "one rank",
            f"{self.steps} {self.scheduler} {self.images} {self.side_px} {self.begun}",
            ranks=1,
            exact=True,
            steps=self.steps,
            scheduler=self.scheduler,
            images=self.images,
            side_px=self.side_px,
            begun=self.begun,
        )

    def described(self) -> dict[str, Any]:
        """As JSON; `of` is the way back."""
        return {
            **asdict(self),
            "norm_mode": self.norm_mode.value,
            "exchange": self.exchange.value,
            "begun": self.begun.value,
        }

    @classmethod
    def of(cls, described: dict[str, Any]) -> Variation:
        """The variation that was described."""
        kinds = {"norm_mode": NormMode, "exchange": Exchanged, "begun": Input}
        modes = {name: kind(described[name]) for name, kind in kinds.items()}
        return cls(**{**described, **modes})

    def shortened(self, images: int, steps: int) -> Variation:
        """Fewer images and steps, to try it out."""
        return replace(
            self, images=min(self.images, images), steps=min(self.steps, steps), warmup=min(self.warmup, steps)
        )

    @property
    def at_once(self) -> bool:
        """Whether halos and moments are displaced as soon as keys and values, as DistriFusion has it."""
        return not self.settling and self.exchange is Exchanged.DISPLACED


DEFAULT = Variation("default", "8 ranks", images=PROMPTS)
AT_ONCE = Variation("at once", "8 ranks", warmup=4, settling=0, images=PROMPTS)
_FEWER_AT_ONCE = replace(AT_ONCE, images=FEWER)
_FACTORS_AT_ONCE: dict[str, list[dict[str, Any]]] = {
    "ranks": [{"value": str(ranks), "ranks": ranks} for ranks in (2, 3, 4, 5)],
    "own tokens": [{"value": f"{ranks} ranks", "ranks": ranks, "hand_on": False} for ranks in (3, 5)],
    "warmup": [{"value": str(warmup), "warmup": warmup} for warmup in (1, 2, 8)],
    "steps": [{"value": str(steps), "steps": steps} for steps in (10, 25)],
    "scheduler": [{"value": name, "scheduler": name} for name in SCHEDULERS[1:]],
    "GroupNorm": [{"value": mode.value, "norm_mode": mode} for mode in NormMode if mode is not NormMode.CORRECTED],
    # Two ranks' patches have at 256 px the 16 latent rows that eight ranks' have at 1024 px.
    "GroupNorm at 2 ranks": [{"value": NormMode.STALE.value, "ranks": 2, "norm_mode": NormMode.STALE}],
    "resync": [{"value": str(drift), "resync": drift} for drift in (0.1, 0.3)],
    "img2img": [{"value": f"strength {STRENGTH}", "begun": Input.START}],
    "inpainting": [{"value": "one half", "begun": Input.FILLED}],
    "reference": [{"value": "models/scene", "begun": Input.REFERENCE}],
}
VARIATIONS = (
    DEFAULT,
    *(Variation("ranks", str(ranks), ranks=ranks) for ranks in (2, 3, 4, 5)),
    *(Variation("steps", str(steps), steps=steps, images=PROMPTS) for steps in (10, 25)),
    *(Variation("scheduler", name, scheduler=name) for name in SCHEDULERS[1:]),
    Variation("settling", "all", warmup=4, settling=1000, images=PROMPTS),
    Variation("residual", "8 ranks", exchange=Exchanged.RESIDUAL),
    *(Variation("residual, fewer steps", str(steps), steps=steps, exchange=Exchanged.RESIDUAL) for steps in (10, 25)),
    *(
        Variation("refined, 25 steps", kind.value, steps=25, side_px=2 * SIDE_PX, images=FEWEST, exchange=kind)
        for kind in Exchanged
    ),
    Variation("img2img", f"strength {STRENGTH}", begun=Input.START),
    Variation("inpainting", "one half", begun=Input.FILLED),
    Variation("control", "models/canny", begun=Input.CONTROL),
    Variation("reference", "models/scene", begun=Input.REFERENCE),
    Variation("exact", "8 ranks", exact=True),
    AT_ONCE,
    *(
        replace(_FEWER_AT_ONCE, factor=f"at once, {factor}", **other)
        for factor, others in _FACTORS_AT_ONCE.items()
        for other in others
    ),
)


def prompts(count: int) -> list[str]:
    """Captions of scenes in combinations that the model was never trained on."""
    return [caption(drawn_held_out(seed), Random(seed)) for seed in range(count)]


def images(variation: Variation) -> list[ImageSpec]:
    """What a variation renders; the seed follows from the prompt's number alone."""
    scheduler = scheduler_of(variation.scheduler)
    side = variation.side_px
    own: dict[str, Any] = {
        "scheduler": scheduler.name,
        "scheduler_settings": scheduler.settings,
        "highres": Highres(refine=side > SIDE_PX),
    }
    wanted = [
        ImageSpec(text, None, 1000 + number, side, side, variation.steps, GUIDANCE, **own)
        for number, text in enumerate(prompts(variation.images))
    ]
    return [given(image, number, variation.begun) for number, image in enumerate(wanted)]
