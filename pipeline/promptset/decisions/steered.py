"""What steers a row, decided: control networks and IP-Adapters on the allow-lists, and the shapes of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.checkpoints.control_files import ControlFile
from pipeline.deployment.allow_lists import Names
from pipeline.deployment.allowed import AllowedFile
from pipeline.deployment.announcement import Deployment
from pipeline.input_picture import AdapterReference, Control, ControlKind, Fit, InputMask, InputPicture
from pipeline.picture import Cascade
from pipeline.promptset.decisions.begins import of_one_shape
from pipeline.promptset.fields.control import MAX_CONTROLS, MODES, WantedControl
from pipeline.promptset.fields.reference import MAX_REFERENCES, WantedReference


def decided_control(
    wanted: Sequence[WantedControl],
    pictures: Sequence[InputPicture],
    size: tuple[int, int],
    *,
    deployment: Deployment,
    model: str,
    cascade: Cascade | None = None,
) -> tuple[Control, ...]:
    """The control of a resolved row.

    Args:
        wanted: what the row names.
        pictures: what their images are, in their order.
        size: width and height in which it is rendered.
        deployment: whose allow-list holds.
        model: of the row.
        cascade: of the row, if it has one; nothing steers it.

    Raises ValueError with (field, message).
    """
    if not wanted:
        return ()
    if not deployment.control:
        raise ValueError("control", f"found, which the deployment's version {deployment.version} does not read")
    if cascade is not None:
        raise ValueError("control", "found beside a cascade, which nothing steers; highres direct or refine wanted")
    if len(wanted) > MAX_CONTROLS:
        raise ValueError("control", f"{len(wanted)} networks found; at most {MAX_CONTROLS} wanted")
    found: list[Control] = []
    for number, (one, picture) in enumerate(zip(wanted, pictures, strict=True)):
        where = f"control.{number}"
        listed = deployment.controlnets, deployment.controlnet_names
        name = _listed(one.model, *listed, f"{where}.model", model, other="network")
        _check_mode(one.mode, deployment.controlnets[name].file, name, where)
        _check_again(one, [other for other in found if other.model == name], where)
        if one.fit is None and not of_one_shape(picture, *size):
            raise ValueError(
                f"{where}.fit",
                f"its image has {picture.width}x{picture.height} pixels, and the picture shall have "
                f"{size[0]}x{size[1]}: fill (cut off what is left over), fit (continue the border) or stretch wanted",
            )
        known = deployment.controlnets[name].file
        found.append(
            Control(
                model=name,
                image=picture,
                preprocess=one.preprocess,
                fit=one.fit or Fit.FILL,
                scale=one.scale,
                start=one.start,
                end=one.end,
                kind=ControlKind.CONTROLNET if known is None else known.kind,
                mode=one.mode,
            )
        )
    return tuple(found)


def _check_mode(mode: int | None, file: ControlFile | None, name: str, where: str) -> None:
    """Refuse a kind of picture that a network does not know, where it is known what it is."""
    if file is None:
        return
    if file.modes is None:
        if mode is not None:
            raise ValueError(f"{where}.mode", f"{mode} found, and {name[:80]!r} is no ControlNet-Union; none wanted")
        return
    wanted = ", ".join(f"{known} ({number})" for known, number in MODES.items() if number < file.modes)
    if mode is None:
        raise ValueError(
            f"{where}.mode", f"none found, and {name[:80]!r} is a ControlNet-Union; one wanted of {wanted}"
        )
    if mode >= file.modes:
        raise ValueError(f"{where}.mode", f"{mode} found; {name[:80]!r} knows {wanted}")


def _check_again(one: WantedControl, others: Sequence[Control], where: str) -> None:
    """Refuse a second picture for a network, but for a ControlNet-Union as another mode, at the same times."""
    for other in others:
        name = repr(other.model[:80])
        if None in (one.mode, other.mode) or one.mode == other.mode:
            raise ValueError(f"{where}.model", f"{name} is there twice; one picture for each network, or mode, wanted")
        if (one.start, one.end) != (other.start, other.end):
            times = f"{one.start:g} to {one.end:g} found beside {other.start:g} to {other.end:g}"
            raise ValueError(f"{where}.start", f"{times} of another picture for {name}; equal ones wanted")


def decided_references(
    wanted: Sequence[WantedReference],
    pictures: Sequence[tuple[InputPicture, InputMask | None]],
    size: tuple[int, int],
    *,
    deployment: Deployment,
    model: str,
) -> tuple[AdapterReference, ...]:
    """What a resolved row resembles.

    Args:
        wanted: what the row names.
        pictures: what their images and masks are, in their order.
        size: width and height in which it is rendered, which masks have.
        deployment: whose allow-list holds.
        model: of the row.

    Raises ValueError with (field, message).
    """
    if not wanted:
        return ()
    if not deployment.references:
        raise ValueError("reference", f"found, which the deployment's version {deployment.version} does not read")
    if len(wanted) > MAX_REFERENCES:
        raise ValueError("reference", f"{len(wanted)} pictures found; at most {MAX_REFERENCES} wanted")
    found = []
    for number, (one, (picture, mask)) in enumerate(zip(wanted, pictures, strict=True)):
        where, listed = f"reference.{number}", (deployment.ip_adapters, deployment.ip_adapter_names)
        name = _listed(one.adapter, *listed, f"{where}.adapter", model, other="IP-Adapter")
        if mask is not None and (mask.width, mask.height) != size:
            raise ValueError(
                f"{where}.mask",
                f"{mask.width}x{mask.height} pixels found, and the picture shall have {size[0]}x{size[1]}; equal sizes "
                "wanted",
            )
        found.append(AdapterReference(adapter=name, image=picture, scale=one.scale, mask=mask))
    return tuple(found)


def _listed(wanted: str, files: Mapping[str, AllowedFile], names: Names, field: str, model: str, *, other: str) -> str:
    """The id of a file on an allow-list that fits the row's model. Raises ValueError with (field, message)."""
    name = wanted if wanted in files else names.find(wanted)
    if name is None:
        raise ValueError(field, f"{wanted[:80]!r} is not on the allow-list; {names.nearest(wanted)}")
    if (refusal := files[name].refusal) is not None:
        raise ValueError(field, f"{name[:80]!r} {refusal}; another {other} wanted")
    if not files[name].fits(model):
        made_for = ", ".join(files[name].models)
        raise ValueError(field, f"{name[:80]!r} is for {made_for}; the row's model is {model!r}")
    return name
