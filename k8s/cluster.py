"""The only module that talks to a Kubernetes API, and the only importer of its client.

Requests and answers are the API's JSON: the client's models drop fields that they do not know, and refuse some that
exist. Every error is translated here:

    no answer, 5xx, 429, 408       ClusterUnavailable: an outage, never counted as a failed render
    401, 403 by RBAC or quota, 404 of the namespace
                                   ClusterUnavailable: refused until somebody corrects it; nothing is lost
    409 AlreadyExists              AlreadyThere
    other answers to a create      Refused: this object will never be accepted; `denied` if a policy refused it
    404                            None, or nothing to delete
    410 of a continued list        the list starts again
    410 of a watch                 WatchExpired: the watch cannot go on from that version
    a watch that sends nothing     ClusterUnavailable
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from k8s.clock import ServerClock
from k8s.reading import Object
from pipeline.errors import ServiceError, SettingsError, TesseraError

PAGE = 500
LOG_TAIL_BYTES = 256 * 1024

# The server ends a watch after WATCH_S. It sends a bookmark every minute, so after SILENCE_S the connection is dead.
WATCH_S, SILENCE_S = 300, 120

Kind = Literal["jobs", "pods"]

# All permissions that a worker's service account needs, in the namespace of its pods; the chart's Role has the same.
RULES: list[dict[str, list[str]]] = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_BUSY = frozenset({408, 429})
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _GONE = 401, 403, 404, 409, 410


class ClusterUnavailable(ServiceError):
    """The Kubernetes API does not answer, or refuses us."""


class WatchExpired(ServiceError):
    """The server no longer has the version that a watch should go on from."""


class AlreadyThere(TesseraError):
    """An object of that name exists."""


class Refused(TesseraError):
    """The API will never accept this object."""

    def __init__(self, message: str, *, denied: bool) -> None:
        self.denied = denied
        super().__init__(message)


@dataclass(frozen=True)
class Change:
    """One line of a watch: the version to go on from, and whether an object changed (not in a bookmark)."""

    version: str
    is_change: bool


class Cluster:
    """One namespace of one cluster. Safe to share between threads; every request has a time limit."""

    def __init__(self, api: client.ApiClient, namespace: str, request_timeout_s: float) -> None:
        self._api = api
        self.namespace, self.clock = namespace, ServerClock()
        self._timeout_s = request_timeout_s

    @classmethod
    def connect(cls, namespace: str | None, request_timeout_s: float) -> Cluster:
        """The cluster that this process runs in, or the one that KUBECONFIG names; makes no request.

        Raises SettingsError if there is neither.
        """
        found = client.Configuration()
        named = os.environ.get("KUBECONFIG")  # the client reads it only when it is imported
        try:
            try:
                config.load_incluster_config(found)
                here = _NAMESPACE_FILE.read_text().strip()
            except ConfigException:
                config.load_kube_config(config_file=named, client_configuration=found)
                _, current = config.list_kube_config_contexts(named)
                here = current["context"].get("namespace") or "default"
        except (ConfigException, OSError) as error:
            raise SettingsError(
                f"TESSERA_LAUNCHER=kubernetes, but no cluster was found: {error}; "
                "run in a pod with a service account, or set KUBECONFIG"
            ) from error
        # No retries here: the caller waits out an outage, and can be stopped while it waits.
        found.retries = False
        found.connection_pool_maxsize = 16
        return cls(client.ApiClient(found), namespace or here, request_timeout_s)

    def create_job(self, manifest: Mapping[str, Any]) -> None:
        """Create a Job. Raises AlreadyThere, Refused, or ClusterUnavailable, and then it may exist all the same."""
        status, body = self._request("POST", self._jobs, body=manifest)
        if status == _CONFLICT and body.get("reason") == "AlreadyExists":
            raise AlreadyThere(_message(body))
        if status >= 400:
            _raise_for_create(status, body)

    def job(self, name: str) -> Object | None:
        """A Job, or None."""
        status, body = self._request("GET", f"{self._jobs}/{name}")
        return None if status == _NOT_FOUND else _check(status, body)

    def jobs(self, selector: str) -> list[Object]:
        """Every Job that the label selector matches, as of now."""
        return self._list(self._jobs, {"labelSelector": selector})

    def pod(self, name: str) -> Object | None:
        """A pod, or None."""
        status, body = self._request("GET", f"{self._pods}/{name}")
        return None if status == _NOT_FOUND else _check(status, body)

    def pods(self, selector: str) -> list[Object]:
        """Every pod that the label selector matches, as of now."""
        return self._list(self._pods, {"labelSelector": selector})

    def events(self) -> list[Object]:
        """The events of the namespace about Jobs and pods; they come late, and are kept for an hour."""
        kinds = {"Job", "Pod"}
        path = f"/api/v1/namespaces/{self.namespace}/events"
        return [one for one in self._list(path, {}) if one["involvedObject"].get("kind") in kinds]

    def delete_job(self, name: str) -> bool:
        """Delete a Job and, in the background, its pod; False if there is none."""
        # The API's default for Jobs leaves the pod running, with its GPUs.
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        return self._delete(f"{self._jobs}/{name}", options)

    def watch(self, kind: Kind, selector: str, version: str | None) -> Iterator[Change]:
        """Changes from `version` on, or all objects and then changes, until the server ends the watch.

        Returns when the watch is open. Raises WatchExpired or ClusterUnavailable, then and during iteration.
        """
        query: dict[str, Any] = {
            "watch": "true", "labelSelector": selector, "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_S,
        }  # fmt: skip
        if version is not None:
            query["resourceVersion"] = version
        path = self._jobs if kind == "jobs" else self._pods
        answer = self._open("GET", path, query, None, silence_s=SILENCE_S)
        if answer.status != 200:
            self._raise_for_watch(answer.status, _read(answer))
        return self._changes(answer.response)

    def _changes(self, answer: urllib3.HTTPResponse) -> Iterator[Change]:
        try:
            for line in answer:
                change = json.loads(line)
                kind, found = change.get("type"), change.get("object") or {}
                if kind == "ERROR":
                    self._raise_for_watch(int(found.get("code") or 500), line)
                yield Change(str(found["metadata"]["resourceVersion"]), is_change=kind != "BOOKMARK")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterUnavailable(f"a watch was cut off ({type(error).__name__}): {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ClusterUnavailable("a watch sent a line that cannot be read") from error
        finally:
            answer.close()

    def _raise_for_watch(self, status: int, body: bytes) -> NoReturn:
        if status == _GONE:
            raise WatchExpired("the version to go on from has expired")
        raise ClusterUnavailable(f"the cluster refuses a watch ({status}): {body[:200].decode(errors='replace')}")

    def log_tail(self, pod: str, container: str) -> str | None:
        """The end of a container's log; None if there is none."""
        query = {"container": container, "tailLines": 2000, "limitBytes": LOG_TAIL_BYTES}
        status, text = self._send("GET", f"{self._pods}/{pod}/log", query, None)
        if status >= 500 or status in _BUSY:
            raise ClusterUnavailable(f"the cluster answers {status} when asked for the log of {pod}")
        return text.decode(errors="replace") if status == 200 else None

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _list(self, path: str, query: Mapping[str, Any]) -> list[Object]:
        """All pages of one consistent list. Without a resourceVersion the answer is as of now, not of a cache's."""
        while True:
            items: list[Object] = []
            token: str | None = None
            while True:
                page = {**query, "limit": PAGE} | ({"continue": token} if token else {})
                status, body = self._request("GET", path, query=page)
                if status == _GONE:
                    break  # the list took so long that its version has expired
                body = dict(_check(status, body))
                items += body.get("items") or ()
                token = (body.get("metadata") or {}).get("continue")
                if not token:
                    return items

    def _delete(self, path: str, options: Mapping[str, Any]) -> bool:
        status, body = self._request("DELETE", path, body=options)
        if status in (_NOT_FOUND, _CONFLICT):  # gone, or another one of that name
            return False
        _check(status, body)
        return True

    def _request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        status, text = self._send(method, path, query or {}, body)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ClusterUnavailable(f"something in front of the cluster answers {status} with no JSON") from error
        if status >= 500 or status in _BUSY:
            raise ClusterUnavailable(f"the cluster answers {status} to {method}: {_message(answer)}")
        return status, answer if isinstance(answer, dict) else {}

    def _send(self, method: str, path: str, query: Mapping[str, Any], body: Any) -> tuple[int, bytes]:
        answer = self._open(method, path, query, body)
        return int(answer.status), _read(answer)

    def _open(
        self, method: str, path: str, query: Mapping[str, Any], body: Any, *, silence_s: float | None = None
    ) -> client.rest.RESTResponse:
        """Send a request and open its answer. The time limit is for all of it or, with `silence_s`, for each pause."""
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            prepared = self._api.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            limit = self._timeout_s if silence_s is None else (self._timeout_s, silence_s)
            answer = self._api.call_api(*prepared, _request_timeout=limit)
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _no_answer(error) from error
        self.clock.note(answer.response.headers.get("Date"))
        return answer


def _read(answer: client.rest.RESTResponse) -> bytes:
    try:
        text: bytes = answer.read()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _no_answer(error) from error
    return text


def _no_answer(error: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(f"the cluster does not answer ({type(error).__name__}): {error}")


def _message(body: Any) -> str:
    return str(body.get("message") or body) if isinstance(body, Mapping) else str(body)[:200]


def _check(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status >= 400:
        raise ClusterUnavailable(f"the cluster refuses us ({status}): {_message(body)}")
    return body


def _raise_for_create(status: int, body: dict[str, Any]) -> None:
    message = _message(body)
    if "denied" in message and status != _UNAUTHORIZED:  # admission webhooks and policies choose their own status
        raise Refused(message, denied=True)
    if status in (_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT):
        _check(status, body)
    raise Refused(message, denied=False)
