"""Between the first and the last evaluation of a pass nothing is read from the device, nor sent to it but by `upload`.

The meta device stands for a GPU: whatever would read a value from it raises, as `item`, `cpu`, `numpy`, `tolist`, a
truth value or a float of a tensor would wait on a GPU. Copies from the host are noticed where torch dispatches them,
and so are operations on arrays of both in one, for which a GPU copies or which it refuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.model.sampling import host_numbers, schedulers
from distri.model.sampling.host_numbers import HostNumbers
from distri.model.sampling.schedulers import SchedulerRecipe, Steps
from distri.ranks import ternary
from distri.ranks.mesh import Layout, Mesh
from distri.ranks.progress import Progress
from distri.sampling.conditions import PassConditions
from distri.sampling.control import Control
from distri.sampling.denoising import Denoising, PassControl, SamplingOptions
from distri.sampling.guidance import Guidance
from distri.sampling.schedule import Phases, Place, Schedule
from distri.slots import table
from distri.slots.slot import Slot
from distri.slots.table import Table, _Row
from tests.distri import networks
from tests.distri.model.test_schedulers import SCHEDULERS

META = torch.device("meta")
MODEL = SchedulerRecipe(
    "EulerDiscreteScheduler", {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
)


# These do not take a number of the host, as arithmetic does.
_ARRAYS = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.stack, torch.ops.aten.cat)


class _NoCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises on a copy from the host to the device that `upload` does not make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uploading = False
        self.uploads = 0

    @contextmanager
    def upload(self) -> Iterator[None]:
        self.uploading, self.uploads = True, self.uploads + 1
        yield
        self.uploading = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        if not self.uploading and any(one.device.type == "meta" for one in given):
            on_host = [
                tuple(one.shape)
                for one in given
                if one.device.type == "cpu" and (one.ndim or func.overloadpacket in _ARRAYS)
            ]
            assert not on_host, f"{func} of the device, from the host: {on_host}"
        return out


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> _NoCopies:
    mode = _NoCopies()

    def upload(tensor: Tensor, device: torch.device) -> Tensor:
        assert tensor.device.type == "cpu"
        with mode.upload():
            return tensor.to(device)

    for module in (host_numbers, schedulers):
        monkeypatch.setattr(module, "upload", upload)
    return mode


def _steps(name: str | None, settings: dict[str, Any], strength: float) -> Steps:
    scheduler = MODEL.make(name, settings, seed=0)
    return Steps(scheduler, 6, torch.Generator().manual_seed(0), META, strength=strength)


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize(
    ("name", "settings"), SCHEDULERS, ids=[f"{name} {' '.join(settings)}" for name, settings in SCHEDULERS]
)
def test_no_scheduler_waits_for_the_device(
    no_copies: _NoCopies, name: str | None, settings: dict[str, Any], strength: float
) -> None:
    walk, latent = _steps(name, settings, strength), torch.zeros(1, 4, 8, 8, device=META)
    latent = walk.begin(None if strength == 1 else latent, latent)
    with torch.inference_mode(), no_copies:
        for timestep in walk.timesteps:
            latent = walk.step(walk.scaled(latent, timestep), timestep, latent)
    assert latent.device == META
    assert latent.shape == (1, 4, 8, 8)


def test_a_pass_of_two_images_waits_for_nothing(no_copies: _NoCopies) -> None:
    mesh = Mesh(Layout(1, 1, 1), META, 0, {}, progress=Progress())
    unet = SplitUNet(networks.unet(torch.float32, layers_per_block=1).to(META))
    shapes = ((1, networks.TEXT_TOKENS, networks.TEXT_WIDTH), (1, networks.POOLED_WIDTH), (1, 6))
    positive, negative = (Conditions(*(torch.empty(shape, device=META) for shape in shapes)) for _ in range(2))
    conditions, guidance = PassConditions.always(positive, negative), Guidance(5.0, rescale=0.5)
    images = Table(unet, mesh, (16, 8), SamplingOptions(Schedule(None)), lambda: Control.GO)
    seen: list[torch.device] = []
    unet.unet.register_forward_pre_hook(lambda _, args: seen.append(args[1].device))
    with torch.inference_mode(), no_copies:
        for _ in range(2):
            walk = _steps("EulerAncestralDiscreteScheduler", {}, 1.0)
            images.join(Slot(torch.zeros(1, 4, 16, 8, device=META), Denoising(walk, conditions, guidance)))
        ended = [slot for _ in range(6) for slot in images.evaluate()]
    assert [slot.latent_1CHW.shape for slot in ended] == [(1, 4, 16, 8)] * 2
    assert seen == [META] * 6
    assert no_copies.uploads == 2 + 2 * 6  # each image's timesteps, and its noise at each step


def test_residuals_are_coded_without_a_number_from_the_host(no_copies: _NoCopies) -> None:
    with torch.inference_mode(), no_copies:
        code = ternary.encoded(torch.zeros(2, 7, 100, device=META))
        assert ternary.decoded(code, 100).shape == (2, 7, 100)
    assert no_copies.uploads == 0


def test_a_network_that_begins_to_steer_brings_its_scale_by_upload(
    no_copies: _NoCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "upload", host_numbers.upload)
    seen = (torch.zeros(1, 4, 8, 8, device=META),)
    slots = [mock.Mock(control=(PassControl("edges", seen, 0.5, 0.0, 1.0),), active=(on,)) for on in (True, False)]
    with no_copies:
        (rows,) = table._control([_Row(slot, 1, mock.Mock()) for slot in slots])
    assert (rows.scale.device, rows.scale.shape, no_copies.uploads) == (META, (2,), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU what waits for it")
@pytest.mark.parametrize(("name", "settings"), SCHEDULERS)
def test_no_scheduler_waits_for_a_gpu(name: str | None, settings: dict[str, Any]) -> None:
    device = torch.device("cuda")
    mesh = Mesh(Layout(1, 1, 1), device, 0, {}, progress=Progress.of(device))
    unet = SplitUNet(networks.unet(torch.float32, layers_per_block=1).to(device))
    shapes = ((1, networks.TEXT_TOKENS, networks.TEXT_WIDTH), (1, networks.POOLED_WIDTH), (1, 6))
    positive = Conditions(*(torch.zeros(shape, device=device) for shape in shapes))
    for warm in (False, True):
        walk = Steps(MODEL.make(name, settings, seed=0), 6, torch.Generator().manual_seed(0), device)
        slot = Slot(
            torch.ones(1, 4, 16, 8, device=device),
            Denoising(walk, PassConditions.always(positive, None), Guidance(1.0)),
        )
        images = Table(unet, mesh, (16, 8), SamplingOptions(Schedule(None)), lambda: Control.GO)
        images.join(slot)
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            with torch.inference_mode():
                while images.slots:
                    images.evaluate()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_numbers_stay_on_the_host_and_arrays_go_by_upload(no_copies: _NoCopies) -> None:
    number, array = torch.tensor(2.0), torch.ones(3)
    with no_copies, HostNumbers():
        assert number.to(META).device.type == "cpu"
        assert number.to(device=META, dtype=torch.float64).dtype is torch.float64
        assert torch.ones((), device=META).device.type == "cpu"
        assert torch.tensor(0.5, device="meta").device.type == "cpu"
        assert torch.tensor([0.5], device=META).device == META
        assert torch.ones(2, device=META).device == META
        assert array.to(META, torch.float16).dtype is torch.float16
        assert array.to(torch.empty(1, device=META, dtype=torch.float64)).dtype is torch.float64
        assert array.to(torch.float16).device.type == "cpu"
        assert (array.to(META) * number).device == META
    assert no_copies.uploads == 4
    with pytest.raises(AssertionError, match="from the host"), no_copies:
        array.to(META)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(1, device=META).item()


def test_a_drift_that_is_read_later_calls_for_its_resync_later() -> None:
    found = []
    for lag in (0, 1):
        phases, waits = Phases(Schedule(1, resync=0.5), lag=lag), []
        for index, norm in enumerate((1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0)):
            evaluation = phases.evaluation([Place(index, 9)], split=True, anew=index == 0)
            waits.append(phases.wants_resync(evaluation))
            phases.note(torch.full((1, 1, 1, 1), norm))
        found.append(waits.index(True))
    assert found == [3, 4]
