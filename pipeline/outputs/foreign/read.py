"""A file of another program as a picture: which program's form it is, or which it is that is not read."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.outputs.foreign import a1111, comfyui, fooocus, invokeai, novelai
from pipeline.outputs.foreign.found import ForeignPicture, NotCarriedOver
from pipeline.outputs.foreign.texts import UnreadableTexts, texts_in

# ComfyUI's own text goes before one that a node wrote in A1111's form; where its graph is not plain, that one is read.
_READERS = (invokeai.read, fooocus.read, novelai.read)
_OTHERS: Mapping[str, str] = {
    "sui_image_params": "SwarmUI",
    "DrawThings": "Draw Things",
    "use_upscale": "Easy Diffusion",
}


def foreign_picture(body: bytes) -> ForeignPicture | None:
    """The picture that a file describes in another program's words; None if it describes none.

    Raises NotCarriedOver if it does and no row can say it, or the file's texts cannot be read.
    """
    try:
        texts = texts_in(body)
    except UnreadableTexts as error:
        raise NotCarriedOver(str(error)) from error
    for read in _READERS:
        if (found := read(texts)) is not None:
            return found
    try:
        graph = comfyui.read(texts)
    except NotCarriedOver as error:
        if (found := a1111.read(texts)) is None:
            raise
        return ForeignPicture(found.program, found.row, (*found.left_out, f"ComfyUI's graph: {error}"), found.model)
    if (found := graph or a1111.read(texts)) is not None:
        return found
    for mark, program in _OTHERS.items():
        if any(mark in text for text in texts.values()):
            raise NotCarriedOver(f"it is {program}'s, whose metadata are not read")
    return None
