"""All settings of a deployment, of the parts that their readers need."""

from __future__ import annotations

from typing import Any

from pipeline.deployment.settings.api import ApiSettings
from pipeline.deployment.settings.connection import ConnectionSettings
from pipeline.deployment.settings.jobs import JobSettings
from pipeline.deployment.settings.machine import MachineSettings
from pipeline.deployment.settings.rendering import RenderingSettings
from pipeline.deployment.settings.variables import text_of, variable_name

_SECRETS = ("redis_url", "webhook_key")


# Fields stand in the order of the parts, last base first.
class StandaloneSettings(MachineSettings, ApiSettings, JobSettings, RenderingSettings):
    """What there is to know where no Redis and no S3 are used."""

    def environment(self) -> dict[str, str]:
        """These settings as variables for a child process; the Redis URL and other secrets are among them."""
        values = self.model_dump(mode="json", exclude=set(_SECRETS), exclude_none=True)
        variables = {variable_name(name): text_of(value) for name, value in values.items()}
        secrets = {variable_name(name): getattr(self, name, None) for name in _SECRETS}
        return variables | {name: one.get_secret_value() for name, one in secrets.items() if one is not None}


class Settings(StandaloneSettings, ConnectionSettings):
    """What a client, a worker and a pod need to know about the deployment they belong to."""


def default_of(name: str) -> Any:
    """What a setting is where nobody says otherwise."""
    return Settings.model_fields[name].get_default(call_default_factory=True)
