"""What a model's file says of how it was trained, and the schedulers that can be a model's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pipeline.checkpoints.header import Header
from pipeline.errors import BadCheckpoint

Prediction = Literal["epsilon", "v_prediction", "sample"]

# Diffusers' schedulers that read the settings of an SDXL model (distri.model.sampling.schedulers tries each).
SCHEDULERS = frozenset(
    {
        *("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler"),
        *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
        *("DPMSolverSDEScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
        *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        *("LMSDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler", "TCDScheduler", "SASolverScheduler"),
    }
)

_PREDICTIONS = {
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "vpred", "v_pred"), "v_prediction"),
    **dict.fromkeys(("epsilon", "eps", "noise"), "epsilon"),
}
_TRUE = frozenset({"true", "1", "yes"})


def own_scheduler(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A model's own scheduler as its configuration has it. Raises BadCheckpoint: it is none that renders SDXL."""
    found = config.get("_class_name")
    if found is None:
        raise BadCheckpoint(f"{name}: its scheduler's configuration names no _class_name; EulerDiscreteScheduler, say")
    if found not in SCHEDULERS:
        raise BadCheckpoint(
            f"{name}: its own scheduler is {str(found)[:80]!r}, which is not known here; one of "
            f"{', '.join(sorted(SCHEDULERS))} wanted"
        )
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= 100_000:
        raise BadCheckpoint(f"{name}: its scheduler's num_train_timesteps is {str(steps)[:40]}; 1000 wanted, as a rule")
    return dict(config)


def trained_as(headers: Iterable[Header], prediction: Prediction | None) -> tuple[dict[str, Any], list[str]]:
    """Settings of the scheduler that single files show, and from what.

    Raises BadCheckpoint if they name a prediction that is not known here, and the model's setting names none.

    `v_pred` and `ztsnr` are the empty tensors that mark such models for web UIs; `modelspec.prediction_type` is from
    Stability's model metadata specification, `ss_zero_terminal_snr` from sd-scripts.
    """
    settings: dict[str, Any] = {}
    notes = []
    for header in headers:
        metadata = header.metadata
        named = metadata.get("modelspec.prediction_type", "").strip().lower()
        said = _PREDICTIONS.get(named)
        if named and said is None and prediction is None:
            raise BadCheckpoint(
                f"its metadata say that it predicts {named[:40]!r} (modelspec.prediction_type), which is not known; "
                "epsilon or v_prediction wanted, or the model's setting `prediction` if that is wrong"
            )
        if "v_pred" in header.tensors:
            settings["prediction_type"] = "v_prediction"
            notes.append("v-prediction, by its key v_pred")
        elif said == "v_prediction":
            settings["prediction_type"] = said
            notes.append("v-prediction, by its metadata modelspec.prediction_type")
        marked = "ztsnr" in header.tensors
        if marked or metadata.get("ss_zero_terminal_snr", "").lower() in _TRUE:
            settings |= zero_terminal_snr()
            notes.append("zero terminal SNR, by its " + ("key ztsnr" if marked else "metadata ss_zero_terminal_snr"))
    return settings, notes


def zero_terminal_snr() -> dict[str, Any]:
    """The scheduler's settings for a model that was trained down to pure noise (Lin et al. 2023)."""
    return {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
