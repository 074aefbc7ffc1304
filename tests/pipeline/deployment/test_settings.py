"""Settings: every problem at once, by the variable's name, and none of their secrets shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from pipeline.deployment.settings import (
    ConnectionSettings,
    MachineSettings,
    ModelSource,
    Settings,
    load_part,
    load_settings,
    without_credentials,
)
from pipeline.errors import SettingsError
from pipeline.names import POD_VARIABLES

NEEDED = {"TESSERA_REDIS_URL": "redis://:SECRET@h:1/0", "TESSERA_S3_BUCKET": "b"}


def _problems(**variables: str) -> str:
    with pytest.raises(SettingsError) as error:
        load_settings(NEEDED | variables)
    assert "SECRET" not in str(error.value)
    return str(error.value)


def test_two_settings_are_enough_and_the_others_have_defaults() -> None:
    settings = load_settings(NEEDED)
    assert (settings.redis_url.get_secret_value(), settings.s3_bucket) == ("redis://:SECRET@h:1/0", "b")
    assert (settings.gpus, settings.s3_endpoint, settings.launcher) == (8, None, "kubernetes")
    assert "SECRET" not in repr(settings)


def test_all_problems_come_at_once_by_variable() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({"TESSERA_GPUS": "many", "TESSERA_REDIS_ULR": "x", "TESSERA_S3_PREFIX": "/a", "OTHER": "x"})
    text = str(error.value)
    assert "TESSERA_REDIS_ULR: no such setting; did you mean TESSERA_REDIS_URL?" in text
    assert "TESSERA_REDIS_URL: must be set" in text
    assert "TESSERA_S3_BUCKET: must be set" in text
    assert "TESSERA_GPUS: " in text
    assert "TESSERA_S3_PREFIX: " in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESSERA_REDIS_URL", "rediss+cluster://:SECRET@h"),
        ("TESSERA_REDIS_URL", "unix:///tmp/redis.sock"),
        ("TESSERA_REDIS_URL", "redis://[SECRET"),
        ("TESSERA_REDIS_PREFIX", "a:b"),
        ("TESSERA_REDIS_PREFIX", "-a"),
        ("TESSERA_REDIS_PREFIX", "x" * 41),
        ("TESSERA_S3_PREFIX", "a//b"),
        ("TESSERA_S3_PREFIX", "a/../b"),
        ("TESSERA_S3_PREFIX", "a/"),
        ("TESSERA_S3_PREFIX", "a b"),
        ("TESSERA_LEASE_S", "1"),
        ("TESSERA_DEADLINE_S", "0"),
        ("TESSERA_DEADLINE_S", "inf"),
        ("TESSERA_CONNECT_TIMEOUT_S", "1e308"),
        ("TESSERA_MAX_MEGAPIXELS", "inf"),
        ("TESSERA_LAUNCHER", "slurm"),
        ("TESSERA_DTYPE", "int8"),
        ("TESSERA_MODELS", "[]"),
        ("TESSERA_MODELS", "{"),
        ("TESSERA_MODELS", '{"a": {"path": "p"}}'),
        ("TESSERA_MODELS", '{"a": {"path": "p", "revision": ""}}'),
        ("TESSERA_LOG_LEVEL", "loud"),
        ("TESSERA_TENANTS", '{"a/b": {"running_jobs": 1}}'),
        ("TESSERA_TENANTS", '{"*": {"running_jobs": 0}}'),
        ("TESSERA_TENANTS", '{"a": {"images": 3}}'),
    ],
)
def test_a_value_out_of_range_is_named_by_its_variable(name: str, value: str) -> None:
    assert f"{name}" in _problems(**{name: value})


def test_a_default_model_must_be_an_allowed_one() -> None:
    models = json.dumps({"a": {"path": "p", "revision": "r"}, "b": {"path": "p", "revision": "r"}})
    assert "default_model 'c' is not among models (a, b)" in _problems(TESSERA_MODELS=models, TESSERA_DEFAULT_MODEL="c")
    assert load_settings(NEEDED | {"TESSERA_MODELS": models}).model_by_default is None
    assert load_settings(NEEDED | {"TESSERA_MODELS": models, "TESSERA_DEFAULT_MODEL": "b"}).model_by_default == "b"
    one = json.dumps({"a": {"path": "p", "revision": "r"}})
    assert load_settings(NEEDED | {"TESSERA_MODELS": one}).model_by_default == "a"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"models": {"a": {"path": "p", "revision": "r", "native_px": 64}}, "default_model": "a"},
        {"exact": True, "layout": "1x2x4", "max_megapixels": 0.5, "s3_endpoint": "http://h:1", "s3_prefix": "a/b"},
        {
            "data_dir": Path("/x y/ü"),
            "lease_s": 2.5,
            "launcher": "local",
            "redis_url": "rediss://u:p%40@h:1/3",
            "redis_ca": Path("/ca.pem"),
        },
        {"tenants": {"*": {"running_jobs": 2}, "acme": {"open_images": 100}}},
    ],
)
def test_a_child_process_reads_the_same_settings_from_its_environment(changes: dict[str, Any]) -> None:
    settings = load_settings(NEEDED, **changes)
    environment = settings.environment()
    assert load_settings(environment) == settings
    assert all(isinstance(value, str) for value in environment.values())


def test_every_setting_is_one_variable_and_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_variables_of_one_process_and_empty_ones_are_no_settings() -> None:
    extra = dict.fromkeys(POD_VARIABLES, "x") | {"TESSERA_LAYOUT": "", "TESSERA_GPUS": ""}
    assert load_settings(NEEDED | extra) == load_settings(NEEDED)


def test_a_part_is_read_by_itself_and_a_misspelt_name_is_still_an_error(tmp_path: Path) -> None:
    environ = {"TESSERA_DATA_DIR": str(tmp_path), "TESSERA_GPUS": "many"}
    assert load_part(MachineSettings, environ).data_dir == tmp_path
    with pytest.raises(SettingsError, match="TESSERA_DATADIR: no such setting; did you mean TESSERA_DATA_DIR") as error:
        load_part(ConnectionSettings, {"TESSERA_DATADIR": "x"})
    assert "TESSERA_REDIS_URL: must be set" in str(error.value)
    assert load_part(ConnectionSettings, NEEDED).s3_bucket == "b"


class _More(Settings):
    quotas: dict[str, int] = Field(default_factory=dict)
    zones: tuple[str, ...] | None = None
    model: ModelSource | None = None
    note: str | None = None


def test_a_setting_that_holds_more_than_one_value_is_read_as_json_by_its_type() -> None:
    more: dict[str, Any] = {
        "quotas": {"a": 1},
        "zones": ("x", "y"),
        "model": ModelSource(path="p", revision="r"),
        "note": "{",
    }
    settings = load_part(_More, NEEDED, **more)
    assert settings.environment() | {"TESSERA_NOTE": "{"} == settings.environment()
    assert load_part(_More, settings.environment()) == settings
    with pytest.raises(SettingsError, match="TESSERA_QUOTAS: not JSON"):
        load_part(_More, NEEDED | {"TESSERA_QUOTAS": "a"})


def test_overrides_win_over_the_environment() -> None:
    assert load_settings(NEEDED | {"TESSERA_GPUS": "4"}, gpus=2).gpus == 2


def test_a_folder_below_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(NEEDED).data_dir == tmp_path / ".tessera"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:SECRET@h:1/0", "redis://***@h:1/0"),
        ("redis://u:a@SECRET@h:1/0", "redis://***@h:1/0"),
        ("redis://h:1/0?password=SECRET", "redis://h:1/0"),
        ("https://h/k?X-Amz-Signature=SECRET", "https://h/k"),
        ("http://h:1", "http://h:1"),
    ],
)
def test_a_url_is_shown_without_what_lets_one_in(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
