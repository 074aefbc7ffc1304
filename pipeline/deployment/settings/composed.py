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
class Settings(MachineSettings, ApiSettings, JobSettings, RenderingSettings, ConnectionSettings):
    """What a client, a worker and a pod need to know about the deployment they belong to."""

    def environment(self) -> dict[str, str]:
        """These settings as variables for a child process; the Redis URL and other secrets are among them."""
        values = self.model_dump(mode="json", exclude=set(_SECRETS), exclude_none=True)
        variables = {variable_name(name): text_of(value) for name, value in values.items()}
        secrets = {variable_name(name): secret for name in _SECRETS if (secret := getattr(self, name)) is not None}
        return variables | {name: secret.get_secret_value() for name, secret in secrets.items()}


def default_of(name: str) -> Any:
    """What a setting is where nobody says otherwise."""
    return Settings.model_fields[name].get_default(call_default_factory=True)
