"""Images that arrive one after the other while others are rendered."""

import random

from distri.model.image import ImageSpec, Rendered
from distri.slots.renders import Renders


def rendered_as_they_arrive(
    renders: Renders, arrivals: dict[str, ImageSpec], random_: random.Random
) -> dict[str, Rendered]:
    """All images, each joined at some time after the table admits it."""
    left = list(arrivals.items())
    found: dict[str, Rendered] = {}
    while left or renders.count:
        while left and renders.admits(left[0][1]) and (not renders.count or random_.random() < 0.7):
            name, image = left.pop(0)
            renders.join(image, name)
        found |= {one.name: one.rendered for one in renders.advance(random_.choice((1, 2, None)))}
    return found
