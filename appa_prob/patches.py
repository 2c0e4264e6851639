r"""Patches of a field as channels of a coarser one, along any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["patchify", "unpatchify"]


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    r"""Moves patches into channels.

    .. math:: (*, C, n_1 p_1, \dots, n_k p_k) \to (*, C \, p_1 \cdots p_k, n_1, \dots, n_k)

    Channels of the field vary the slowest and the place within a patch the fastest, its last axis
    first, as in :func:`torch.nn.functional.pixel_unshuffle`.

    Arguments:
        x: The field.
        patch: The lengths :math:`p_1, \dots, p_k` of a patch.

    Raises:
        ValueError: If patches don't tile the field.

    Example:
        >>> import torch
        >>> patchify(torch.arange(8).reshape(1, 2, 4), (1, 2))[:, 0]
        tensor([[0, 2],
                [1, 3]])
    """
    axes = len(patch)
    shape, channels = x.shape[-axes:], x.shape[-axes - 1]
    if any(n % p for n, p in zip(shape, patch, strict=True)):
        raise ValueError(f"expected a field that patches of {tuple(patch)} tile, got {shape}")
    parts = [part for n, p in zip(shape, patch, strict=True) for part in (n // p, p)]
    split = x.reshape(math.prod(x.shape[: -axes - 1]), channels, *parts)
    coarse, fine = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    moved = split.permute(0, 1, *fine, *coarse).flatten(1, 1 + axes)
    return moved.reshape(*x.shape[: -axes - 1], *moved.shape[1:])


def unpatchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    r"""Moves channels back into patches: the inverse of :func:`patchify`.

    Arguments:
        x: The field, with shape :math:`(*, C \, p_1 \cdots p_k, n_1, \dots, n_k)`.
        patch: The lengths :math:`p_1, \dots, p_k` of a patch.

    Example:
        >>> import torch
        >>> x = torch.randn(3, 4, 6)
        >>> torch.equal(unpatchify(patchify(x, (2, 3)), (2, 3)), x)
        True
    """
    axes = len(patch)
    shape = x.shape[-axes:]
    split = x.reshape(math.prod(x.shape[: -axes - 1]), -1, *patch, *shape)
    pairs = [axis for i in range(axes) for axis in (2 + axes + i, 2 + i)]
    whole = [n * p for n, p in zip(shape, patch, strict=True)]
    moved = split.permute(0, 1, *pairs).reshape(-1, split.shape[1], *whole)
    return moved.reshape(*x.shape[: -axes - 1], *moved.shape[1:])
