"""sentinel:// URLs: what they say, and what is refused by name."""

from __future__ import annotations

import pytest

from pipeline.deployment.broker import beat_options, celery_app
from pipeline.deployment.settings import ConnectionSettings, load_part, without_credentials
from pipeline.deployment.settings.sentinels import Sentinels, parsed_sentinels
from pipeline.errors import SettingsError


def _settings(url: str) -> ConnectionSettings:
    return load_part(ConnectionSettings, {"TESSERA_REDIS_URL": url, "TESSERA_S3_BUCKET": "b"})


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("sentinel://h/main", Sentinels((("h", 26379),), "main")),
        (
            "sentinel://u:p%40@one:1,two:2/main?db=3",
            Sentinels((("one", 1), ("two", 2)), "main", db=3, username="u", password="p@"),
        ),
        (
            "rediss+sentinel://:p@[::1]:7,h/m%20x?sentinel_username=s&sentinel_password=w%2Bx",
            Sentinels((("::1", 7), ("h", 26379)), "m x", 0, None, "p", "s", "w+x"),
        ),
    ],
)
def test_a_url_says_where_sentinels_are_and_what_they_watch(url: str, wanted: Sentinels) -> None:
    assert parsed_sentinels(url) == wanted
    settings = _settings(url)
    assert settings.redis_sentinels == wanted
    assert bool(settings.redis_tls) is url.startswith("rediss")
    assert "p" not in without_credentials(url).partition("://")[2].partition("@")[0]
    assert wanted.password is None or wanted.password not in repr(wanted)


def test_servers_are_no_sentinels() -> None:
    assert parsed_sentinels("redis://:p@h:1/0") is None
    assert not _settings("redis://h:1/0").redis_has_secret
    assert _settings("sentinel://h/m?sentinel_password=x").redis_has_secret


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sentinel://h", "no name of a service"),
        ("sentinel:///main", "among the sentinels"),
        ("sentinel://h:1,:2/main", "among the sentinels"),
        ("sentinel://h:99999/main", "among the sentinels"),
        ("sentinel://h/main?ssl_cert_reqs=none", "ssl_cert_reqs found"),
        ("sentinel://h/main?db=x", "db 'x' found"),
        ("redis+cluster://h", "Redis Cluster"),
        ("redis-sentinel://h/main", "sentinel:// or rediss"),
    ],
)
def test_what_cannot_be_read_is_named_and_no_secret_is(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as error:
        _settings(url.replace("://", "://user:SECRET@"))
    assert "SECRET" not in str(error.value)


def test_kombu_and_redbeat_are_given_what_they_read() -> None:
    settings = _settings("rediss+sentinel://u:p%40@one:1,two:2/main?db=3&sentinel_password=w")
    conf = celery_app(settings).conf
    assert conf.broker_url == "sentinel://u:p%40@one:1/3;sentinel://u:p%40@two:2/3"
    options = conf.broker_transport_options
    assert options["master_name"] == "main"
    node = options["sentinel_kwargs"]
    assert (node["password"], node["ssl"], node["ssl_cert_reqs"]) == ("w", True, "required")
    assert conf.broker_use_ssl["ssl_check_hostname"] is True
    beat = beat_options(settings)["redbeat_redis_options"]
    assert (beat["sentinels"], beat["service_name"], beat["db"]) == ([("one", 1), ("two", 2)], "main", 3)
    assert (beat["username"], beat["password"], beat["sentinel_kwargs"]["password"]) == ("u", "p@", "w")
