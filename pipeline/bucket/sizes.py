"""How large objects of images are that are there: by lists where many lie near each other, one by one where asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pipeline.bucket.artifacts import Artifacts
from pipeline.records.results import ImageOutcome, ImageResult

# Listing what lies between two images that are further apart costs more than another request does.
NEAR_IMAGES = 16
_LARGEST_PAGE = 1000


def listed_sizes(artifacts: Artifacts, keys: Mapping[int, str]) -> dict[str, int]:
    """The sizes in bytes of those of these objects that a list shows; `keys` are by the images' indices.

    A list may be late: what it does not show may be there all the same.
    """
    sizes: dict[str, int] = {}
    for run in _runs(keys):
        if len(run) == 1:
            [key] = run
            if (found := artifacts.head(key)) is not None:
                sizes[key] = found.size_bytes
        else:
            # Of each image the folder holds a file and a sidecar.
            sizes |= artifacts.sizes_between(run[0], run[-1], page=min(_LARGEST_PAGE, 2 * len(run) + NEAR_IMAGES))
    return sizes


def sizes_there(artifacts: Artifacts, keys: Mapping[int, str]) -> dict[str, int]:
    """The sizes in bytes of those of these objects that are there: what a list does not show is asked for by its key.

    For objects that are expected to be there: each that is not costs a request.
    """
    sizes = listed_sizes(artifacts, keys)
    for key in keys.values():
        if key not in sizes and (found := artifacts.head(key)) is not None:
            sizes[key] = found.size_bytes
    return sizes


def pictures_gone(artifacts: Artifacts, outcomes: Iterable[ImageOutcome]) -> list[str]:
    """Keys of pictures that are not there, or not as large as they were committed; a list alone is not believed."""
    results = {one.index: one for one in outcomes if isinstance(one, ImageResult)}
    sizes = sizes_there(artifacts, {index: one.key for index, one in results.items()})
    return [one.key for one in results.values() if sizes.get(one.key) != one.size_bytes]


def _runs(keys: Mapping[int, str]) -> Iterator[list[str]]:
    """Keys of images that lie near each other, in order: each run is worth one question."""
    run: list[str] = []
    last = 0
    for index in sorted(keys):
        same_folder = run and run[-1].rpartition("/")[0] == keys[index].rpartition("/")[0]
        if run and (not same_folder or index - last > NEAR_IMAGES):
            yield run
            run = []
        run.append(keys[index])
        last = index
    if run:
        yield run
