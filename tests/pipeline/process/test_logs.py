"""What is logged holds no credentials, wherever they come from, in both forms."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from pipeline.process.logs import configure_logging
from pipeline.process.redact import redacted

SIGNED = "https://s3.example/b/k?X-Amz-Algorithm=A&X-Amz-Credential=AKIASECRET&X-Amz-Signature=SECRETSIG"


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], Callable[[], str]]]:
    """`logs(form)` configures logging; calling what it returns gives what was logged."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def configure(form: str) -> Callable[[], str]:
        configure_logging(form, "info")
        structlog.configure(cache_logger_on_first_use=False)
        return lambda: capsys.readouterr().err

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:SECRET@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:SECRET@host", "rediss://***@host"),
        ("redis://:p@SECRET@host/0", "redis://***@host/0"),
        ("see http://u:SECRET@a/x and redis://:SECRET@b", "see http://***@a/x and redis://***@b"),
        (f"GET {SIGNED} failed", "GET https://s3.example/b/k?*** failed"),
        ("https://x/k?Signature=SECRET&Expires=1", "https://x/k?***"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail me@example.org about s3://bucket", "mail me@example.org about s3://bucket"),
        ("https://x/k?page=2", "https://x/k?page=2"),
    ],
)
def test_credentials_in_urls_are_replaced_and_the_rest_is_kept(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_credentials_come_out_whichever_way_they_went_in(
    logs: Callable[[str], Callable[[], str]], form: str
) -> None:
    read = logs(form)
    log = structlog.get_logger("t")
    url = "redis://:SECRET@host/0"
    log.info(f"at {url}", url=url, urls=[url], inner={"deep": (url, SIGNED)}, error=ValueError(url))  # noqa: G004 - as third parties do
    logging.getLogger("third.party").warning("cannot reach %s", url)
    try:
        raise OSError(f"cannot reach {url}")  # noqa: TRY301 - a traceback of our own
    except OSError:
        log.exception("failed")
        logging.getLogger("third.party").exception("failed too")
    text = read()
    assert text.count("Traceback") == 2
    assert text.count("***@host") >= 8
    assert "SECRET" not in text


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables_because_they_hold_prompts(
    logs: Callable[[str], Callable[[], str]], form: str
) -> None:
    read = logs(form)

    def render(prompt: str) -> None:
        raise RuntimeError(f"boom after {len(prompt)} characters")

    try:
        render(" ".join(["client", "material"]))
    except RuntimeError:
        structlog.get_logger("t").exception("failed")
    text = read()
    assert "boom after 15 characters" in text
    assert "client material" not in text


def test_each_line_of_the_json_form_is_an_object_with_what_was_bound(
    logs: Callable[[str], Callable[[], str]],
) -> None:
    read = logs("auto")  # no terminal
    with structlog.contextvars.bound_contextvars(batch="b", job=3):
        structlog.get_logger("t").info("job claimed", attempt=2, note='a "quoted"\nline of redis://:SECRET@host')
        logging.getLogger("third.party").warning("careful")
    first, second = [json.loads(line) for line in read().splitlines()]
    assert (first["event"], first["level"], first["batch"], first["job"], first["attempt"]) == (
        "job claimed",
        "info",
        "b",
        3,
        2,
    )
    assert first["note"] == 'a "quoted"\nline of redis://***@host'
    assert (second["event"], second["logger"], second["batch"]) == ("careful", "third.party", "b")
    assert first["timestamp"].endswith("Z")


def test_lines_below_the_level_and_chatter_of_libraries_are_left_out(
    logs: Callable[[str], Callable[[], str]],
) -> None:
    read = logs("json")
    structlog.get_logger("t").debug("detail")
    logging.getLogger("botocore.auth").info("StringToSign")
    assert read() == ""
