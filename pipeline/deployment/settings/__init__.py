"""Every setting of a deployment, typed, each with one name: the environment variable TESSERA_<FIELD>.

Cut by who reads them: `ConnectionSettings`, `RenderingSettings`, `JobSettings`, `ApiSettings`, `MachineSettings`;
`Settings` is all of them, `StandaloneSettings` all but the connections. S3 credentials keep the names that every S3
program reads (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, workload identity), and are never copied into our
settings.
"""

from pipeline.deployment.settings.api import ApiSettings
from pipeline.deployment.settings.composed import Settings, StandaloneSettings, default_of
from pipeline.deployment.settings.connection import ConnectionSettings, without_credentials
from pipeline.deployment.settings.environment import load_part, load_settings
from pipeline.deployment.settings.jobs import JobSettings
from pipeline.deployment.settings.machine import MachineSettings
from pipeline.deployment.settings.rendering import (
    AddedFile,
    ControlNetSource,
    EmbeddingSource,
    IPAdapterSource,
    LoraSource,
    ModelSource,
    RenderingSettings,
)
from pipeline.deployment.settings.variables import PREFIX, SettingsPart, variable_name

__all__ = [
    "PREFIX",
    "AddedFile",
    "ApiSettings",
    "ConnectionSettings",
    "ControlNetSource",
    "EmbeddingSource",
    "IPAdapterSource",
    "JobSettings",
    "LoraSource",
    "MachineSettings",
    "ModelSource",
    "RenderingSettings",
    "Settings",
    "SettingsPart",
    "StandaloneSettings",
    "default_of",
    "load_part",
    "load_settings",
    "variable_name",
    "without_credentials",
]
