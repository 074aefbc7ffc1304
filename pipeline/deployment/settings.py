"""Every setting of a deployment, typed, each with one name: the environment variable TESSERA_<FIELD>.

S3 credentials keep the names that every S3 program reads (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE,
workload identity), and are never copied into our settings.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from pipeline.deployment.layouts import Layout
from pipeline.deployment.tenants import Tenants
from pipeline.errors import SettingsError
from pipeline.names import POD_VARIABLES

PREFIX = "TESSERA_"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class ModelSource(BaseModel):
    """A model of the allow-list: where its weights lie in the pod, and which revision they must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="Folder of a diffusers SDXL pipeline, safetensors, as the pod sees it.")
    revision: str = Field(description="Pinned revision; part of every image's provenance.", min_length=1)
    native_px: int = Field(1024, ge=64, description="Side of the square that the model was trained on.")


class LoraSource(BaseModel):
    """A LoRA of the allow-list: its file in the pod, which file it must be, and the models it was made for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="Safetensors file, as the pod sees it: beside the models, on the same volume.")
    sha256: str = Field(description="Of the file, checked before use.", pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] = Field((), description="Model ids that it fits; none means all.")


class Settings(BaseModel):
    """What a client, a worker and a pod need to know about the deployment they belong to."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Where things are
    redis_url: SecretStr = Field(description="redis:// or rediss:// URL of one Redis or Valkey (not a Cluster).")
    redis_ca: Path | None = Field(None, description="CA certificates (PEM) for rediss://; none means the system's.")
    redis_cert: Path | None = Field(None, description="Our certificate (PEM), where Redis wants one of its clients.")
    redis_key: Path | None = Field(None, description="Key of our certificate (PEM).")
    redis_durability: Literal["warn", "refuse"] = Field(
        "warn", description="What workers do at start about a Redis without AOF, or that may evict records."
    )
    redis_prefix: str = Field("tessera", description="Namespace of all keys and queues, so releases can share a Redis.")
    s3_endpoint: str | None = Field(None, description="URL of the S3 endpoint; none means AWS.")
    s3_region: str = Field("us-east-1", description="Region that requests are signed for.")
    s3_bucket: str = Field(description="Bucket of all artifacts; it must exist.")
    s3_prefix: str = Field("", description="Folder inside the bucket, without slashes at its ends.")
    connect_timeout_s: float = Field(5.0, gt=0, description="How long a first connection may take before it fails.")

    # What may be rendered
    models: dict[str, ModelSource] = Field(
        default_factory=dict, description="Allow-list: model id to its source (JSON)."
    )
    default_model: str | None = Field(None, description="Model of rows that name none; the only one if there is one.")
    loras: dict[str, LoraSource] = Field(default_factory=dict, description="Allow-list: LoRA id to its source (JSON).")
    max_megapixels: float = Field(64.0, gt=0, description="Largest image that a row may ask for.")
    max_rows: int = Field(1_000_000, gt=0, description="Most rows of one batch.")
    max_images: int = Field(1_000_000, gt=0, description="Most images of one batch.")

    tenants: Tenants = Field(
        default_factory=dict, description="Limits by tenant (JSON), `*` for all others; none means no limits."
    )

    # How a pod renders
    gpus: int = Field(8, ge=1, description="Ranks of one pod: its GPUs, or processes on a CPU.")
    layout: Layout | None = Field(None, description="data x cfg x patch, as in 1x2x4; none lets the planner choose.")
    goal: Literal["latency", "throughput"] = Field(
        "latency", description="Without a layout: all GPUs on one image, or whatever is through with a job first."
    )
    one_gpu_megapixels: float = Field(4.2, gt=0, description="Largest image that fits one GPU, for `throughput`.")
    exact: bool = Field(False, description="Exchange synchronously at every step: the one-rank image, but slower.")
    warmup_steps: int = Field(4, ge=1, description="Synchronous evaluations before displaced ones begin.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="What a pod's ranks compute on.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="UNet's number format.")
    vae_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="VAE's number format; what is not finite in it is decoded again in float32."
    )
    idle_ranks: bool = Field(
        False, description="Render images with too few rows for the layout on fewer ranks, instead of refusing them."
    )
    collective_timeout_s: float = Field(300.0, ge=10, description="A rank that is silent so long ends its attempt.")
    image: str = Field("local", description="Container image of a pod, by digest; `local` for processes.")

    pod: dict[str, Any] = Field(
        default_factory=dict, description="How a pod looks in its cluster (JSON, see k8s/pod.py); not for `local`."
    )

    # How jobs run
    launcher: Literal["local", "kubernetes"] = Field("kubernetes", description="Who runs an attempt.")
    images_per_job: int = Field(1000, ge=1, description="Most images of one job.")
    job_seconds: float = Field(900, gt=0, description="Rendering that one job is cut to, by the estimate.")
    max_attempts: int = Field(3, ge=1, description="Attempts of a job that may fail in a row without a new image.")
    max_disruptions: int = Field(
        100, ge=1, description="Attempts of a job that the cluster may take away in a row without a new image."
    )
    deadline_s: float = Field(6 * 3600, gt=0, description="Longest running time of one attempt.")
    lease_s: float = Field(20.0, ge=2, description="A worker that is silent this long has lost its jobs.")
    observe_s: float = Field(1.0, gt=0, description="Pause between two looks at what runs.")
    tick_s: float = Field(2.0, gt=0, description="Pause between two of the controller's ticks.")
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
    schedules: dict[str, Any] = Field(
        default_factory=dict, description="Schedules of the deployment (JSON): name to its fields (docs/schedules.md)."
    )

    # This machine
    data_dir: Path = Field(Path("~/.tessera"), description="Folder of the embedded stack: all its data, logs, state.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable in a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line shown.")

    @field_validator("data_dir", "redis_ca", "redis_cert", "redis_key")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("redis_url")
    @classmethod
    def _one_redis(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        scheme = url.scheme
        if scheme not in ("redis", "rediss"):
            raise ValueError(
                f"scheme {scheme!r} found, redis:// or rediss:// wanted (Redis Cluster cannot be a broker)"
            )
        if url.query or url.fragment:  # ssl_cert_reqs=none, say, which would end all checks without a word
            raise ValueError("options found behind '?' or '#', none wanted; TLS has settings of its own")
        return value

    @field_validator("redis_prefix")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or len(value) > 40:
            raise ValueError(f"{value!r} found; wanted 1 to 40 of a-z, 0-9 and inner dashes")
        return value

    @field_validator("s3_prefix")
    @classmethod
    def _inner_path(cls, value: str) -> str:
        if value and not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) and part.strip(".") for part in value.split("/")):
            raise ValueError(f"{value!r} found; wanted path parts of letters, digits, '.', '_' and '-' joined by '/'")
        return value

    @model_validator(mode="after")
    def _known_default_model(self) -> Self:
        if self.default_model is not None and self.default_model not in self.models:
            raise ValueError(f"default_model {self.default_model!r} is not among models ({_listed(self.models)})")
        return self

    @model_validator(mode="after")
    def _loras_of_known_models(self) -> Self:
        for name, lora in self.loras.items():
            if unknown := sorted(set(lora.models) - self.models.keys()):
                found = ", ".join(map(repr, unknown))
                raise ValueError(f"lora {name!r} is for {found}, not among models ({_listed(self.models)})")
        return self

    @model_validator(mode="after")
    def _tls_where_it_is_used(self) -> Self:
        given = [name for name in ("redis_ca", "redis_cert", "redis_key") if getattr(self, name) is not None]
        if given and not self.redis_tls:
            raise ValueError(f"{' and '.join(given)} found, and redis_url is not rediss://")
        if (self.redis_cert is None) is not (self.redis_key is None):
            raise ValueError("redis_cert and redis_key are wanted together")
        return self

    @property
    def redis_tls(self) -> dict[str, Any]:
        """What redis-py and kombu need for TLS; empty without it. Certificate and host name are always checked."""
        if urlsplit(self.redis_url.get_secret_value()).scheme != "rediss":
            return {}
        files = {"ssl_ca_certs": self.redis_ca, "ssl_certfile": self.redis_cert, "ssl_keyfile": self.redis_key}
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            **{name: str(path) for name, path in files.items() if path is not None},
        }

    @property
    def model_by_default(self) -> str | None:
        """The model of a row that names none: the chosen one, or the only one."""
        return self.default_model or (next(iter(self.models)) if len(self.models) == 1 else None)

    def environment(self) -> dict[str, str]:
        """These settings as variables for a child process; the Redis URL with its password is among them."""
        variables = {}
        for name, value in self.model_dump(mode="json", exclude={"redis_url"}, exclude_none=True).items():
            variables[PREFIX + name.upper()] = json.dumps(value) if isinstance(value, dict | bool) else str(value)
        return variables | {"TESSERA_REDIS_URL": self.redis_url.get_secret_value()}


def load_settings(environ: Mapping[str, str] | None = None, *, newer: bool = False, **overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` win.

    With `newer`, names that are no settings are passed over: a pod keeps its image while what launches it is upgraded.
    Raises SettingsError with every problem at once: what is missing, misspelt or out of range, by variable name.
    """
    environ = os.environ if environ is None else environ
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    problems = []
    for name in () if newer else sorted(given.keys() - known.keys() - POD_VARIABLES):
        near = difflib.get_close_matches(name, known, n=1)
        problems.append(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    values: dict[str, Any] = {}
    for variable, name in known.items():
        if given.get(variable):
            values[name] = given[variable]
    for name in ("models", "loras", "tenants", "pod", "schedules"):
        if isinstance(values.get(name), str):
            try:
                values[name] = json.loads(values[name])
            except json.JSONDecodeError as error:
                problems.append(f"{PREFIX}{name.upper()}: not JSON ({error.msg} at position {error.pos})")
                del values[name]
    try:
        settings = Settings.model_validate(values | overrides)
    except ValidationError as error:
        problems += [_problem(item) for item in error.errors(include_url=False, include_input=False)]
    if problems:
        raise SettingsError("settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return settings


def _problem(item: Any) -> str:
    where = PREFIX + ".".join(str(part) for part in item["loc"]).upper() if item["loc"] else "settings"
    return f"{where}: {'must be set' if item['type'] == 'missing' else item['msg']}"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"


def without_credentials(url: str) -> str:
    """The URL as it may be shown: its user and password replaced, its query dropped (presigned URLs sign there)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"***@{host}" if "@" in parts.netloc else host, parts.path, "", ""))
