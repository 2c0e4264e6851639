r"""Operators as plain data, and back.

A specification is what JSON and YAML can hold: a dictionary with the ``kind`` of the operator, and
the arguments of its constructor by name,

.. code-block:: yaml

    kind: Composition
    factors:
      - {kind: Mask, mask: [true, false, true]}
      - {kind: Diagonal, diagonal: [1.0, 2.0, 3.0]}

Tensors are nested lists; where the type doesn't follow from these, they are dictionaries
``{tensor: [1.0, 2.0], dtype: float64}``, with the ``shape`` if they are empty, and with pairs of
real and imaginary parts if they are complex. Arguments that are operators or solvers are
specifications again; a solver without options may be its name. A ``dtype`` beside the arguments
converts the operator once it is made. Devices aren't data: move the operator that was built.

Equal parts are built once: the two :math:`H` of :math:`H V H^T` are one object again, so that its
symmetry is known. Nothing but the classes that were registered is ever called.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from .base import Operator
from .tensordata import as_dtype, decode_tensor, encode_tensor

__all__ = ["build", "describe", "register", "registered"]

GROUP = "appa_prob.operators"

C = TypeVar("C", bound=type)
Source = str | Callable[[Any], Any]


@dataclass(frozen=True)
class Entry:
    r"""What is known of a registered class.

    Arguments:
        name: The name under which it is registered.
        cls: The class.
        sources: Where the arguments of its constructor are found, by the names of these.
    """

    name: str
    cls: type
    sources: Mapping[str, Source]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters of the constructor that are data: all but the device."""
        found = inspect.signature(self.cls).parameters
        return {name: p for name, p in found.items() if name != "device"}

    def argument(self, instance: object, name: str) -> Any:
        """The value that an argument of the constructor had."""
        source = self.sources.get(name, name)
        return attrgetter(source)(instance) if isinstance(source, str) else source(instance)


_ENTRIES: dict[str, Entry] = {}
# By class, too: one that was defined again, as in a notebook, leaves operators of the old one.
_OF_CLASS: dict[type, Entry] = {}


@overload
def register(target: C, /) -> C: ...
@overload
def register(target: str | None = None, /, **sources: Source) -> Callable[[C], C]: ...
def register(target: Any = None, /, **sources: Source) -> Any:
    r"""Registers a class, so that its operators can be described by data and built from it.

    The arguments of the constructor are read from attributes of the same names. Where they are
    kept otherwise, say where: by the name of an attribute, or by a function of the operator.

    Classes of other packages are registered in the same way, or are listed as entry points of the
    group ``appa_prob.operators``, which are loaded when their name is first asked for.

    Arguments:
        target: The class, if the decorator has no arguments; or another name than the class has.
        sources: Where arguments are kept, if not in attributes of the same names.

    Raises:
        ValueError: If another class has the name, or if a source is of no argument.

    Example:
        >>> from appa_prob.operators import Operator
        >>> @register(length="in_shape")
        ... class Flip(Operator):
        ...     def __init__(self, length):
        ...         super().__init__(length, length)
        ...     def forward(self, x):
        ...         return x.flip(-1)
        ...     def adjoint(self, y):
        ...         return y.flip(-1)
        >>> Flip(3).spec()
        {'kind': 'Flip', 'length': [3]}
        >>> build({"kind": "Flip", "length": 2})(torch.tensor([1.0, 2.0]))
        tensor([2., 1.])
    """

    def add(cls: C) -> C:
        _add(Entry(target if isinstance(target, str) else cls.__name__, cls, sources))
        return cls

    return add(target) if isinstance(target, type) else add


def registered() -> dict[str, type]:
    r"""The registered classes by name, those of other packages included.

    Example:
        >>> registered()["Mask"]
        <class 'appa_prob.operators.selection.Mask'>
    """
    for point in entry_points(group=GROUP):
        _lookup(point.name)
    return {name: entry.cls for name, entry in sorted(_ENTRIES.items())}


def build(spec: Mapping[str, Any]) -> Operator:
    r"""Makes an operator from plain data.

    Arguments:
        spec: The specification: a dictionary with the name of the operator as its ``kind``, and
            the arguments of its constructor.

    Raises:
        ValueError: If a name isn't known, with the nearest that is; if arguments are missing; or
            as the constructors do.
        TypeError: If the specification isn't that of an operator.

    Example:
        >>> A = build({"kind": "Mask", "mask": [True, False]})
        >>> A, build(A.spec())
        (Mask((2,) -> (1,)), Mask((2,) -> (1,)))
        >>> build({"kind": "Maks"})
        Traceback (most recent call last):
        ...
        ValueError: expected a registered operator, got 'Maks'; did you mean 'Mask'?
    """
    operator = Builder().value(spec)
    if not isinstance(operator, Operator):
        raise TypeError(
            "expected the specification of an operator, a dictionary with its 'kind', got "
            f"{spec if isinstance(operator, Mapping) else operator!r}"
        )
    return operator


def describe(value: Any) -> Any:
    r"""An operator, or an argument of one, as plain data.

    Arguments:
        value: An operator, a solver, a tensor, a shape, a number, a name, or a list or a
            dictionary of these.

    Raises:
        TypeError: If the class isn't registered, or if the value isn't data.

    Example:
        >>> from appa_prob.operators import CG
        >>> describe(CG(rtol=0.01))
        {'kind': 'CG', 'rtol': 0.01}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return encode_tensor(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    entry = _OF_CLASS.get(type(value))
    if entry is None:
        raise TypeError(
            f"expected an operator that data can describe, got {value!r}: {type(value).__name__} "
            "isn't registered; decorate the class with appa_prob.operators.register if its "
            "arguments are data"
        )
    spec = {"kind": entry.name}
    for name, parameter in entry.parameters.items():
        argument = entry.argument(value, name)
        if name == "dtype" or _same(argument, parameter.default):
            continue
        spec[name] = describe(argument)
    if isinstance(value, Operator):
        dtype = value._own_dtype()
        if dtype is not None and dtype not in _dtypes(entry, value):
            spec["dtype"] = describe(dtype)
    return spec


class Builder:
    """Builds values from data, equal ones once."""

    def __init__(self) -> None:
        self.known: dict[bytes, Any] = {}

    def value(self, data: Any, expected: str = "") -> Any:
        r"""The value that data stand for.

        Arguments:
            data: The data.
            expected: The annotation of the parameter that the value is for.
        """
        if isinstance(data, Mapping) and ("kind" in data or "tensor" in data):
            text = json.dumps(data, sort_keys=True, default=id)
            key = hashlib.sha256(text.encode()).digest()
            if key not in self.known:
                self.known[key] = self.made(data) if "kind" in data else decode_tensor(data)
            return self.known[key]
        if isinstance(data, Mapping):
            return {name: self.value(item) for name, item in data.items()}
        if isinstance(data, str) and re.search(r"Solver\b", expected):
            return self.value({"kind": data})
        if isinstance(data, (list, tuple)):
            if re.search(r"\bTensor\b", expected) and "Sequence" not in expected:
                return self.value({"tensor": data})
            return [self.value(item) for item in data]
        return data

    def made(self, spec: Mapping[str, Any]) -> Any:
        """The object that a specification describes."""
        entry = _lookup(spec["kind"])
        parameters = entry.parameters
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, data in spec.items():
            if name in ("kind", "dtype"):
                continue
            if name not in parameters:
                raise ValueError(
                    f"expected an argument of {entry.name}, got {name!r}"
                    f"{_nearest(name, parameters)}"
                )
            value = self.value(data, str(parameters[name].annotation))
            if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                positional += value
            else:
                named[name] = value
        missing = [
            name
            for name, p in parameters.items()
            if name not in spec
            and (p.default is p.empty or p.kind is p.VAR_POSITIONAL)
            and p.kind is not p.VAR_KEYWORD
        ]
        if missing:
            raise ValueError(
                f"expected the arguments {', '.join(parameters)} of {entry.name}, got "
                f"{', '.join(spec.keys() - {'kind'}) or 'none'}; add {', '.join(missing)}"
            )
        dtype = None if spec.get("dtype") is None else as_dtype(spec["dtype"])
        if dtype is not None and "dtype" in parameters:
            named["dtype"] = dtype
        result = entry.cls(*positional, **named)
        return result if dtype is None else result.to(dtype)


def _add(entry: Entry) -> None:
    old = _ENTRIES.get(entry.name)
    if old is not None and (old.cls.__module__, old.cls.__qualname__) != (
        entry.cls.__module__,
        entry.cls.__qualname__,
    ):
        raise ValueError(
            f"expected a new name, got {entry.name!r}, which {old.cls!r} has; register under "
            "another one"
        )
    unknown = entry.sources.keys() - inspect.signature(entry.cls).parameters.keys()
    if unknown:
        raise ValueError(
            f"expected sources of the arguments of {entry.name}, got {', '.join(sorted(unknown))}"
        )
    _ENTRIES[entry.name] = _OF_CLASS[entry.cls] = entry


def _lookup(name: Any) -> Entry:
    if name in _ENTRIES:
        return _ENTRIES[name]
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise ValueError(
            f"expected a registered operator, got {name!r}{_nearest(name, [*_ENTRIES, *points])}"
        )
    cls = points[name].load()
    known = _OF_CLASS.get(cls)  # the decorator may have said where arguments are kept
    _add(Entry(name, cls, known.sources if known else {}))
    return _ENTRIES[name]


def _nearest(name: Any, known: Any) -> str:
    found = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else f"; known are {', '.join(sorted(known))}"


def _same(value: Any, default: Any) -> bool:
    """Whether a value is the default of a parameter."""
    plain = (bool, int, float, str, tuple)
    return value is default or (
        isinstance(value, plain) and isinstance(default, plain) and value == default
    )


def _dtypes(entry: Entry, operator: Operator) -> set[torch.dtype | None]:
    """The floating types of the arguments of an operator."""
    found: set[torch.dtype | None] = set()
    for name in entry.parameters.keys() - {"dtype"}:
        argument = entry.argument(operator, name)
        for item in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(item, Tensor) and (item.is_floating_point() or item.is_complex()):
                found.add(item.dtype.to_real())
            elif isinstance(item, Operator):
                found.add(item._own_dtype())
    return found
