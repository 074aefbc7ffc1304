"""Pieces of an evaluation as lists of operators, for where there is no GPU: a stand-in for CUDA graphs.

It behaves as a graph does: recording leaves all memory as it was, what synchronises is refused, and tensors from
outside are neither kept alive nor asked for again. It is slow and holds every result; tests check with it what is
recorded.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from distri.ranks.recorder import Tape


class OperatorRecorder:
    """Pieces are lists of PyTorch's operators with the very tensors that they had; results go where they went."""

    def __init__(self) -> None:
        self._living: weakref.WeakSet[_Operators] = weakref.WeakSet()

    @property
    def held_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self._living)

    @contextmanager
    def record(self) -> Iterator[Tape]:
        """Record what the block computes."""
        tape = _OperatorTape()
        try:
            with tape:
                yield tape
            tape.end()
        finally:
            tape.restore()
        self._living.update(tape.pieces)


_ATEN = torch.ops.aten
_SYNCHRONISING = frozenset(
    {_ATEN._local_scalar_dense.default, _ATEN.item.default, _ATEN.is_nonzero.default, _ATEN.equal.default}
)


class _OperatorTape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces: list[_Operators] = []
        self._calls: list[_Call] = []
        self._made: dict[int, Tensor] = {}  # by id; held, so that ids and addresses stay theirs
        self._own_storages: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def cut(self) -> None:
        self.end()

    def end(self) -> None:
        self.pieces.append(_Operators(self._calls))
        self._calls = []

    def restore(self) -> None:
        """Put back what was overwritten, and leave nothing of use in what was made."""
        for storage, copy in self._before.values():
            storage.copy_(copy)
        for tensor in self._made.values():
            if tensor.untyped_storage().data_ptr() in self._own_storages and tensor.is_floating_point():
                tensor.fill_(torch.nan)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _SYNCHRONISING:
            raise RuntimeError(f"{func} asks for a value, which cannot be recorded")
        kwargs = kwargs or {}
        for argument, value in _named(func, args, kwargs):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._save(value)
        found = func(*args, **kwargs)
        read = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        results = _tensors(found)
        fresh = [tensor.untyped_storage().data_ptr() not in read for tensor in results]
        for tensor, new in zip(results, fresh, strict=True):
            self._made[id(tensor)] = tensor
            if new:
                self._own_storages.add(tensor.untyped_storage().data_ptr())
        self._calls.append(_Call(func, self._weakly(args), self._weakly(kwargs), results, fresh))
        return found

    def _save(self, value: Any) -> None:
        for tensor in _tensors(value):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own_storages and storage.data_ptr() not in self._before:
                self._before[storage.data_ptr()] = storage, storage.clone()  # type: ignore[no-untyped-call]

    def _weakly(self, arguments: Any) -> Any:
        """The arguments, with those from outside the recording not held."""
        return tree_map_only(Tensor, lambda tensor: tensor if id(tensor) in self._made else _Outside(tensor), arguments)


class _Outside:
    """A tensor that the recording does not own."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)

    def get(self) -> Tensor:
        tensor: Tensor | None = self._tensor()
        if tensor is None:
            raise RuntimeError("a tensor that the recording reads is gone")
        return tensor


class _Call:
    """One operator."""

    def __init__(self, func: Any, args: Any, kwargs: Any, results: list[Tensor], fresh: list[bool]) -> None:
        self._func, self._args, self._kwargs = func, args, kwargs
        self._results, self._fresh = results, fresh
        self.size_bytes = sum(tensor.nbytes for tensor, new in zip(results, fresh, strict=True) if new)

    def again(self) -> None:
        args, kwargs = tree_map_only(_Outside, _Outside.get, (self._args, self._kwargs))
        found = _tensors(self._func(*args, **kwargs))
        for place, tensor, fresh in zip(self._results, found, self._fresh, strict=True):
            if fresh:
                place.copy_(tensor)


class _Operators:
    """A piece as a list of operators.

    Attributes:
        size_bytes: of their results.
    """

    def __init__(self, calls: list[_Call]) -> None:
        self._calls = calls
        self.size_bytes = sum(call.size_bytes for call in calls)

    def replay(self) -> None:
        for call in self._calls:
            call.again()

    def release(self) -> None:
        self._calls, self.size_bytes = [], 0


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Each argument's declaration beside its value."""
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            yield argument, args[place]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]
