"""SeaweedFS as the embedded S3: `weed mini`, which is master, volume server, filer and S3 gateway in one process.

Found by trying version 4.48, and handled below: everything listens on -ip.bind, also the internal services, and those
need no credentials unless JWT keys are set; the admin UI opens its two ports even if it is off; gRPC servers put
sockets into /tmp under names that differ only by port.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.processes.child import Program
from embedded.services.endpoints import LOOPBACK, Endpoints
from embedded.services.readiness import NotReady
from pipeline.client.local_stack import find_weed
from pipeline.errors import ServiceError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "tessera"
REGION = "us-east-1"

_PROBE = ".probe/kept"

# For the Go runtime, which otherwise lets garbage grow: 720 MB were measured while 200,000 rows were submitted, half as
# much with this limit, at the cost of processor time. The program itself needs 80 MB more.
_MEMORY_LIMIT = "310MiB"

_FORBIDDEN, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 412


def seaweedfs(endpoints: Endpoints, data_dir: Path, environment: dict[str, str]) -> Program:
    """The server on `data_dir`/s3. It accepts only our credentials, which it gets by its environment."""
    folder = data_dir / "s3"
    folder.mkdir(mode=0o700, exist_ok=True)
    remove_sockets(endpoints)
    ports = endpoints.ports
    for stale in folder.glob("m[0-9]*"):  # the master leaves a folder for every port that it had
        if stale.name != f"m{ports['master']}":
            shutil.rmtree(stale)
    options = {
        "dir": ".",
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        # A resumed master may not be leader yet when the volume server registers, which then waits for 5 s: measured
        # in 4 of 25 restarts, in none without resuming. The volume server sends again whatever state that loses.
        "master.resumeState": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "volume.preStopSeconds": 0,  # no other server needs to notice that this one stops
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "filer.maxMB": 1,  # size of one piece of an object, which is one buffer
        "filer.localSocket": "filer.sock",  # relative, because a socket's path is limited to about 100 bytes
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        # For reading objects: without limits 415 MB while a million rows were read, with these 206 MB.
        "s3.readerCacheSizeMB": 32,
        "s3.cacheCapacityMB": 16,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        "s3.autoCreateBucket": "false",
        "admin.ui": "false",
        "admin.port": ports["admin"],
        "admin.port.grpc": ports["admin_grpc"],
        "webdav": "false",
    }
    key = endpoints.s3_internal_key
    return Program(
        name="s3",
        command=[
            str(find_weed()),
            "-logtostderr=true",
            "mini",
            *(f"-{name}={value}" for name, value in options.items()),
        ],
        environment=environment
        | {
            "AWS_ACCESS_KEY_ID": endpoints.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": endpoints.s3_secret_key,
            # Without these, every user of this machine could read and write through filer and volume server.
            "WEED_JWT_SIGNING_KEY": key,
            "WEED_JWT_SIGNING_READ_KEY": key,
            "WEED_JWT_FILER_SIGNING_KEY": key,
            "WEED_JWT_FILER_SIGNING_READ_KEY": key,
            "HOME": str(folder),  # it reads configuration from ~/.seaweedfs
            "GOMEMLIMIT": _MEMORY_LIMIT,
        },
        folder=folder,
        log=data_dir / "logs" / "s3.log",
        lock=folder / "server.lock",
    )


def remove_sockets(endpoints: Endpoints) -> None:
    """Remove the sockets that a killed server left in /tmp."""
    for service in ("master", "volume", "filer", "s3", "admin"):
        Path(f"/tmp/seaweedfs-{service}-grpc-{endpoints.ports[f'{service}_grpc']}.sock").unlink(missing_ok=True)  # noqa: S108 - its name


def s3_client(endpoints: Endpoints) -> S3Client:
    """A client with the services' own credentials that neither retries nor waits long."""
    import boto3
    import botocore.session
    from botocore.config import Config

    # Ignores AWS_PROFILE and ~/.aws: a profile that does not exist is an error even if keys are given.
    nothing_else = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
    session = boto3.Session(
        botocore_session=botocore.session.Session(nothing_else),
        aws_access_key_id=endpoints.s3_access_key,
        aws_secret_access_key=endpoints.s3_secret_key,
        region_name=REGION,
    )
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        connect_timeout=2,
        read_timeout=5,
        proxies={},
    )
    return session.client("s3", endpoint_url=endpoints.s3_endpoint, config=config)


def check_seaweedfs(client: S3Client) -> None:
    """Create the bucket if need be; check conditional PUT, and that requests without credentials are refused.

    Raises NotReady while the server starts, ServiceError if it answers but cannot be trusted with results.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        try:
            client.head_bucket(Bucket=BUCKET)
        except ClientError as error:
            if _status(error) != _NOT_FOUND:
                raise
            client.create_bucket(Bucket=BUCKET)
        # Never deleted: S3 answers for metadata seconds before it can reach the volume server, which has the content.
        with contextlib.suppress(PreconditionFailed):
            _put_once(client, _PROBE)
        try:
            _put_once(client, _PROBE)
        except PreconditionFailed:
            client.get_object(Bucket=BUCKET, Key=_PROBE)["Body"].read()
        else:
            raise ServiceError("s3: the second PUT with If-None-Match was accepted; results could be overwritten")
    except (BotoCoreError, ClientError) as error:
        raise NotReady(str(error)) from error
    if (status := _status_for_strangers(client.meta.endpoint_url)) != _FORBIDDEN:
        raise ServiceError(f"s3: a request without credentials got status {status}, wanted {_FORBIDDEN}")


class PreconditionFailed(Exception):
    """The object was there already."""


def _put_once(client: S3Client, key: str) -> None:
    from botocore.exceptions import ClientError

    try:
        client.put_object(
            Bucket=BUCKET, Key=key, Body=b"This object shows that the store keeps what it is given.\n", IfNoneMatch="*"
        )
    except ClientError as error:
        if _status(error) == _PRECONDITION_FAILED:
            raise PreconditionFailed from error
        raise


def _status(error: object) -> int:
    return int(getattr(error, "response", {})["ResponseMetadata"]["HTTPStatusCode"])


def _status_for_strangers(endpoint: str) -> int:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint}/{BUCKET}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise NotReady(str(error)) from error
