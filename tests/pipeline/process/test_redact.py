"""Credentials are taken out of any text, in every form in which libraries print them; the rest is kept."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from pipeline.process import redact
from pipeline.process.redact import conceal, conceal_environment, redacted

SIGNED = "https://s3.example/b/k?X-Amz-Algorithm=A&X-Amz-Credential=AKIASECRET&X-Amz-Signature=SECRETSIG"
SPEC = json.dumps({"name": "n", "token": "SECRETTOKEN", "image": "kept"})


@pytest.fixture(autouse=True)
def no_secrets_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_secrets", set())


@pytest.mark.parametrize(
    "text",
    [
        "REDIS://:SECRET@host/0 kept",
        "rediss://user:p%40SECRET@host kept",
        f"{SIGNED} kept",
        f"proxy said: url={quote(SIGNED, safe='')} kept",
        json.dumps({"url": SIGNED, "k": "kept"}),
        json.dumps(json.dumps({"url": SIGNED, "k": "kept"})),
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIASECRET/x, SignedHeaders=host, Signature=SECRET\nHost: kept",
        "{'Authorization': 'Bearer SECRET', 'Accept': 'kept'}",
        '{"authorization": "Basic SECRET==", "a": "kept"}',
        "[('Authorization', 'Bearer SECRET'), ('a', 'kept')]",
        "HTTPHeaderDict({'Proxy-Authorization': 'SECRET', 'a': 'kept'})",
        "x-amz-security-token: SECRET\nkept",
        "401 for Bearer SECRET.abc.def kept",
        "AWS_SECRET_ACCESS_KEY=SECRETVALUE PATH=kept",
        "environ({'AWS_SECRET_ACCESS_KEY': 'SECRETVALUE', 'PATH': 'kept'})",
        '{"AWS_SESSION_TOKEN": "SECRETVALUE", "k": "kept"}',
        "password='SECRETVALUE with blanks' kept",
        "requirepass SECRETVALUE kept",
        "REDISCLI_AUTH=SECRETVALUE kept",
        "api_key: SECRETVALUE, kept",
        f"TESSERA_ATTEMPT={SPEC}",
        json.dumps({"env": [{"name": "TESSERA_ATTEMPT", "value": SPEC}]}),
        json.dumps(json.dumps({"annotations": {"tessera/spec": SPEC}})),
        repr({"value": SPEC}),
    ],
)
def test_what_looks_like_a_credential_goes_and_its_surroundings_stay(text: str) -> None:
    clean = redacted(text)
    for secret in ("SECRETVALUE", "SECRETTOKEN", "SECRETSIG", "AKIASECRET", "Bearer SECRET", ":SECRET@", "40SECRET"):
        assert secret not in clean
    assert "kept" in clean
    assert "***" in clean


@pytest.mark.parametrize(
    "text",
    [
        "the prompt has 90 tokens; 77 wanted",
        "token: three, tokens: four",
        "https://x/k?page=2&size=3",
        "s3://bucket/key and mail@example.org",
        "check user and password in TESSERA_REDIS_URL",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a workload identity",
        '{"event": "job claimed", "batch": "b", "job": 3}',
    ],
)
def test_what_holds_no_credential_is_left_as_it_is(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("password", ["p@ss/w:rd%21", 'quo"te\\d', "pläintext", "simple-but-long"])
def test_this_processs_own_secrets_are_found_in_every_encoding(password: str) -> None:
    url = f"redis://u:{quote(password, safe='')}@h/0"
    conceal_environment({"TESSERA_REDIS_URL": url, "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "TESSERA_ATTEMPT": SPEC})
    for form in (password, quote(password), quote(password, safe=""), json.dumps(password), f"AUTH u {password}", url):
        clean = redacted(f"said {form} here")
        assert password not in clean
        assert quote(password, safe="") not in clean
        assert clean.startswith("said ")
        assert clean.endswith(" here")
    assert redacted("wJalrXUtnFEMI and SECRETTOKEN") == "*** and ***"


def test_a_short_value_is_no_secret_that_could_be_replaced_everywhere() -> None:
    conceal("a", "", None)
    assert redacted("a banana") == "a banana"


_NOISE = """
import logging, os, subprocess, sys
from pipeline.process.logs import configure_logging
configure_logging("json", "debug")
log = logging.getLogger("third.party")
log.warning("environment: %s", dict(os.environ))
log.warning("child: %s", subprocess.run(["env"], capture_output=True, text=True).stdout)
try:
    try:
        raise ConnectionError("AUTH failed for " + os.environ["TESSERA_REDIS_URL"])
    except ConnectionError as inner:
        try:
            raise KeyError("key " + os.environ["AWS_SECRET_ACCESS_KEY"]) from inner
        except KeyError as middle:
            raise ExceptionGroup("several", [middle, ValueError("p%40ss")]) from middle
except Exception:
    log.exception("nested")
from kubernetes.client.exceptions import ApiException
class Response:
    status, reason = 422, "Unprocessable"
    data = '{"message": "Job is invalid: ' + os.environ["TESSERA_ATTEMPT"].replace('"', '\\\\\\\\"') + '"}'
    def getheaders(self): return {"Authorization": "Bearer ey.SECRETJWT.x"}
    headers = {"Authorization": "Bearer ey.SECRETJWT.x"}
try:
    raise ApiException(http_resp=Response())
except ApiException:
    log.exception("cluster")
"""


def test_no_log_of_a_process_shows_what_is_in_its_environment(tmp_path: Path) -> None:
    """Environment dumps, its child's, nested and grouped exceptions, and the Kubernetes client's errors."""
    secrets = {
        "TESSERA_REDIS_URL": "rediss://worker:p%40ss-w0rd@redis:6379/0",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaD",
        "TESSERA_ATTEMPT": SPEC,
    }
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", _NOISE],
        env=dict(os.environ) | secrets, cwd=root, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert said.count("Traceback") >= 2
    for secret in ("p%40ss-w0rd", "p@ss-w0rd", "wJalrXUtnFEMI", "FwoGZXIvYXdzEBYaD", "SECRETTOKEN", "SECRETJWT"):
        assert secret not in said
    assert all(json.loads(line)["level"] for line in done.stderr.splitlines())


def test_celerys_banner_and_configuration_show_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    from celery.apps.worker import Worker

    from pipeline.deployment.broker import celery_app
    from pipeline.deployment.settings import load_settings

    settings = load_settings({}, redis_url="redis://worker:p%40ssw0rd@redis:6379/0", s3_bucket="b")
    app = celery_app(settings)
    banner = Worker(app=app, hostname="render@h", concurrency=1, pool="solo").startup_info(artlines=False)
    logging.getLogger().warning("%s", banner)
    for text in (banner, str(app.conf.humanize()), repr(settings), str(settings), capsys.readouterr().err):
        assert "p%40ssw0rd" not in text
        assert "p@ssw0rd" not in text
    assert "redis:6379" in banner
