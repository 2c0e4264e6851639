"""Operators element by element, selections, shapes and matrices, with their dense twins."""

import torch
from torch import Tensor

from appa_prob.operators import (
    AxisGather,
    Dense,
    Diagonal,
    Gather,
    Identity,
    Isotropic,
    LinearFunction,
    Mask,
    Mix,
    Pad,
    Permute,
    Reshape,
    Scaling,
    Slice,
    TimeInterpolate,
    TimeWindow,
    WeightedGather,
)
from tests.operators.cases import Case, case, eye, mask, noise


@case
def identity(g: torch.Generator) -> Case:
    return Identity((2, 3), dtype=torch.float64, device=g.device), eye(g, 6)


@case
def scalar_event(g: torch.Generator) -> Case:
    c = noise(g)
    return Diagonal(c), c.reshape(1, 1)


@case
def scaling(g: torch.Generator) -> Case:
    c = noise(g)
    return Scaling(c, (2, 3)), c * eye(g, 6)


@case
def batched_scaling(g: torch.Generator) -> Case:
    c = noise(g, 4)
    return Scaling(c, 3), c[:, None, None] * eye(g, 3)


@case
def isotropic(g: torch.Generator) -> Case:
    c = noise(g).square()
    return Isotropic(c, 3), c * eye(g, 3)


@case
def diagonal(g: torch.Generator) -> Case:
    d = noise(g, 2, 3)
    return Diagonal(d), torch.diag(d.reshape(-1))


@case
def batched_diagonal(g: torch.Generator) -> Case:
    d = noise(g, 3, 4)
    return Diagonal(d, event_ndim=1), torch.diag_embed(d)


@case
def dense(g: torch.Generator) -> Case:
    M = noise(g, 4, 6)
    return Dense(M, in_shape=(2, 3), out_shape=(2, 2)), M


@case
def batched_dense(g: torch.Generator) -> Case:
    M = noise(g, 2, 3, 4)
    return Dense(M), M


@case
def masked(g: torch.Generator) -> Case:
    m = mask(g, 3, 4)
    return Mask(m).to(torch.float64), eye(g, 12)[m.reshape(-1)]


@case
def masked_everything(g: torch.Generator) -> Case:
    m = torch.zeros(3, dtype=torch.bool, device=g.device)
    return Mask(m).to(torch.float64), eye(g, 3)[:0]


@case
def gather(g: torch.Generator) -> Case:
    indices = torch.randint(6, (2, 5), generator=g, device=g.device)
    return Gather(indices, (2, 3)).to(torch.float64), eye(g, 6)[indices.reshape(-1)]


@case
def weighted_gather(g: torch.Generator) -> Case:
    indices = torch.randint(12, (5, 3), generator=g, device=g.device)
    weights = noise(g, 5, 3)
    return WeightedGather(indices, weights, (3, 4)), (
        weights[..., None] * eye(g, 12)[indices]
    ).sum(1)


@case
def slices(g: torch.Generator) -> Case:
    A = Slice((2, 5, 4), start=(1, 0), stop=(None, -1), step=(2, 1))
    kept = torch.arange(40, device=g.device).reshape(2, 5, 4)[:, 1::2, :3]
    return A.to(torch.float64), eye(g, 40)[kept.reshape(-1)]


@case
def zero_pad(g: torch.Generator) -> Case:
    kept = torch.zeros(6, 4, dtype=torch.bool, device=g.device)
    kept[1:4, 2:4] = True
    return Pad((3, 2), (1, 2), (2, 0)).to(torch.float64), eye(g, 24)[kept.reshape(-1)].mT


@case
def periodic_pad(g: torch.Generator) -> Case:
    rows, columns = torch.arange(-1, 5) % 3, torch.arange(-2, 2) % 2
    M = torch.kron(eye(g, 3)[rows], eye(g, 2)[columns])
    return Pad((3, 2), (1, 2), (2, 0), "periodic").to(torch.float64), M


@case
def replicate_pad(g: torch.Generator) -> Case:
    rows, columns = torch.arange(-1, 5).clamp(0, 2), torch.arange(-2, 2).clamp(0, 1)
    M = torch.kron(eye(g, 3)[rows], eye(g, 2)[columns])
    return Pad((3, 2), (1, 2), (2, 0), "replicate").to(torch.float64), M


@case
def permute(g: torch.Generator) -> Case:
    order = torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1).reshape(-1)
    return Permute((2, 0, 1), (2, 3, 4)).to(torch.float64), eye(g, 24)[order]


@case
def reshape(g: torch.Generator) -> Case:
    return Reshape((2, 3), (3, 2, 1)).to(torch.float64), eye(g, 6)


@case
def mix(g: torch.Generator) -> Case:
    M = noise(g, 4, 3)
    return Mix(M, (2, 3, 2), axis=1), torch.kron(eye(g, 2), torch.kron(M, eye(g, 2)))


@case
def batched_mix(g: torch.Generator) -> Case:
    M = noise(g, 3, 4, 2)
    return Mix(M, (3, 2), axis=-1), torch.stack([torch.kron(eye(g, 3), m) for m in M])


@case
def axis_gather(g: torch.Generator) -> Case:
    indices = torch.randint(3, (4, 2), generator=g, device=g.device)
    w = noise(g, 4, 2)
    M = (w[..., None] * eye(g, 3)[indices]).sum(1)
    A = AxisGather(indices, w, (2, 3, 2), axis=-2)
    return A, torch.kron(eye(g, 2), torch.kron(M, eye(g, 2)))


@case
def time_interpolate(g: torch.Generator) -> Case:
    times = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64, device=g.device)
    at = torch.tensor([2.0, 0.0, 3.0, 0.25], dtype=torch.float64, device=g.device)
    M = [[0, 0.5, 0.5], [1, 0, 0], [0, 0, 1], [0.75, 0.25, 0]]
    return TimeInterpolate(times, at, (3, 2)), torch.kron(torch.tensor(M).to(at), eye(g, 2))


@case
def time_mean(g: torch.Generator) -> Case:
    times = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64, device=g.device)
    a, b = times[[0, 0, 1]], times[[1, 2, 2]]
    M = torch.tensor([[1 / 2, 1 / 2, 0], [1 / 6, 1 / 2, 1 / 3], [0, 1 / 2, 1 / 2]]).to(a)
    M[1] = torch.tensor([0.5, 1.5, 1.0]).to(a) / 3
    return TimeWindow(times, a, b, (3, 2)), torch.kron(M, eye(g, 2))


@case
def time_sum(g: torch.Generator) -> Case:
    times = torch.arange(4, dtype=torch.float64, device=g.device)
    M = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).to(times)
    A = TimeWindow(times, times[[0, 2]], times[[2, 3]], (2, 4), axis=1, reduction="sum")
    return A, torch.kron(eye(g, 2), M)


@case
def linear_function(g: torch.Generator) -> Case:
    M = noise(g, 4, 6)

    def function(x: Tensor) -> Tensor:
        return (x.flatten(-2) @ M.mT).reshape(*x.shape[:-2], 2, 2)

    return LinearFunction(function, (2, 3), (2, 2), dtype=M.dtype, device=g.device), M


@case
def function_pair(g: torch.Generator) -> Case:
    A = LinearFunction(last_two, 3, 2, filled_up, dtype=torch.float64, device=g.device)
    return A, eye(g, 3)[1:]


def last_two(x: Tensor) -> Tensor:
    return x[..., 1:]


def filled_up(y: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(y[..., :1]), y), dim=-1)
