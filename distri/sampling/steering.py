"""The control networks of images: read when an image names them, and what they see in each pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distri.layers.controlnet import Shown
from distri.layers.unet import SplitUNet
from distri.model.control.controlnets import ControlNet, load_controlnet
from distri.model.image import ControlPicture
from distri.model.passes.stages import Stage
from distri.ranks import p2p
from distri.ranks.errors import BadControlNet, BadImage, Unsplittable
from distri.ranks.mesh import Mesh
from distri.sampling.denoising import PassControl
from distri.sampling.pixels import placed

MOST_KEPT = 3  # of SDXL one takes 2.5 GB in half precision


class ControlNets:
    """The control networks that are in memory. All ranks of a replica use them together, with equal arguments.

    Args:
        unet: the model's, split; it gets the networks.
        mesh: whose ranks must agree that all of them can read a file.
    """

    def __init__(self, unet: SplitUNet, mesh: Mesh) -> None:
        self._unet, self._mesh = unet, mesh
        self._kept: dict[ControlNet, None] = {}  # the last one was asked for last

    def holds(self, control: Sequence[ControlPicture]) -> bool:
        """Whether all of an image's are there."""
        return all(one.network in self._kept for one in control)

    def load(self, control: Sequence[ControlPicture]) -> None:
        """Read what an image names. Blocks if something is missing, and no image may then be in progress.

        Raises:
            BadImage: shares of the schedule that are none, a network that is named twice, a mode that it has not.
            BadControlNet: on all ranks.
        """
        check(control)
        wanted = list(dict.fromkeys(one.network for one in control))
        for network in wanted:
            if network in self._kept:
                self._kept[network] = self._kept.pop(network)
        missing = [network for network in wanted if network not in self._kept]
        if not missing:
            self._check_modes(control)
            return
        surplus = [network for network in self._kept if network not in wanted]
        for network in surplus[: max(0, len(self._kept) + len(missing) - MOST_KEPT)]:
            self._remove(network)
        problem: BadControlNet | None = None
        try:
            for network in missing:
                self._read(network)
        except BadControlNet as error:
            problem = error
        if p2p.all_agree(self._mesh, self._mesh.replica, problem is None):
            self._check_modes(control)
            return
        for network in missing:
            if network in self._kept:
                self._remove(network)
        raise problem or BadControlNet("a ControlNet", "another rank cannot use it")

    def of_pass(
        self, control: Sequence[ControlPicture], size: tuple[int, int], stage: Stage, crop: tuple[int, int]
    ) -> tuple[PassControl, ...]:
        """What steers a pass; no communication.

        Args:
            control: of the image.
            size: width and height of the image on the canvas.
            stage: the pass, whose size is the canvas'.
            crop: left and top of the image on it.
        """
        found = []
        for name, group in _by_network(control).items():
            shown = [self._shown(one, size, stage, crop) for one in group]
            first = group[0]
            scale = first.scale if len(group) == 1 else 1.0  # several are scaled where the network sees them
            found.append(PassControl(name, self._unet.controlnet(name).embed(shown), scale, first.start, first.end))
        return tuple(found)

    def _shown(self, one: ControlPicture, size: tuple[int, int], stage: Stage, crop: tuple[int, int]) -> Shown:
        if one.pixels is None:
            raise BadImage("a picture of its control was not read")
        levels_HW3 = torch.from_numpy(one.pixels).to(self._mesh.device)
        picture_13HW = placed(levels_HW3.permute(2, 0, 1)[None].float() / 127.5 - 1, one.fit, size, stage, crop)
        return Shown((picture_13HW + 1) / 2, one.scale, one.mode)

    def _check_modes(self, control: Sequence[ControlPicture]) -> None:
        """Refuse a kind of picture that its network does not know, equally on all ranks."""
        for one in control:
            modes, name = self._unet.controlnet(one.network.name).modes, one.network.path.name
            if modes is None and one.mode is not None:
                raise BadImage(f"mode {one.mode} for {name}, which is no ControlNet-Union")
            if modes is not None and not (one.mode is not None and 0 <= one.mode < modes):
                raise BadImage(f"mode {one.mode} for the ControlNet-Union {name}; 0 to {modes - 1} wanted")

    def _read(self, network: ControlNet) -> None:
        try:
            self._unet.add_controlnet(network.name, load_controlnet(network, self._unet.unet))
        except Unsplittable as error:
            raise BadControlNet(network.path.name, str(error)) from error
        self._kept[network] = None

    def _remove(self, network: ControlNet) -> None:
        self._unet.remove_controlnet(network.name)
        del self._kept[network]


def check(control: Sequence[ControlPicture]) -> None:
    """Refuse what no pass can be steered by. Raises BadImage."""
    for one in control:
        if not 0 <= one.start < one.end <= 1:
            raise BadImage(
                f"control from {one.start:g} to {one.end:g}: two rising shares of the schedule wanted, 0 to 1"
            )
    for group in _by_network(control).values():
        first, modes = group[0], [one.mode for one in group]
        name = first.network.path.name
        if len(group) > 1 and (None in modes or len(set(modes)) < len(modes)):
            raise BadImage(f"ControlNet {name} steers the image twice; one picture for each, or for each mode, wanted")
        if any((one.start, one.end) != (first.start, first.end) for one in group):
            raise BadImage(f"several pictures for {name} steer at different times; one start and one end wanted")


def _by_network(control: Sequence[ControlPicture]) -> dict[str, list[ControlPicture]]:
    """Pictures by the name of the network that they are for, each in its order."""
    found: dict[str, list[ControlPicture]] = {}
    for one in control:
        found.setdefault(one.network.name, []).append(one)
    return found
