"""The pictures that a row names, read: what it begins with, its mask, what steers it, what it shall resemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.deployment.announcement import Deployment
from pipeline.input_picture import InputMask, InputPicture
from pipeline.inputs.gathered import Gathered, InputPictures
from pipeline.promptset.decisions.begins import OF_IMAGE, OF_NOTHING, Begun, MadeOf
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.fields.shorthand import shortened

_MOST_CUT = 1.1  # longer side through shorter one: a picture that is read as a square loses a tenth


@dataclass
class NamedPictures:
    """Those of one row, over what holds for all rows.

    Attributes:
        notes: what the user should know of them, each with its field.
    """

    row: Row
    defaults: Options
    deployment: Deployment
    inputs: InputPictures
    notes: list[tuple[str, str]] = field(default_factory=list)

    def read(self) -> MadeOf:
        """All of them. Raises ValueError with (field, message)."""
        begun, steering, resembled = self._begun(), self._steering(), self._resembled()
        return MadeOf(begun, steering, resembled) if begun or steering or resembled else OF_NOTHING

    def _begun(self) -> Begun | None:
        """What the row begins with."""
        said, of_all = self.row.model_fields_set, self.defaults.model_fields_set
        image = self.row.image if "image" in said else self.defaults.image
        if image is None:
            for name in sorted(of_all.intersection(OF_IMAGE)) if of_all else ():
                self.notes.append((name, "given for all rows, and without effect: it has no image"))
            return None
        mask, canvas = (getattr(self.row if one in said else self.defaults, one) for one in ("mask", "canvas"))
        if not self.deployment.images_in:
            version = self.deployment.version
            raise ValueError("image", f"found; the deployment's version {version} begins with noise alone")
        try:
            gathered = self.inputs.take(image, mask, canvas)
        except ValueError as error:
            name, message = error.args
            where = {"image": f"{shortened(image)}: ", "mask": f"{shortened(mask)}: "}.get(name, "")
            raise ValueError(name, where + message) from error
        self.notes += gathered.notes
        return Begun(gathered.picture, gathered.mask)

    def _steering(self) -> tuple[InputPicture, ...]:
        """What its control steers by, network by network; none where the deployment reads no control."""
        wanted = (self.row if "control" in self.row.model_fields_set else self.defaults).control
        if not (wanted and self.deployment.control):
            return ()
        taken = [self._taken(f"control.{number}.image", one.image) for number, one in enumerate(wanted)]
        return tuple(gathered.picture for gathered in taken)

    def _resembled(self) -> tuple[tuple[InputPicture, InputMask | None], ...]:
        """What it shall resemble, each with its mask; none where the deployment reads no references."""
        wanted = (self.row if "reference" in self.row.model_fields_set else self.defaults).reference
        if not (wanted and self.deployment.references):
            return ()
        found = []
        for number, one in enumerate(wanted):
            name = f"reference.{number}.image"
            picture, mask = self._taken(name, one.image).picture, None
            if max(picture.width, picture.height) > _MOST_CUT * min(picture.width, picture.height):
                self.notes.append((name, "no square, so what lies beyond its middle square is not looked at"))
            if one.mask is not None:
                mask = self._taken(f"reference.{number}.mask", one.mask, self.inputs.take_mask).mask
            found.append((picture, mask))
        return tuple(found)

    def _taken(self, name: str, text: str, take: Callable[[str], Gathered] | None = None) -> Gathered:
        """A picture by itself, under the name of its field."""
        try:
            gathered = (take or self.inputs.take)(text)
        except ValueError as error:
            raise ValueError(name, f"{shortened(text)}: {error.args[1]}") from error
        self.notes += [(name, note) for _, note in gathered.notes]
        return gathered
