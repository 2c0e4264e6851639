r"""The parameters of observed sites side by side, and the covariances of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from appa_prob.operators import Dense, Operator

from .information import Part, standardise
from .program_runs import rows
from .sites import Observed

__all__ = ["error_covariances", "parts_of", "read_means", "read_numbers", "vector_covariances"]


def parts_of(sites: Sequence[Observed], trace: Any) -> list[tuple[Part, tuple[str, ...]]]:
    r"""The parts of sites that depend on fields, with the parameters that do.

    Arguments:
        sites: The sites.
        trace: A trace of the program.
    """
    return [found for site in sites for found in site.parts(trace.nodes[site.name])]


def read_numbers(
    sites: Sequence[Observed], trace: Any, count: int, create_graph: bool = False
) -> list[Tensor]:
    r"""The parameters, residuals and roots of informations of all parts, side by side.

    Those of vectors are the mean, the residual in the units of the observation, and ones.

    Arguments:
        sites: The sites.
        trace: A trace of the program, for one or more states.
        count: The number of states.
        create_graph: Whether residuals and roots are differentiable.

    Returns:
        Three tensors, with shape :math:`(count, n)`.
    """
    columns: list[list[Tensor]] = [[], [], []]
    for part, names in parts_of(sites, trace):
        found = [_vector(part)] if part.dense else standardise(part, names, create_graph)
        for numbers in found:
            for column, one in zip(columns, numbers, strict=True):
                column.append(rows(one, part.shape, count))
    return [torch.cat(column, -1) for column in columns]


def read_means(sites: Sequence[Observed], trace: Any, count: int) -> list[Tensor]:
    r"""The means of all parts of Gaussian sites, side by side.

    Arguments:
        sites: The sites.
        trace: A trace of the program, for one or more states.
        count: The number of states.

    Returns:
        One tensor, with shape :math:`(count, n)`.
    """
    parts: list[Any] = [part for part, _ in parts_of(sites, trace)]
    return [torch.cat([rows(part.law.loc, part.shape, count) for part in parts], -1)]


def error_covariances(sites: Sequence[Observed], trace: Any) -> list[Operator | int]:
    r"""The covariances of errors, numbers of units where they are 1.

    Arguments:
        sites: The sites.
        trace: A trace of the program, for one state.
    """
    blocks: list[Operator | int] = []
    for part, names in parts_of(sites, trace):
        if part.dense:
            blocks.extend(vector_covariances(part))
        else:
            count = part.shape.numel() * len(names)
            last = blocks.pop() if blocks and isinstance(blocks[-1], int) else 0
            assert isinstance(last, int)
            blocks.append(last + count)
    return blocks


def vector_covariances(part: Part) -> list[Operator]:
    r"""The covariance of each vector of a part, with the structure that its law has.

    Arguments:
        part: The part.
    """
    law: Any = part.law
    count = part.shape[:-1].numel()
    lazy = getattr(law, "lazy_covariance_matrix", None)
    if isinstance(lazy, Operator) and not lazy.batch_shape:
        return [lazy] * count
    dense = (law.covariance_matrix if lazy is None else lazy.to_dense()).detach()
    n = dense.shape[-1]
    return [Dense(one, symmetric=True) for one in dense.expand(*part.shape, n).reshape(-1, n, n)]


def _vector(part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of correlated numbers, and their residual."""
    mean: Tensor = part.law.loc.expand(part.shape)
    root = torch.ones_like(mean)
    if part.weight is not None:
        root = root * part.weight.sqrt().unsqueeze(-1)
    return mean, root * (part.value - mean), root
