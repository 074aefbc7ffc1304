"""Reading traits: right on our own renderer's pictures, wrong where a picture shows something else."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from distri import demo_model
from training import adherence
from training.adherence import Traits
from training.lights import light, lights
from training.paint import painted


def test_prompts_name_all_traits() -> None:
    for scene in adherence.held_out(30):
        text, traits = adherence.prompt(scene), adherence.wanted(scene)
        assert all(
            word in text
            for word in (traits.sky, traits.light_place, traits.light_colour, traits.land, traits.land_colour)
        )


def test_readings_follow_the_picture_and_not_the_prompt() -> None:
    scenes = adherence.held_out(24)
    reader = adherence.Reader(128, 128, known=300)
    found = [reader.read(painted(scene, 128, 128)) for scene in scenes]
    named = [adherence.wanted(scene) for scene in scenes]
    right = adherence.scored(found, named)
    assert right["all"] >= 0.9
    assert adherence.scored(found, [*named[1:], named[0]])["all"] < 0.1


def test_a_score_counts_traits_alone_and_together() -> None:
    named = Traits("blue", "on the left", "red", "sea", "green")
    other = Traits("blue", "on the left", "red", "hills", "green")
    assert adherence.scored([named, other], [named, named]) == {
        "sky": 1.0, "light_place": 1.0, "light_colour": 1.0, "land": 0.5, "land_colour": 1.0, "all": 0.5,
    }  # fmt: skip


def test_a_random_model_is_measured_and_does_not_paint_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = demo_model.write(tmp_path / "model")
    options = ["--prompts", "6", "--side", "128", "--steps", "2", "--known", "200"]
    monkeypatch.setattr(sys, "argv", ["adherence", str(model), *options])
    adherence.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["renderer"]["all"] > figures["model"]["all"]


def test_two_suns_are_told_from_one() -> None:
    pictures = [painted(scene, 128, 128) for scene in adherence.held_out(40)]
    assert sum(lights(one) == 1 for one in pictures) >= 37
    at_sides = [one for one in pictures if not 0.3 < light(one).across < 0.7]
    assert len(at_sides) >= 15
    doubled = []
    for one in at_sides:
        sky = one[:64] if light(one).across < 0.5 else one[:64, ::-1]
        doubled.append(np.concatenate([np.hstack([sky[:, :64], sky[:, 63::-1]]), one[64:]]))
    assert sum(lights(one) == 2 for one in doubled) >= len(doubled) - 1
