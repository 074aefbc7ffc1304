"""Clients of S3, and one place that turns what they raise into our errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import boto3
import botocore.exceptions as s3_errors
import botocore.session
from botocore.config import Config
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from pipeline.bucket.answers import check_answers
from pipeline.deployment.settings import Settings
from pipeline.errors import ClockSkewed, StoreRefused, StoreUnavailable
from pipeline.version import installed_version

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

READ_TIMEOUT_S = 60.0
MAX_ATTEMPTS = 5

# A store refuses what was signed so far from its own time.
MOST_SKEW_S = 15 * 60.0

# Codes of S3's errors.
PRECONDITION_FAILED = {"PreconditionFailed", "412"}
CONFLICT = {"ConditionalRequestConflict", "409"}
ABSENT = {"NoSuchKey", "404", "NotFound"}
# Refusals that end by themselves: the store is busy, or another request is under way. A HEAD's refusal has no words.
_NOT_NOW = CONFLICT | {"OperationAborted", "RequestTimeout", "SlowDown", "TooManyRequests"}
_NOT_NOW_STATUS = {408, 425, 429}
_DENIED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "Forbidden", "ExpiredToken"}


@dataclass(frozen=True)
class Credentials:
    """An access key of one's own, where the environment's is not meant: that of the local stack."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True)
class Clients:
    """The client for all work, one that asks once and gives up soon, for a check, and one that signs links."""

    patient: S3Client
    impatient: S3Client
    links: S3Client


def connect(settings: Settings, credentials: Credentials | None) -> Clients:
    """Clients of the store that the settings name; nothing is sent yet."""
    # Reading boto3's models costs more than a request does: one session for both, made here because making clients is
    # not safe between threads.
    own = botocore.session.Session()
    own.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_in_answer)
    session = boto3.session.Session(
        botocore_session=own,
        aws_access_key_id=credentials.access_key_id if credentials else None,
        aws_secret_access_key=credentials.secret_access_key if credentials else None,
    )
    patient = _client(session, settings, READ_TIMEOUT_S, MAX_ATTEMPTS)
    # A link is signed for the host that it names.
    outside = settings.model_copy(update={"s3_endpoint": settings.api_links_endpoint})
    return Clients(
        patient=patient,
        links=patient if outside.s3_endpoint is None else _client(session, outside, READ_TIMEOUT_S, MAX_ATTEMPTS),
        impatient=_client(session, settings, settings.connect_timeout_s, 1),
    )


def _client(session: boto3.session.Session, settings: Settings, read_timeout_s: float, attempts: int) -> S3Client:
    client = session.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        config=Config(
            connect_timeout=settings.connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "max_attempts": attempts},
            # A connection beyond these is closed after one request, and each of a worker's threads may want one.
            max_pool_connections=max(32, settings.worker_slots),
            # Links are signed the old way for some regions otherwise, which newer ones and other stores refuse.
            signature_version="s3v4",
            # botocore would put its own together for each request, which takes a tenth of a request's CPU time.
            user_agent=f"Tessera/{installed_version()} Boto3/{boto3.__version__} Botocore/{botocore.__version__}",
            # Path style works with every endpoint; AWS keeps it for buckets that exist.
            s3={"addressing_style": "path"} if settings.s3_endpoint else {},
        ),
    )
    check_answers(client.meta.events)
    return client


def time_of(text: str) -> datetime:
    """A time in an answer, as S3 writes them in XML and in headers: botocore guesses the form of each, which takes
    longer than all else of a list.
    """
    try:
        found = datetime.fromisoformat(text) if text[4:5] == "-" else parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)
    return found if found.tzinfo is not None else parse_timestamp(text)


def _time_in_answer(text: str) -> datetime:
    """As `time_of`; what is no time makes an answer that cannot be read."""
    try:
        return time_of(text)
    except ValueError as error:
        raise ResponseParserError(str(error)) from error


@contextmanager
def translate_errors(where: str) -> Iterator[None]:
    """Raise what goes wrong with the store as StoreUnavailable or StoreRefused; `where` names it in messages.

    A KeyError is what an answer lacks (pipeline/bucket/answers.py).
    """
    try:
        yield
    except s3_errors.ClientError as error:
        code = code_of(error)
        if (skewed := _skewed(error, where)) is not None:
            raise skewed from error
        if code == "NoSuchBucket" or (code in ABSENT and error.operation_name == "HeadBucket"):
            raise StoreRefused(
                f"S3 at {where}: the bucket does not exist; create it or correct TESSERA_S3_BUCKET"
            ) from error
        if code in _DENIED:
            raise StoreRefused(
                f"S3 at {where} refuses our credentials ({code} on {error.operation_name}); check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do in this bucket"
            ) from error
        kind = StoreUnavailable if _is_for_now(error) else StoreRefused
        raise kind(f"S3 at {where}: {code} on {error.operation_name}") from error
    except (KeyError, ResponseParserError) as error:
        raise StoreUnavailable(
            f"S3 at {where}: an answer that S3 does not give ({type(error).__name__}: {str(error)[:100]}); check "
            "TESSERA_S3_ENDPOINT, and whether something else answers there"
        ) from error
    except (s3_errors.NoCredentialsError, s3_errors.PartialCredentialsError) as error:
        raise StoreUnavailable(
            f"no credentials for S3 at {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
            "or a workload identity"
        ) from error
    except (s3_errors.BotoCoreError, OSError) as error:
        raise StoreUnavailable(
            f"S3 at {where} does not answer ({type(error).__name__}); check TESSERA_S3_ENDPOINT, and "
            "whether what leads there (a port-forward, a VPN) still does"
        ) from error


def _is_for_now(error: s3_errors.ClientError) -> bool:
    """Whether asking again may have another answer."""
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return not 400 <= status < 500 or status in _NOT_NOW_STATUS or code in _NOT_NOW or code.startswith("Throttling")


def _skewed(error: s3_errors.ClientError, where: str) -> ClockSkewed | None:
    """The error of a refusal whose reason is a clock, whatever the store calls it: a HEAD's refusal has no words."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    skew = skew_s(error.response)
    if code_of(error) != "RequestTimeTooSkewed" and (status != 403 or abs(skew or 0.0) < MOST_SKEW_S):
        return None
    return ClockSkewed(where, skew)


def skew_s(response: object) -> float | None:
    """Seconds by which our clock is ahead of the store's, by the Date of its answer; None if it has none."""
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    try:
        theirs = parsedate_to_datetime(metadata.get("HTTPHeaders", {})["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return (local_time() - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds()


def local_time() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


def code_of(error: s3_errors.ClientError) -> str:
    """S3's code of an error."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))
