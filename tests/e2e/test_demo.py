"""`tessera demo`: from nothing to pictures, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.e2e.stack import EXAMPLES, User, until

STEPS = 6


def _gallery(stdout: str) -> Path:
    return Path(stdout.strip().rpartition("look at them: ")[2])


def test_demo_renders_every_example_row_and_leaves_no_process(newcomer: User) -> None:
    """In fewer steps than the examples have: enough to see a scene."""
    examples = [json.loads(line) | {"steps": STEPS} for line in EXAMPLES.read_text().splitlines()]
    done = newcomer.run("demo", newcomer.manifest("prompts.jsonl", *examples))
    assert done.returncode == 0, done.stderr
    page = _gallery(done.stdout)
    root = page.parent.parent
    results = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    rows = examples
    assert [r["custom_id"] for r in results] == [r["custom_id"] for r in rows for _ in range(r.get("num_images", 1))]
    for result in results:
        row = next(row for row in rows if row["custom_id"] == result["custom_id"])
        path = root / "images" / "00000" / f"{result['image_id']}.png"
        with Image.open(path) as image:
            assert image.size == (row["width"], row["height"])
            spread = np.ptp(np.asarray(image.convert("RGB")), axis=(0, 1))
            assert spread.min() > 50, "the picture is nearly of one colour"
            assert json.loads(image.info["tessera"])["seed"] == result["seed"]
            assert image.info["parameters"].startswith(row["prompt"])
        assert path.name in page.read_text()
    pair = [r for r in results if r["custom_id"] == "moon-pair"]
    assert pair[1]["seed"] == pair[0]["seed"] + 1
    assert pair[1]["sha256"] != pair[0]["sha256"]
    assert next(r for r in results if r["custom_id"] == "sunset-seed")["seed"] == 20402
    assert {r["provenance"]["layout"] for r in results} == {"1x1x2"}
    assert not any(r["provenance"]["exact"] for r in results)
    assert (root / "errors.jsonl").read_text() == ""
    logs = b"".join(path.read_bytes() for path in (newcomer.data_dir / "logs").rglob("*.log"))
    secrets = json.loads((newcomer.data_dir / "services.json").read_text())
    hidden = [row["prompt"] for row in rows] + [v for k, v in secrets.items() if "secret" in k or "password" in k]
    assert len(hidden) > len(rows)
    assert not [text for text in hidden if text.encode() in logs], "prompts and credentials stay out of the logs"
    (line,) = {line for line in logs.splitlines() if b'"image committed"' in line and b'"0000000-000"' in line}
    assert {"batch", "job", "attempt", "image", "rank"} <= json.loads(line).keys()
    until("every process of the demo is gone", lambda: not newcomer.processes(), 60)


def test_killed_demo_leaves_no_process_and_the_next_finishes_its_work(user: User) -> None:
    # One image quickly, and then two that are still being rendered however late the test looks.
    rows = [{"prompt": f"a hill {i}", "width": 256, "height": 256, "steps": 80 if i else 8} for i in range(3)]
    first = user.start("demo", user.manifest("slow.jsonl", *rows))
    assert first.stderr is not None
    line = next(line for line in first.stderr if re.search(r" [12]/3 images", line))
    name = line.split()[0]
    ranks = [command for command in user.processes().values() if "distri.run" in command]
    assert len(ranks) >= 3, "torchrun and two ranks were rendering"
    first.kill()
    first.wait()
    until("every process of the killed demo is gone", lambda: not user.processes(), 60)

    tiny = user.manifest("tiny.jsonl", {"prompt": "a hill", "width": 128, "height": 128, "steps": 2})
    assert user.run("up").returncode == 0
    assert user.run("demo", tiny).returncode == 0, "a demo uses the stack that is up"
    assert user.run("watch", name, "--timeout", "600").returncode == 0
    status = user.json("status", name)
    assert (status["state"], status["images"]["succeeded"]) == ("completed", 3)


def test_demo_tied_to_its_parent_dies_with_it(user: User) -> None:
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *user.command("demo", "--with-parent", EXAMPLES)],
        cwd=user.folder,
        env=user.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until("the demo's node runs", lambda: any("embedded.node" in c for c in user.processes().values()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until("every process is gone", lambda: not user.processes(), 60)


def test_interrupted_demo_stops_in_order(user: User) -> None:
    # Whoever starts these tests in the background of a shell has SIGINT ignored, and children inherit that.
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", heeding, *user.command("demo", EXAMPLES)],
        cwd=user.folder,
        env=user.environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    stderr = demo.stderr
    assert stderr is not None
    until("it has begun", lambda: "in_progress" in stderr.readline())
    demo.send_signal(signal.SIGINT)
    said = stderr.read()
    assert demo.wait(60) == 130
    assert "interrupted: ending the local stack; what is rendered stays in" in said
    until("every process is gone", lambda: not user.processes(), 60)
