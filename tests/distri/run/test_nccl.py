"""What NCCL is set to in a pod."""

import re
from pathlib import Path

from distri.ranks.heartbeat import limit_of
from distri.run.nccl import nccl_settings, set_nccl

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_what_the_environment_says_stands() -> None:
    environment = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "PATH": "/bin"}
    set_nccl(environment, 300)
    assert environment["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert environment.keys() == nccl_settings(300).keys() | {"PATH"}


def test_torchs_watchdogs_come_after_our_heartbeat() -> None:
    for timeout_s in (10.0, 300.0, 1000.0):
        assert limit_of(timeout_s) < timeout_s < int(nccl_settings(timeout_s)["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"])


def test_every_setting_is_in_the_docs_with_its_value() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]*NCCL_\w+|TORCH_FR_\w+)` \| `?([^`|]+?)`? \|", (DOCS / "pod.md").read_text(), re.M)
    )
    settings = nccl_settings(0) | {"TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "timeout + 120"}
    assert rows == settings
