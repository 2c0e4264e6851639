r"""Runs of a program for many states at once, with axes of their own in front of its plates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Size, Tensor

if TYPE_CHECKING:
    from .program import Program

__all__ = ["ProgramRuns", "Read", "close", "rows"]

Read = Callable[[Any, int], list[Tensor]]


class ProgramRuns:
    r"""What is read of a program, run for many states.

    Arguments:
        program: The program.
        trace: A trace of it.
        read: What is read of a trace of some number of states, a row for each of them. Where
            states at once give what each of them gives, by this, they are run at once.

    Attributes:
        axes: The number of axes between those of states and of events with which the program is
            run for many states at once; none if it is run for one after another.
    """

    def __init__(self, program: Program, trace: Any, read: Read) -> None:
        self.program = program
        self.axes: int | None = None
        nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
        sizes = {n for node in nodes for n in getattr(node["value"], "shape", ())}
        count = next(n for n in (2, 3, 5, 7, 11, 13) if n not in sizes or n == 13)
        frames = [frame.dim for node in nodes for frame in node["cond_indep_stack"]]
        nesting = -min((dim for dim in frames if dim is not None), default=0)
        with torch.enable_grad():
            x = self.draw(count).requires_grad_()
            expected = self(x, read)
            for axes in sorted({0, nesting}):
                self.axes = axes
                try:
                    found = self(x, read)
                except (RuntimeError, ValueError, IndexError, TypeError):
                    continue
                if all(map(close, found, expected)):
                    return
        self.axes = None

    def of(self, program: Program) -> ProgramRuns:
        r"""Those of a program that differs in values that are held fixed.

        Arguments:
            program: The other program.
        """
        new = copy.copy(self)
        new.program = program
        return new

    def draw(self, count: int) -> Tensor:
        r"""Random states to try the program at, always the same.

        Arguments:
            count: The number of states.
        """
        g, shape = torch.Generator().manual_seed(count), self.program.prior.event_shape
        x = torch.randn(count, *shape, generator=g, dtype=self.program.dtype)
        return x.to(self.program.device)

    def __call__(self, x: Tensor, read: Read) -> list[Tensor]:
        r"""What is read of the program, a row for each state.

        Arguments:
            x: The states, with shape :math:`(n, event)`.
            read: What is read of a trace of some number of states.
        """
        # Validated once, when the program was read: steps of solvers may lead too far.
        with pyro.validation_enabled(False):
            if self.axes is not None:
                return read(self.program.trace(self._wide(x)), len(x))
            found = [read(self.program.trace(self.program.unpack(one)), 1) for one in x]
            return [torch.cat(column) for column in zip(*found, strict=True)]

    def named(
        self, x: Tensor, names: Sequence[str], read: Callable[[Mapping[str, Any]], Tensor]
    ) -> dict[str, Tensor]:
        r"""A tensor for each of some sites, with the shape that it has for one state.

        Arguments:
            x: The states, with shape :math:`(n, event)`.
            names: The names of the sites.
            read: What is read of a site.

        Returns:
            The tensors by the names of sites, with shapes :math:`(n, *)`.
        """
        if not names:
            return {}
        with torch.no_grad():
            alone = self.program.trace(self.program.unpack(x[0]))

            def values(trace: Any, count: int) -> list[Tensor]:
                found = [read(trace.nodes[name]) for name in names]
                return [rows(one, one.shape, count) for one in found]

            shapes = [read(alone.nodes[name]).shape for name in names]
            found = zip(names, self(x, values), shapes, strict=True)
            return {name: one.reshape(len(x), *shape) for name, one, shape in found}

    def _wide(self, x: Tensor) -> dict[str, Tensor]:
        """The fields of states, with axes of length 1 between the first axis and the others."""
        fields = self.program.unpack(x)
        assert self.axes is not None
        wide = {}
        for field in self.program.fields:
            one, more = fields[field.name], max(self.axes - len(field.copies), 0)
            wide[field.name] = one.reshape(len(one), *(1,) * more, *one.shape[1:])
        return wide


def rows(x: Tensor, shape: Size, count: int) -> Tensor:
    r"""Numbers of a part as rows, one for each state.

    Arguments:
        x: The numbers.
        shape: The shape that they are expanded to.
        count: The number of states.

    Raises:
        ValueError: If the first axis is not that of states.
    """
    x = x.expand(shape)
    if count != 1 and (not shape or shape[0] != count):
        raise ValueError(f"expected {count} states in front, got {tuple(shape)}")
    return x.reshape(count, -1)


def close(found: Tensor, expected: Tensor) -> bool:
    r"""Whether a program gave the same, up to rounding.

    Arguments:
        found: What it gave.
        expected: What it gave another time.
    """
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-5, equal_nan=True
    )
