"""The ways that are compared: what is painted whole, in windows, as a cascade, and what is enlarged between passes."""

from __future__ import annotations

from distri.model.passes.stages import Enlargement, Highres


def ways(native_px: int) -> dict[str, Highres]:
    """Each by its name; the first is what others are compared with."""
    return {
        "refine": Highres(refine=True),
        "windows": Highres(refine=True, window_px=native_px),
        "latents": Highres(refine=True, enlargement=Enlargement.LATENTS),
        "frequencies": Highres(refine=True, enlargement=Enlargement.FREQUENCIES),
        "unguided": Highres(refine=True, guidance_scale=1.0),
        "cascade": Highres(switch_at=0.6, guidance_scale=1.0),
        "direct": Highres(),
    }
