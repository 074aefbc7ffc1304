"""Both services of a data folder: start them, wait until they are ready, give their addresses, stop them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from embedded.processes.child import Child, stop_all
from embedded.services.endpoints import Endpoints, all_free, load_endpoints
from embedded.services.readiness import wait_until_ready
from embedded.services.seaweedfs import BUCKET, REGION, check_seaweedfs, remove_sockets, s3_client, seaweedfs
from embedded.services.valkey import check_valkey, valkey
from pipeline.errors import ServiceError
from pipeline.process.private import private_folder

log = structlog.get_logger(__name__)

_STARTS = 5
_S3_GRACE_S = 8.0
_REDIS_GRACE_S = 10.0

# The variables that a server gets from our environment. Others may be meant for other programs: AWS_PROFILE or
# S3_BUCKET would change what `weed` does.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "TMPDIR", "DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Services:
    """Valkey and SeaweedFS of one data folder, running."""

    endpoints: Endpoints
    redis: Child
    s3: Child

    @property
    def settings(self) -> dict[str, str]:
        """Where they are, as values of `pipeline.deployment.settings.Settings`."""
        endpoints = self.endpoints
        return {
            "redis_url": endpoints.redis_url,
            "s3_endpoint": endpoints.s3_endpoint,
            "s3_region": REGION,
            "s3_bucket": BUCKET,
        }

    @property
    def webhook_key(self) -> str:
        """Key of the deployment's webhooks; it stays the same for as long as the data folder does."""
        return hashlib.sha256(f"webhooks {self.endpoints.s3_internal_key}".encode()).hexdigest()

    @property
    def credentials(self) -> dict[str, str]:
        """Variables with the credentials, as boto3 reads them."""
        return {
            "AWS_ACCESS_KEY_ID": self.endpoints.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.endpoints.s3_secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def start_services(
    data_dir: Path,
    timeout_s: float,
    give_up: Callable[[], bool] = lambda: False,
    on_ready: Callable[[str], None] = lambda _name: None,
) -> Services:
    """Start both; returns when both have answered a real request. From the main thread only.

    A port that another program has taken between our look and the service's start is replaced, and both start again.
    Raises ServiceError, StopRequested; neither runs then.
    """
    private_folder(data_dir / "logs")
    deadline = time.monotonic() + timeout_s
    for left in reversed(range(_STARTS)):
        services = _services(data_dir)
        try:
            services.s3.start()  # first, because it takes longer
            services.redis.start()
            _await(services, deadline, give_up, on_ready)
        except ServiceError as error:
            stop_services(services)
            if not left or all_free(services.endpoints):
                raise
            log.warning("a port of the services was taken meanwhile; they start on others", reason=str(error))
        except BaseException:
            stop_services(services)
            raise
        else:
            return services
    raise AssertionError


def _services(data_dir: Path) -> Services:
    endpoints = load_endpoints(data_dir)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return Services(
        endpoints,
        redis=Child(valkey(endpoints, data_dir, environment)),
        s3=Child(seaweedfs(endpoints, data_dir, environment)),
    )


def _await(services: Services, deadline: float, give_up: Callable[[], bool], on_ready: Callable[[str], None]) -> None:
    wait_until_ready(services.redis, lambda: check_valkey(services.endpoints), deadline, give_up)
    on_ready(services.redis.name)
    client = s3_client(services.endpoints)
    wait_until_ready(services.s3, lambda: check_seaweedfs(client), deadline, give_up)
    on_ready(services.s3.name)
    client.close()


def stop_services(services: Services) -> None:
    """Stop S3, then Redis, which writes its append-only file out."""
    stop_all([services.s3], _S3_GRACE_S)
    stop_all([services.redis], _REDIS_GRACE_S)
    remove_sockets(services.endpoints)


@contextmanager
def running_services(data_dir: Path, timeout_s: float = 30.0) -> Iterator[Services]:
    """Both services for the length of a `with` block."""
    services = start_services(data_dir, timeout_s)
    try:
        yield services
    finally:
        stop_services(services)


def no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY with the loopback added, so that requests to the services do not go to a proxy."""
    hosts = [host for host in environment.get("NO_PROXY", environment.get("no_proxy", "")).split(",") if host]
    listed = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": listed, "no_proxy": listed}
