"""What a real API server answered when something was wrong, and which error of ours each answer becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster import AlreadyThere, Cluster, ClusterUnavailable, Refused
from pipeline.errors import ServiceError, SettingsError
from tests.k8s.replay import replayed

ERRORS = Path(__file__).parent / "recorded" / "api-errors"

Act = Callable[[Cluster], Any]


def _create(cluster: Cluster) -> None:
    cluster.create_job({"kind": "Job"})


def _recorded(name: str) -> tuple[int, Any]:
    found = json.loads((ERRORS / f"{name}.json").read_text())
    return found["status"], found["body"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("400-not-json-of-a-job", Refused),
        ("400-unknown-field", Refused),
        ("401-unauthorized", ClusterUnavailable),
        ("403-forbidden", ClusterUnavailable),
        ("403-namespace-terminating", ClusterUnavailable),
        ("403-quota-exceeded-pod", ClusterUnavailable),
        ("404-namespace-not-found", ClusterUnavailable),
        ("409-already-exists", AlreadyThere),
        ("409-conflict", ClusterUnavailable),
        ("422-immutable-template", Refused),
        ("422-invalid", Refused),
        ("422-name-too-long", Refused),
        ("429-eviction-refused-by-budget", ClusterUnavailable),
    ],
)
def test_an_answer_to_a_create(name: str, error: type[Exception]) -> None:
    status, body = _recorded(name)
    with replayed(lambda _method, _path: (status, body)) as replay:
        with pytest.raises(error) as raised:
            _create(replay.cluster)
        assert body["message"] in str(raised.value)
        assert len(replay.asked) == 1
        if isinstance(raised.value, Refused):
            assert raised.value.denied is False


def test_a_policys_no_is_told_apart_from_a_mistake() -> None:
    message = 'admission webhook "policy.example" denied the request: image is not signed'
    body = {"kind": "Status", "message": message, "reason": "Forbidden", "code": 403}
    with replayed(lambda _method, _path: (403, body)) as replay, pytest.raises(Refused, match="not signed") as raised:
        _create(replay.cluster)
    assert raised.value.denied is True


@pytest.mark.parametrize("name", ["401-unauthorized", "403-forbidden", "404-namespace-not-found"])
def test_a_list_that_is_refused_is_never_an_empty_one(name: str) -> None:
    with replayed(lambda _method, _path: _recorded(name)) as replay:
        for look in (replay.cluster.jobs, replay.cluster.pods):
            with pytest.raises(ServiceError):
                look("a=b")


def test_what_is_not_there_is_none() -> None:
    with replayed(lambda _method, _path: _recorded("404-job-not-found")) as replay:
        assert replay.cluster.job("render-1") is None
    with replayed(lambda _method, _path: _recorded("404-delete-job-not-found")) as replay:
        assert replay.cluster.delete_job("render-1") is False
    with replayed(lambda _method, _path: _recorded("400-log-of-absent-container")) as replay:
        assert replay.cluster.log_tail("render-1-abcde", "render") is None


def test_a_job_is_deleted_with_its_pod_in_the_background() -> None:
    recorded = json.loads((ERRORS.parent / "deleted-background" / "delete-reply.json").read_text())
    with replayed(lambda _method, _path: (200, recorded)) as replay:
        assert replay.cluster.delete_job("render-1") is True
    ((method, path, body),) = replay.asked
    assert (method, path) == ("DELETE", "/apis/batch/v1/namespaces/render/jobs/render-1")
    assert body["propagationPolicy"] == "Background"


def test_a_list_whose_version_was_compacted_away_begins_anew() -> None:
    pages = iter(
        [
            (200, {"items": [{"n": 1}], "metadata": {"continue": "next"}}),
            _recorded("410-continue-expired"),
            (200, {"items": [{"n": 2}], "metadata": {"continue": "next"}}),
            (200, {"items": [{"n": 3}], "metadata": {}}),
        ]
    )
    with replayed(lambda _method, _path: next(pages)) as replay:
        assert replay.cluster.jobs("a=b") == [{"n": 2}, {"n": 3}]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_an_outage_whatever_it_says(status: int) -> None:
    for body in ({"message": "busy"}, b"<html>bad gateway</html>"):
        with replayed(lambda _method, _path, body=body: (status, body)) as replay:  # type: ignore[misc]
            for act in (_create, lambda cluster: cluster.job("a"), lambda cluster: cluster.delete_job("a")):
                with pytest.raises(ClusterUnavailable):
                    act(replay.cluster)


def test_a_page_of_somebody_else_is_an_outage() -> None:
    with (
        replayed(lambda _method, _path: (200, b"<html>please log in</html>")) as replay,
        pytest.raises(ClusterUnavailable, match="no JSON"),
    ):
        replay.cluster.jobs("a=b")


def test_a_server_that_is_away_is_an_outage() -> None:
    with replayed(lambda _method, _path: (200, {})) as replay:
        pass
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        replay.cluster.jobs("a=b")


def test_without_a_cluster_to_be_found_the_settings_are_to_blame(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="KUBECONFIG"):
        Cluster.connect(None, 5)
