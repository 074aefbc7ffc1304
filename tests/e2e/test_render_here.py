"""`tessera render` where no stack runs: the stack's own picture, without the stack."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
from PIL import Image

from pipeline.bucket.imagefile import record_in
from tests.e2e.stack import User, until


def _ranks(user: User) -> set[int]:
    """The two ranks; a child that one has just forked has its command line until it is another program."""
    return set(until("two ranks run", lambda: _two(user)))


def _two(user: User) -> set[int] | None:
    found = user.processes().items()
    ranks = {pid for pid, command in found if command.endswith("-m distri.run ") and "embedded.ranks" not in command}
    return ranks if len(ranks) == 2 else None


def test_a_picture_is_the_one_that_the_stack_makes_and_the_second_needs_no_load(user: User) -> None:
    options = ("a stone tower", "--size", "136x128", "--steps", "6", "--seed", "42", "--scheduler", "Euler a")
    first = user.run("render", *options)
    assert (first.returncode, first.stdout) == (0, "renders/a-stone-tower-42.png\n"), first.stderr
    assert "no stack runs: loading the model here, and keeping it for 300 s without work" in first.stderr
    ranks = _ranks(user)
    path = user.folder / "renders" / "a-stone-tower-42.png"
    begun = user.json("render", "a hill", "--image", path, "--strength", "0.5", "--steps", "4", "-o", "begun.png")
    assert begun["batch"] is None
    with Image.open(user.folder / "begun.png") as image:
        assert image.size == (136, 128)
        assert "Denoising strength: 0.5" in image.info["parameters"]
    assert ranks == _ranks(user)

    refused = user.run("render", "a hill", "--model", "nope")
    assert refused.returncode == 2
    assert "nope" in refused.stderr
    assert user.run("up").returncode == 0
    assert not ranks & user.processes().keys(), "its memory is the stack's now"
    through = user.run("render", *options, "-o", "through.png")
    assert through.returncode == 0, through.stderr
    files = [path.read_bytes(), (user.folder / "through.png").read_bytes()]
    records = [record_in(body) for body in files]
    assert records[0] is not None
    assert records[1] is not None
    ours, theirs = (one.model_dump(exclude={"key", "thumbnail", "seconds"}) for one in records if one is not None)
    assert ours == theirs
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(user.folder / "through.png")))


def test_an_interrupted_render_leaves_no_process(user: User) -> None:
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *user.command("render", "a hill", "--steps", "500")],
        cwd=user.folder,
        env=user.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _ranks(user)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=600)[1].splitlines()[-1] == "interrupted"
    assert process.returncode == 130
    until("every process is gone", lambda: not user.processes(), 60)
