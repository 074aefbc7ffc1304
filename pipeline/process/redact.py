"""Remove credentials from text of other programs: URLs, headers, environments, specs of attempts.

In two ways: patterns find what looks like a credential, and `conceal` registers the secrets of this process, which are
then found anywhere and in several encodings. Both replace only the credential, so that a message stays readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from pipeline.names import ATTEMPT_VARIABLE, TOKEN_VARIABLE

HIDDEN = "***"
_LEAST_CHARACTERS = 6  # a shorter secret would be found inside words

_secrets: set[str] = set()

# A value in quotes, however deeply escaped, or up to the next blank or delimiter.
_VALUE = r"(?P<open>\\*[\"'])?(?(open)(?:(?!(?P=open)).)*|[^\s,;&}\])\"'\\]+)"
_PATTERNS = [
    # scheme://user:password@host
    (re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/\"'\\]*@", re.IGNORECASE), rf"\g<keep>{HIDDEN}@"),
    # the query of a presigned URL, whatever else is in it, also percent-encoded inside another URL
    (
        re.compile(
            r"(?P<keep>\?|%3F)[^\s\"'\\]*(?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId)"
            r"(?:=|%3D)[^\s\"'\\]*",
            re.IGNORECASE,
        ),
        rf"\g<keep>{HIDDEN}",
    ),
    # a signature outside of its URL, as in a canonical request
    (re.compile(r"(?P<keep>X-Amz-(?:Signature|Credential|Security-Token)(?:=|%3D|:\s*))[^\s&\"'\\]+", re.IGNORECASE),
     rf"\g<keep>{HIDDEN}"),
    # Authorization: SCHEME credentials, as a header or in a printed mapping
    (
        re.compile(
            r"(?P<keep>(?:proxy-)?authorization\\*[\"']?\s*[:=,]\s*)(?:(?P<open>\\*[\"'])(?:(?!(?P=open)).)*|[^\r\n\"'\\]+)",
            re.IGNORECASE,
        ),
        rf"\g<keep>\g<open>{HIDDEN}",
    ),
    (re.compile(r"(?P<keep>\b(?:Bearer|AWS4-HMAC-SHA256)\s+)(?!\*)[^\s\"'\\]+(?:,\s*\w+=[^\s\"'\\,]+)*", re.IGNORECASE),
     rf"\g<keep>{HIDDEN}"),
    # NAME=value and "name": "value" of what is called a secret
    (
        re.compile(
            r"(?P<keep>\b[\w.-]*(?:password|passwd|secret[_-]?access[_-]?key|session[_-]?token|security[_-]?token|"
            r"api[_-]?key|rediscli_auth|private[_-]?key)\\*[\"']?\s*[:=]\s*|\brequirepass\s+)" + _VALUE,
            re.IGNORECASE,
        ),
        rf"\g<keep>\g<open>{HIDDEN}",
    ),
    (
        re.compile(r"(?P<keep>(?P<open>\\*[\"'])token(?P=open)\s*:\s*(?P=open))(?:(?!(?P=open)).)*"),
        rf"\g<keep>{HIDDEN}",
    ),
    # a token of the HTTP API
    (re.compile(r"(?P<keep>\btess_[0-9a-f]{12}_)[A-Za-z0-9_-]+"), rf"\g<keep>{HIDDEN}"),
]  # fmt: skip


def conceal(*values: str | None) -> None:
    """Have `redacted` replace these from now on, also percent-encoded or escaped as JSON."""
    for value in values:
        if value is not None and len(value) >= _LEAST_CHARACTERS:
            plain = unquote(value)
            forms = {value, plain, quote(plain), quote(plain, safe=""), quote_plus(plain)}
            _secrets.update(forms | {json.dumps(form)[1:-1] for form in forms})


def conceal_environment(environ: Mapping[str, str]) -> None:
    """Conceal the credentials in the environment of a Tessera process."""
    for name in ("TESSERA_REDIS_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        conceal(*_passwords(environ.get(name, "")))
    conceal(
        *(environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "REDISCLI_AUTH", TOKEN_VARIABLE))
    )
    conceal(*environ.get("TESSERA_WEBHOOK_KEY", "").split())
    if found := re.search(r'"token"\s*:\s*"([^"]+)"', environ.get(ATTEMPT_VARIABLE, "")):
        conceal(found[1])


def _passwords(url: str) -> list[str | None]:
    try:
        parts = urlsplit(url)
        return [parts.password, *(value for name, value in parse_qsl(parts.query) if "password" in name)]
    except ValueError:
        return []


def redacted(text: str) -> str:
    """`text` with credentials replaced."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
