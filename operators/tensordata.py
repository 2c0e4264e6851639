r"""Tensors as plain data, exactly.

Numbers in single and double precision are exact in decimal notation as Python writes it, so that a
tensor survives JSON bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_dtype", "decode_tensor", "encode_tensor"]


def encode_tensor(tensor: Tensor) -> Any:
    r"""A tensor as a nested list, if that says all, else as a dictionary.

    Arguments:
        tensor: The tensor.

    Example:
        >>> encode_tensor(torch.tensor([[1, 2]]))
        [[1, 2]]
        >>> encode_tensor(torch.tensor([0.5]))
        {'tensor': [0.5], 'dtype': 'float32'}
    """
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    data: list[Any] = plain.detach().cpu().tolist()
    if tensor.dtype in (torch.bool, torch.int64) and tensor.numel() and tensor.ndim:
        return data
    spec = {"tensor": data, "dtype": str(tensor.dtype).removeprefix("torch.")}
    return spec if tensor.numel() else {**spec, "shape": list(tensor.shape)}


def decode_tensor(spec: Mapping[str, Any]) -> Tensor:
    r"""Undoes :func:`encode_tensor`.

    Arguments:
        spec: The dictionary: the elements as ``tensor``, and maybe ``dtype`` and ``shape``. By
            default numbers with a decimal point are of torch's default type.

    Raises:
        ValueError: If there is something else in the dictionary, or if the type isn't known.

    Example:
        >>> decode_tensor({"tensor": [[0.5], [1.5]], "dtype": "float64"})
        tensor([[0.5000],
                [1.5000]], dtype=torch.float64)
    """
    unknown = spec.keys() - {"tensor", "dtype", "shape"}
    if unknown:
        raise ValueError(
            "expected a tensor as {tensor: elements, dtype: float64, shape: [2, 3]}, the last two "
            f"optional, got also {', '.join(sorted(unknown))}"
        )
    dtype = None if spec.get("dtype") is None else as_dtype(spec["dtype"])
    if "shape" in spec:
        return torch.tensor(spec["tensor"], dtype=dtype).reshape(spec["shape"])
    if dtype is not None and dtype.is_complex:
        return torch.view_as_complex(torch.tensor(spec["tensor"], dtype=dtype.to_real()))
    return torch.tensor(spec["tensor"], dtype=dtype)


def as_dtype(name: str) -> torch.dtype:
    r"""The type of tensors that a name stands for.

    Arguments:
        name: The name, as in torch.

    Raises:
        ValueError: If there is no such type.

    Example:
        >>> as_dtype("float64")
        torch.float64
    """
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"expected a type of tensors such as 'float64', got {name!r}")
    return dtype
