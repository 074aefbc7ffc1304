"""Training scenes: the same from a seed, true captions, combinations held out."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from training import data
from training.paint import painted
from training.scenes import LANDS, PLACES, caption, drawn, drawn_held_out, held_out, twin


def test_a_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first = painted(drawn(3), 64, 48)
    assert first.shape == (48, 64, 3)
    assert np.array_equal(first, painted(drawn(3), 64, 48))
    assert not np.array_equal(first, painted(drawn(4), 64, 48))


@pytest.mark.parametrize("land", LANDS)
def test_every_land_is_painted_at_every_shape(land: str) -> None:
    scene = next(scene for scene in map(drawn, range(200)) if scene.land == land)
    for width, height in ((64, 64), (96, 48), (48, 96)):
        picture = painted(scene, width, height)
        assert picture.shape == (height, width, 3)
        assert picture.std() > 10


def test_training_never_shows_a_combination_that_is_held_out() -> None:
    assert not any(held_out(drawn(seed)) for seed in range(400))
    assert all(held_out(drawn_held_out(seed)) for seed in range(40))


def test_twins_are_one_scene_with_the_light_on_the_left_and_on_the_right_and_never_held_out() -> None:
    for number in range(0, 120, 2):
        left, right = twin(number), twin(number + 1)
        assert left.light is not None
        assert right.light is not None
        assert (left.light.place, right.light.place) == (0, 2)
        assert replace(left, light=None) == replace(right, light=None)
        assert not held_out(left)
        assert not held_out(right)


def test_captions_name_only_what_is_there() -> None:
    for seed in range(300):
        scene, text = drawn(seed), caption(drawn(seed), Random(seed))
        things = {
            "tree": scene.trees,
            "pine": scene.trees,
            "boat": scene.boats,
            "cloud": scene.clouds,
            "lighthouse": scene.lighthouse is not None,
            "roof": scene.house is not None,
            "stars": scene.stars,
            "snowy": scene.snow,
            "meadow": scene.front == "meadow",
        }
        for word, there in things.items():
            assert there or word not in text, text
        if scene.light is None:
            assert "moon" not in text
            assert "a sun" not in text
        for place in PLACES:
            holders = [
                scene.light and scene.light.place,
                scene.house,
                scene.lighthouse,
                scene.boat_place if scene.boats == 1 else None,
            ]
            assert place not in text or PLACES.index(place) in holders, text


def test_sizes_have_the_longer_side_asked_for_and_halve_twice_as_latents() -> None:
    for longer in (128, 256):
        assert {max(size) for size in data.sizes(longer)} == {longer}
        assert all(side % 32 == 0 for size in data.sizes(longer) for side in size)
        assert {width > height for width, height in data.sizes(longer)} == {True, False}
