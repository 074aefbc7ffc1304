"""How a deployment's workers run jobs, and what its operators see."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from pipeline.deployment.settings.variables import SettingsPart
from pipeline.deployment.signing import checked_keys


def _checked_network(text: str) -> str:
    ipaddress.ip_network(text)  # its ValueError says what is wrong
    return text


NetworkText = Annotated[str, AfterValidator(_checked_network)]


class JobSettings(SettingsPart):
    """How jobs run, and what operators see."""

    # How jobs run
    launcher: Literal["local", "kubernetes"] = Field("kubernetes", description="Who runs an attempt.")
    images_per_job: int = Field(1000, ge=1, description="Most images of one job.")
    job_seconds: float = Field(
        900, gt=0, le=30 * 24 * 3600, description="Rendering that one job is cut to, by the estimate."
    )
    max_attempts: int = Field(3, ge=1, description="Attempts of a job that may fail in a row without a new image.")
    max_disruptions: int = Field(
        100, ge=1, description="Attempts of a job that the cluster may take away in a row without a new image."
    )
    deadline_s: float = Field(6 * 3600, gt=0, le=366 * 24 * 3600, description="Longest running time of one attempt.")
    lease_s: float = Field(20.0, ge=2, le=3600, description="A worker that is silent this long has lost its jobs.")
    observe_s: float = Field(1.0, gt=0, le=300, description="Pause between two looks at what runs.")
    tick_s: float = Field(2.0, gt=0, le=600, description="Pause between two of the controller's ticks.")
    retention_days: float | None = Field(
        None,
        gt=0,
        le=36_525,
        description="Batches that ended so long ago are removed with their images; none keeps them.",
    )
    worker_slots: int = Field(4, ge=1, description="Pods that one render worker looks after at a time.")

    # What operators see
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port on which workers serve Prometheus metrics; none serves none."
    )
    prompt_buckets: tuple[str, ...] = Field(
        (), description="Buckets of schedules' prompts, beside the deployment's own (JSON list)."
    )
    schedules: dict[str, Any] = Field(
        default_factory=dict, description="Schedules of the deployment (JSON): name to its fields (docs/schedules.md)."
    )

    # Webhooks
    webhook_key: SecretStr | None = Field(
        None,
        description="Key that the signing secrets of webhooks follow from, or a new one, a blank and the old one; none "
        "sends no webhooks.",
    )
    webhook_networks: tuple[NetworkText, ...] = Field(
        (), description="Networks that webhooks may reach although they are not public, such as 10.0.0.0/8 (JSON list)."
    )

    @field_validator("webhook_key")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            checked_keys(value.get_secret_value())
        return value
