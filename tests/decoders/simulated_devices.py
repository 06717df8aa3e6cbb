"""Simulated devices: tensors that say where they lie, and refuse to meet those of another device.

Each holds a tensor of the CPU, on which operations run, so that results are a CPU's to the last
bit. As on GPUs, an operation on tensors of two devices is an error, but for copies, scalars of the
CPU, and index tensors of the CPU. What only a real device has (streams, memory, kernels that start
on the current device) is not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

KIND = "hpu"
"""A type of device that torch knows by name and needs no build of its own for."""

_OF_THE_DEVICE = frozenset({"device", "requires_grad", "is_cpu", "is_cuda", "is_leaf", "is_meta"})
_MEETS_ANY = frozenset({"copy_", "expand_as", "view_as", "reshape_as"})
_ON_A_CPU_ALONE = frozenset({"numpy", "__array__"})
_NO_SCALARS = frozenset({"cat", "stack", "concat", "scatter_", "embedding"})


class MixedDevicesError(RuntimeError):
    """Tensors of two devices in one operation."""


class Simulated(Tensor):
    """A tensor on a simulated device.

    Attributes:
        inner: its contents, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Simulated:
        """``inner`` as if on ``device``."""
        made: Simulated = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``func`` on the contents."""
        del types
        return _run(func, args, dict(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What got past ``__torch_function__`` has not been checked."""
        raise NotImplementedError(f"{func} is not simulated")

    def __repr__(self, **options: Any) -> str:
        """The contents, and where they are."""
        del options
        return f"{self.inner!r} on {self.device}"


class _Devices(TorchFunctionMode):
    """Makes and moves tensors to simulated devices."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        return _run(func, args, dict(kwargs or {}))


@contextmanager
def simulated_devices() -> Iterator[tuple[str, str]]:
    """Inside the block, two devices; their names."""
    with _Devices():
        yield f"{KIND}:0", f"{KIND}:1"


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """``func`` on the contents of simulated tensors, its results where a device would have them."""
    name = getattr(func, "__name__", "")
    given = [one for one in _leaves((args, kwargs)) if isinstance(one, Tensor)]
    here = [one for one in given if isinstance(one, Simulated)]
    if here and name in {"__get__", "__set__"}:
        return _attribute(func, name, args)
    if name == "to" or name in {"cpu", "cuda"}:
        return _move(name, args, kwargs)
    wanted = _simulated_device(kwargs.get("device"))
    if not here and wanted is None:
        return func(*args, **kwargs)
    if name == "_has_compatible_shallow_copy_type":
        return False  # modules then replace their parameters
    if name in _ON_A_CPU_ALONE:
        raise TypeError(f"{name} of a tensor on {here[0].device}")
    if name == "__iter__":
        return iter(args[0].unbind(0))
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: a generator of the CPU for a tensor on another device")
    _check(name, args, given, here)
    if kwargs.get("device") is not None:
        device, kwargs["device"] = wanted, "cpu"
    else:
        device = here[0].device
    found = func(*_inner(args), **_inner(kwargs))
    if device is None:
        return found
    return _placed(found, device, given)


def _check(name: str, args: Any, given: list[Tensor], here: list[Simulated]) -> None:
    """Refuse what a device would refuse."""
    if name in _MEETS_ANY:
        return
    if name in {"__getitem__", "__setitem__", "index_put_", "index_put"}:
        home = args[0].device
        indices = [one for one in _leaves(args[1]) if isinstance(one, Tensor)]
        values = [one for one in _leaves(args[2:]) if isinstance(one, Tensor)]
        wrong = [one for one in indices if one.device.type != "cpu" and one.device != home]
        wrong += [one for one in values if one.device != home and not _is_scalar(one)]
    else:
        home = here[0].device if here else torch.device("cpu")
        strict = name in _NO_SCALARS
        wrong = [one for one in given if one.device != home and (strict or not _is_scalar(one))]
    if wrong and here:
        raise MixedDevicesError(
            f"{name}: expected all tensors to be on the same device, but found at least two "
            f"devices, {home} and {wrong[0].device}"
        )


def _is_scalar(one: Tensor) -> bool:
    return one.dim() == 0 and one.device.type == "cpu"


def _attribute(func: Any, name: str, args: Any) -> Any:
    """Read or write an attribute of a simulated tensor."""
    attribute = func.__self__.__name__
    if attribute in _OF_THE_DEVICE:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args)
    if name == "__set__":
        raise NotImplementedError(f"{attribute} of a simulated tensor cannot be set")
    return _placed(func(*_inner(args)), args[0].device, [args[0]])


def _move(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """``to``, ``cpu`` and ``cuda`` of a tensor."""
    one, *others = args
    if name == "cuda":
        raise AssertionError("no CUDA device here")
    if name == "cpu":
        others = [torch.device("cpu")]
    if (others and isinstance(others[0], Tensor)) or isinstance(kwargs.get("other"), Tensor):
        other = kwargs.pop("other", None)
        other = others.pop(0) if other is None else other
        others = [other.device, other.dtype, *others]
    device, dtype, *_ = torch._C._nn._parse_to(
        *others, **{key: kwargs[key] for key in ("device", "dtype") if key in kwargs}
    )
    device = one.device if device is None else _indexed(device)
    inner = one.inner if isinstance(one, Simulated) else one
    copies = bool(kwargs.get("copy")) or device != one.device
    moved = inner.to(dtype or inner.dtype, copy=copies)
    if device.type != KIND:
        return moved.to(device)
    return one if moved is inner else Simulated(moved, device)


def _placed(found: Any, device: torch.device, given: list[Tensor]) -> Any:
    """``found`` with its tensors on ``device``; those that were given stay the same objects."""
    same = {id(one.inner): one for one in given if isinstance(one, Simulated)}
    foreign = {id(one) for one in given if not isinstance(one, Simulated)}

    def place(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, Simulated):
            return one
        if id(one) in foreign:
            raise MixedDevicesError(f"a result of {device} in a tensor of {one.device}")
        known = same.get(id(one))
        if known is None:
            return Simulated(one, device)
        if known.shape != one.shape:
            raise NotImplementedError("operations that reshape in place are not simulated")
        return known

    return _mapped(place, found)


def _simulated_device(device: Any) -> torch.device | None:
    """The simulated device of that name, if it is one."""
    if device is None:
        return None
    named = device if isinstance(device, torch.device) else torch.device(device)
    return _indexed(named) if named.type == KIND else None


def _indexed(device: torch.device) -> torch.device:
    return torch.device(KIND, device.index or 0) if device.type == KIND else device


def _leaves(tree: Any) -> Iterator[Any]:
    """Leaves of nested containers and slices."""
    if isinstance(tree, (list, tuple)):
        for one in tree:
            yield from _leaves(one)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same containers, with ``function`` of every leaf."""
    if isinstance(tree, (list, tuple)):
        mapped = [_mapped(function, one) for one in tree]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else type(tree)(mapped)
    if isinstance(tree, dict):
        return {key: _mapped(function, one) for key, one in tree.items()}
    if isinstance(tree, slice):
        return slice(*map(function, (tree.start, tree.stop, tree.step)))
    return function(tree)


def _inner(tree: Any) -> Any:
    """``tree`` with the contents of simulated tensors in their place."""
    return _mapped(lambda leaf: leaf.inner if isinstance(leaf, Simulated) else leaf, tree)
