"""What the Job that copies weights waits for is said in the cluster's words, as of an attempt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from k8s.events import Events
from k8s.warm_up import WarmUp
from pipeline.deployment.settings import ModelSource
from tests.k8s.replay import replayed

RECORDED = Path(__file__).parent / "recorded"
MODELS = {"sdxl": ModelSource(path="/models/sdxl", revision="1")}


def _reason(moment: str, **job_spec: Any) -> str:
    folder = RECORDED / moment
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("job", "pods", "events")}
    found["job"]["spec"] |= job_spec

    def answer(_method: str, path: str) -> tuple[int, Any]:
        kind = urlsplit(path).path.split("/")
        return 200, found["job"] if kind[-2] == "jobs" else found[kind[-1]]

    with replayed(answer) as replay:
        name = found["job"]["metadata"]["name"]
        return WarmUp(replay.cluster, Events(replay.cluster), name, MODELS).awaits(["sdxl"]) or ""


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("image-pull-back-off/3-back-off", "is about to copy them: ImagePullBackOff: .*no such host"),
        ("secret-missing/2-waiting", 'is about to copy them: CreateContainerConfigError: secret "storage" not found'),
        ("pvc-missing/1-pending", 'is about to copy them: .*persistentvolumeclaim "absent" not found'),
        ("quota-exceeded/2-refused", "is about to copy them: .*exceeded quota"),
        ("pod-security/2-refused", "is about to copy them: .*violates PodSecurity"),
        ("unschedulable/1-pending", "waits for a node: .*Insufficient nvidia.com/gpu"),
        ("succeeded/2-running", "copies and checks them$"),
    ],
)
def test_what_the_job_waits_for_is_said(moment: str, words: str) -> None:
    assert re.search(f"the weights of sdxl are not there yet: Job \\S+ {words}", _reason(moment))


def test_a_job_that_a_queue_holds_back_says_so() -> None:
    assert "its Job is suspended until a queue admits it" in _reason("quota-exceeded/1-created", suspend=True)
