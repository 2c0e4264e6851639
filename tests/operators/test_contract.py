"""Every operator keeps the promises of `check_operator`, against a matrix made without it."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    GMRES,
    AxisGather,
    BlockDiagonal,
    Coarsen,
    Concatenate,
    Convolution,
    Dense,
    Diagonal,
    Divergence,
    Eigenbasis,
    Ensemble,
    Factored,
    Fourier,
    Gather,
    Gradient,
    Hartley,
    Identity,
    InnovationCovariance,
    Interpolate,
    Isotropic,
    Jacobian,
    KernelCovariance,
    Kronecker,
    Laplacian,
    LinearFunction,
    LineIntegrals,
    LowRankPlusDiagonal,
    Mask,
    Mix,
    Operator,
    Pad,
    Permute,
    Radon,
    Reshape,
    Restrict,
    Scaling,
    Slice,
    Sparse,
    SphereDivergence,
    SphereGradient,
    SphereLaplacian,
    SphereMatern,
    Stack,
    Stationary,
    TimeInterpolate,
    TimeWindow,
    TweedieCovariance,
    WeightedGather,
    Zero,
)
from appa_prob.operators.convolution import Method
from appa_prob.operators.differences import Scheme
from appa_prob.operators.interpolate import node_weights
from appa_prob.operators.pad import BOUNDARIES, Boundary
from appa_prob.operators.testing import check_operator

Case = tuple[Operator, Tensor]
CASES: dict[str, Callable[[torch.Generator], Case]] = {}


def case(make: Callable[[torch.Generator], Case]) -> Callable[[torch.Generator], Case]:
    """Registers an operator with its dense twin."""
    CASES[make.__name__] = make
    return make


def block_diag(*blocks: Tensor) -> Tensor:
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)


def eye(generator: torch.Generator, n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64, device=generator.device)


def covariance(generator: torch.Generator, n: int, *batch: int) -> Tensor:
    factor = noise(generator, *batch, n, n)
    return factor @ factor.mT + eye(generator, n)


def mask(generator: torch.Generator, *shape: int) -> Tensor:
    return noise(generator, *shape) > 0


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
def interpolate(g: torch.Generator) -> Case:
    latitude = torch.tensor([-80.0, -20.0, 10.0, 65.0], dtype=torch.float64, device=g.device)
    longitude = torch.arange(5, dtype=torch.float64, device=g.device) * 72
    phi = torch.tensor([-90.0, -85.0, 0.0, 10.0, 80.0, 90.0], dtype=torch.float64, device=g.device)
    lam = torch.tensor([0.0, 30.0, 350.0, -10.0, 700.0, 5.0], dtype=torch.float64, device=g.device)
    A = Interpolate(latitude, longitude, phi, lam)
    one = (A.weights[..., None] * eye(g, 20)[A.indices]).sum(1)
    return Interpolate(latitude, longitude, phi, lam, leading=2), block_diag(one, one)


@case
def bicubic(g: torch.Generator) -> Case:
    """Products of one-dimensional weights, by the four-point formula on the unrolled meridians."""
    latitude = torch.tensor([80.0, 30.0, -5.0, -50.0, -85.0], dtype=torch.float64, device=g.device)
    longitude = torch.arange(4, dtype=torch.float64, device=g.device) * 90 + 10
    phi = torch.tensor([88.0, 80.0, 12.0, -60.0, -90.0], dtype=torch.float64, device=g.device)
    lam = torch.tensor([0.0, 33.0, 350.0, -10.0, 700.0], dtype=torch.float64, device=g.device)
    matrix = torch.zeros(5, 20, dtype=torch.float64, device=g.device)
    # One meridian round the globe: down the front, up the back, from 260 to -280 degrees north.
    around = torch.cat((180 - latitude.flip(0), latitude, -180 - latitude.flip(0)))
    number = torch.cat((torch.arange(4, -1, -1), torch.arange(5), torch.arange(4, -1, -1)))
    for i in range(5):
        first = int((around >= phi[i]).sum()) - 2
        north = node_weights(-around[first : first + 4], -phi[i])
        for row in range(4):
            back = not 5 <= first + row < 10
            place = (lam[i] + 180 * back - 10) % 360 / 90
            nodes = place.floor() + torch.arange(-1.0, 3.0, dtype=torch.float64)
            for node, w in zip(nodes, node_weights(nodes, place), strict=True):
                matrix[i, int(number[first + row]) * 4 + int(node) % 4] += north[row] * w
    return Interpolate(latitude, longitude, phi, lam, method="bicubic"), matrix


@case
def coarsen(g: torch.Generator) -> Case:
    rows = block_diag(*[torch.full((1, 2), 0.5)] * 2).double().to(g.device)
    columns = block_diag(*[torch.full((1, 3), 1 / 3, dtype=torch.float64)] * 2).to(g.device)
    one = torch.kron(rows, columns)
    A = Coarsen((2, 3), (2, 4, 6))
    return A.to(torch.float64), block_diag(one, one)


@case
def weighted_coarsen(g: torch.Generator) -> Case:
    w = noise(g, 4, 1).square() + 0.1
    pairs = block_diag(*(w.reshape(2, 1, 2) / w.reshape(2, 2).sum(-1)[:, None, None]))
    return Coarsen((2, 1), (4, 3), weights=w), torch.kron(pairs, eye(g, 3))


@case
def shared_coarsen(g: torch.Generator) -> Case:
    """Five rows in blocks of two, the last of one; three columns in blocks of one and a half."""
    w = noise(g, 5, 3).square() + 0.1
    rows = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]).to(w)
    columns = torch.tensor([[1, 0.5, 0], [0, 0.5, 1]]).to(w)
    M = torch.kron(rows, columns) * w.reshape(-1)
    return Coarsen((2, 1.5), (5, 3), w), M / M.sum(1, keepdim=True)


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


def convolved(g: torch.Generator, boundary: Boundary, method: Method) -> Case:
    """A kernel of 2 x 3 on a grid of 4 x 3, element by element."""
    k = noise(g, 2, 3)
    M = torch.zeros(4, 3, 4, 3, dtype=k.dtype, device=g.device)
    for i, j, a, b in itertools.product(range(4), range(3), range(2), range(3)):
        row, column = i + 1 - a, j + 1 - b
        if boundary == "periodic":
            row, column = row % 4, column % 3
        elif boundary == "replicate":
            row, column = min(max(row, 0), 3), min(max(column, 0), 2)
        if 0 <= row < 4 and 0 <= column < 3:
            M[i, j, row, column] += k[a, b]
    A = Convolution(k, (2, 4, 3), boundary, method)
    return A, torch.kron(eye(g, 2), M.reshape(12, 12))


for boundary, method in itertools.product(BOUNDARIES, ("direct", "fft")):
    CASES[f"{boundary}_{method}_convolution"] = functools.partial(
        convolved, boundary=boundary, method=cast(Method, method)
    )


def dft(g: torch.Generator, n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64, device=g.device)
    return torch.polar(torch.ones(n, n).to(k) / n**0.5, -2 * torch.pi * torch.outer(k, k) / n)


@case
def fourier(g: torch.Generator) -> Case:
    F = torch.kron(dft(g, 3), dft(g, 4))
    M = torch.stack((F.real, F.imag), dim=1).reshape(24, 12)
    A = Fourier((2, 3, 4), axes=2)
    return A.to(torch.float64), torch.kron(eye(g, 2), M)


@case
def masked_fourier(g: torch.Generator) -> Case:
    kept = mask(g, 3, 4)
    F = torch.kron(dft(g, 3), dft(g, 4))[kept.reshape(-1)]
    real, imaginary = torch.stack((F.real, -F.imag), -1), torch.stack((F.imag, F.real), -1)
    M = torch.stack((real, imaginary), dim=1).reshape(-1, 24)
    return Fourier((3, 4), kept, complex_input=True).to(torch.float64), M


@case
def sparse(g: torch.Generator) -> Case:
    M = noise(g, 5, 6) * mask(g, 5, 6)
    return Sparse(M.to_sparse(), (2, 3)), M


@case
def line_integrals(g: torch.Generator) -> Case:
    """The length in a cell is that of the part of the line where all coordinates are in it."""
    a, b = (torch.rand(4, 2, generator=g, dtype=torch.float64, device=g.device) for _ in range(2))
    start, end = 6 * a - 1, 6 * b - 1
    end[0, 0] = start[0, 0]
    M = torch.zeros(4, 3, 2).to(start)
    for ray, row, column in itertools.product(range(4), range(3), range(2)):
        low, high = 0.0, 1.0
        for axis, (i, size) in enumerate(((row, 1.0), (column, 2.0))):
            p, d = float(start[ray, axis]), float(end[ray, axis] - start[ray, axis])
            if d == 0:
                low = low if i * size <= p < (i + 1) * size else 1.0
            else:
                near, far = sorted(((i * size - p) / d, ((i + 1) * size - p) / d))
                low, high = max(low, near), min(high, far)
        M[ray, row, column] = max(high - low, 0.0) * (end[ray] - start[ray]).norm()
    return LineIntegrals(start, end, (3, 2), (1.0, 2.0)), M.reshape(4, 6)


def shifted(g: torch.Generator, n: int, step: int, boundary: Boundary) -> Tensor:
    """The matrix that takes the element a step ahead."""
    place = torch.arange(n, device=g.device) + step
    if boundary == "zero":
        inside = (place >= 0) & (place < n)
        return eye(g, n)[place.clamp(0, n - 1)] * inside[:, None]
    return eye(g, n)[place % n if boundary == "periodic" else place.clamp(0, n - 1)]


def differences(g: torch.Generator, boundary: Boundary, scheme: Scheme) -> Case:
    one, rows, columns = eye(g, 2), eye(g, 3), eye(g, 4)
    parts = []
    for n in (3, 4):
        ahead, behind = shifted(g, n, 1, boundary), shifted(g, n, -1, boundary)
        parts.append(ahead - eye(g, n) if scheme == "forward" else (ahead - behind) / 2)
    grid = torch.cat((torch.kron(parts[0], columns) / 2, torch.kron(rows, parts[1])))
    A = Gradient((2, 3, 4), 2, (2.0, 1.0), boundary, scheme)
    return A.to(torch.float64), torch.kron(one, grid)


def laplacian(g: torch.Generator, boundary: Boundary) -> Case:
    parts = [
        shifted(g, n, 1, boundary) - 2 * eye(g, n) + shifted(g, n, -1, boundary) for n in (3, 4)
    ]
    M = torch.kron(parts[0], eye(g, 4)) / 4 + torch.kron(eye(g, 3), parts[1])
    return Laplacian((3, 4), None, (2.0, 1.0), boundary).to(torch.float64), M


for boundary in BOUNDARIES:
    CASES[f"{boundary}_laplacian"] = functools.partial(laplacian, boundary=boundary)
    for scheme in ("forward", "central"):
        CASES[f"{boundary}_{scheme}_gradient"] = functools.partial(
            differences, boundary=boundary, scheme=scheme
        )


@case
def divergence(g: torch.Generator) -> Case:
    A, M = differences(g, "replicate", "forward")
    return Divergence(A.in_shape, 2, (2.0, 1.0)).to(torch.float64), -M.mT


GRIDS = {"poles": (90.0, 30.0, -10.0, -90.0), "offset": (-80.0, -15.0, 35.0, 70.0)}


def sphere_rows(g: torch.Generator, grid: str) -> tuple[Tensor, list[float], list[float]]:
    """The latitudes, and in radians these and the edges of the rows."""
    degrees = GRIDS[grid]
    edges = [(a + b) / 2 for a, b in itertools.pairwise(degrees)]
    south = math.copysign(90.0, degrees[-1] - degrees[0])
    latitude = torch.tensor(degrees, dtype=torch.float64, device=g.device)
    radians = [[math.radians(a) for a in row] for row in (degrees, [-south, *edges, south])]
    return latitude, radians[0], radians[1]


def sphere_laplacian(g: torch.Generator, grid: str) -> Case:
    """Fluxes through the four edges of each cell; those of a cell at a pole are averaged."""
    latitude, phi, edge = sphere_rows(g, grid)
    M, radius, step = torch.zeros(4, 4, 4, 4, dtype=torch.float64), 2.0, math.pi / 2
    for i, j in itertools.product(range(4), range(4)):
        area = radius**2 * step * (math.sin(edge[i + 1]) - math.sin(edge[i]))
        pole = abs(abs(phi[i]) - math.pi / 2) < 1e-12
        for k in (i - 1, i + 1):
            if 0 <= k < 4:
                width = math.cos(edge[max(i, k)]) * step / (phi[k] - phi[i]) * (k - i) / area
                beyond = abs(abs(phi[k]) - math.pi / 2) < 1e-12
                for c in range(4) if pole or beyond else [j]:
                    M[i, j, k, c] += width / (4 if pole or beyond else 1)
                for c in range(4) if pole else [j]:
                    M[i, j, i, c] -= width / (4 if pole else 1)
        for c in (j - 1, j + 1):
            if not pole:
                width = (edge[i + 1] - edge[i]) / (step * math.cos(phi[i]) * area)
                M[i, j, i, c % 4] += width
                M[i, j, i, j] -= width
    A = SphereLaplacian(latitude, 4, radius=radius)
    return A, M.reshape(16, 16).to(g.device)


def sphere_divergence(g: torch.Generator, grid: str) -> Case:
    latitude, phi, edge = sphere_rows(g, grid)
    M, radius, step = torch.zeros(4, 4, 2, 4, 4, dtype=torch.float64), 2.0, math.pi / 2
    for i, j in itertools.product(range(4), range(4)):
        area = radius * step * (math.sin(edge[i + 1]) - math.sin(edge[i]))
        pole = abs(abs(phi[i]) - math.pi / 2) < 1e-12
        for k in (i - 1, i + 1):
            if 0 <= k < 4:
                flux = (k - i) * math.cos(edge[max(i, k)]) * step / area / 2
                for row, c in itertools.product((i, k), range(4) if pole else [j]):
                    M[i, j, 1, row, c] += flux / (4 if pole else 1)
        if not pole:
            for side in (-1, 1):
                M[i, j, 0, i, (j + side) % 4] += side * (edge[i + 1] - edge[i]) / area / 2
    A = SphereDivergence(latitude, 4, 1, radius=radius)
    return A, M.reshape(16, 32).to(g.device)


def sphere_gradient(g: torch.Generator, grid: str) -> Case:
    """Lagrange's derivatives along whole meridians, on the far side of the globe too."""
    latitude, phi, _ = sphere_rows(g, grid)
    M, radius = torch.zeros(2, 4, 4, 4, 4, dtype=torch.float64), 2.0
    poles = [abs(abs(a) - math.pi / 2) < 1e-12 for a in phi]
    turn = math.copysign(math.pi, phi[-1] - phi[0])
    around = [(a, i, 0) for i, a in enumerate(phi)]
    back = [(turn - a, i, 2) for i, a in reversed(list(enumerate(phi))) if not poles[i]]
    back_first = [(-turn - a, i, 2) for i, a in reversed(list(enumerate(phi))) if not poles[i]]
    ring = back_first + around + back
    for i, j in itertools.product(range(4), range(4)):
        at = ring.index((phi[i], i, 0))
        near = ring[at - 1 : at + 2]
        for node, row, half in near:
            a, b = (other for other, _, _ in near if other != node)
            slope = (2 * phi[i] - a - b) / ((node - a) * (node - b)) / radius
            M[1, i, j, row, (j + half) % 4] += slope
            if poles[i]:
                M[0, i, j, row, (j + 1 + half) % 4] += slope * (1 if phi[i] < 0 else -1)
        if not poles[i]:
            for side in (-1, 1):
                M[0, i, j, i, (j + side) % 4] += side / (math.pi * math.cos(phi[i]) * radius)
    A = SphereGradient(latitude, 4, radius=radius)
    return A, M.reshape(32, 16).to(g.device)


for grid in GRIDS:
    for make in (sphere_gradient, sphere_divergence, sphere_laplacian):
        CASES[f"{make.__name__}_{grid}"] = functools.partial(make, grid=grid)


@case
def radon(g: torch.Generator) -> Case:
    """Along columns, along diagonals, along rows."""
    angles = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64, device=g.device) * math.pi
    part = 2**0.5 - 1  # the two diagonals are half a pixel off the centre
    M = [
        [[1, 0, 1, 0], [0, 1, 0, 1]],
        [[part, 0, 1, part], [part, 1, 0, part]],
        [[0, 0, 1, 1], [1, 1, 0, 0]],
    ]
    matrix = torch.tensor(M, dtype=torch.float64, device=g.device)
    return Radon(angles, (2, 2), 2), matrix.reshape(6, 4)


@case
def stack(g: torch.Generator) -> Case:
    m, d = mask(g, 2, 3), noise(g, 2, 3)
    return Stack([Mask(m), Diagonal(d)]), torch.cat(
        (eye(g, 6)[m.reshape(-1)], torch.diag(d.reshape(-1)))
    )


@case
def block_diagonal(g: torch.Generator) -> Case:
    M, d = noise(g, 2, 3), noise(g, 2, 2)
    return BlockDiagonal([Dense(M), Diagonal(d)]), block_diag(M, torch.diag(d.reshape(-1)))


@case
def low_rank(g: torch.Generator) -> Case:
    F, d = noise(g, 2, 2, 3), noise(g, 2, 3).square() + 0.1
    return LowRankPlusDiagonal(F, d), F.flatten(1).mT @ F.flatten(1) + torch.diag(d.reshape(-1))


@case
def eigenbasis(g: torch.Generator) -> Case:
    Q = torch.linalg.qr(noise(g, 6, 4)).Q
    values, rest = noise(g, 4).square() + 0.1, noise(g).square() + 0.1
    M = Q @ torch.diag(values) @ Q.mT + rest * (eye(g, 6) - Q @ Q.mT)
    return Eigenbasis(Dense(Q, (2, 2), (2, 3)), values.reshape(2, 2), rest), M


@case
def batched_eigenbasis(g: torch.Generator) -> Case:
    Q = torch.linalg.qr(noise(g, 4, 2)).Q
    values, rest = noise(g, 3, 2).square() + 0.1, noise(g, 3).square() + 0.1
    outside = rest[:, None, None] * (eye(g, 4) - Q @ Q.mT)
    return Eigenbasis(Dense(Q), values, rest), Q @ torch.diag_embed(values) @ Q.mT + outside


@case
def complete_eigenbasis(g: torch.Generator) -> Case:
    Q, values = torch.linalg.qr(noise(g, 4, 4)).Q, noise(g, 4).square() + 0.1
    return Eigenbasis(Dense(Q), values), Q @ torch.diag(values) @ Q.mT


@case
def batched_low_rank(g: torch.Generator) -> Case:
    F, d = noise(g, 3, 1, 2, 5), noise(g, 2, 5).square() + 0.1
    return LowRankPlusDiagonal(F, d, event_ndim=1), F.mT @ F + torch.diag_embed(d)


@case
def factored(g: torch.Generator) -> Case:
    M = covariance(g, 6, 2)
    return Factored(torch.linalg.cholesky(M), (2, 3)), M


@case
def hartley(g: torch.Generator) -> Case:
    lines = [torch.arange(n, dtype=torch.float64, device=g.device) for n in (3, 4)]
    waves = [2 * torch.pi / len(line) * torch.outer(line, line) for line in lines]
    phase = (waves[0][:, None, :, None] + waves[1][None, :, None, :]).reshape(12, 12)
    return Hartley((3, 4), dtype=torch.float64, device=g.device), (
        (phase.cos() + phase.sin()) / 12**0.5
    )


def exponential(g: torch.Generator, shape: tuple[int, int], periodic: tuple[bool, bool]) -> Case:
    """A covariance of distances on a grid of 2 by 0.5, and its matrix."""
    apart = []
    for n, step, closed in zip(shape, (2.0, 0.5), periodic, strict=True):
        lag = torch.arange(n, dtype=torch.float64, device=g.device)
        lag = (lag[:, None] - lag).abs()
        apart.append(step * (torch.minimum(lag, n - lag) if closed else lag))
    r = (apart[0][:, None, :, None].square() + apart[1][None, :, None, :].square()).sqrt()
    A = Stationary.of(
        lambda r: torch.exp(-r),
        shape,
        spacing=(2.0, 0.5),
        periodic=periodic,
        dtype=torch.float64,
        device=g.device,
    )
    return A, torch.exp(-r).reshape(A.shape)


@case
def stationary(g: torch.Generator) -> Case:
    return exponential(g, (3, 4), (True, True))


@case
def padded_stationary(g: torch.Generator) -> Case:
    return exponential(g, (3, 4), (False, True))


@case
def batched_stationary(g: torch.Generator) -> Case:
    column = noise(g, 2, 5).square()
    spectrum = column + column.flip(-1).roll(1, -1)
    F = torch.fft.fft(eye(g, 5), norm="ortho")
    M = (F @ torch.diag_embed(spectrum).to(F.dtype) @ F.mH).real
    return Stationary(spectrum, event_ndim=1), M


@case
def kernel_covariance(g: torch.Generator) -> Case:
    places = noise(g, 6, 2) * 40
    kernel = SphereMatern(3000.0, nu=2.5, variance=2.0)
    return KernelCovariance(kernel, places, (2, 3)), kernel(places, places)


@case
def ensemble(g: torch.Generator) -> Case:
    F, d, rho = noise(g, 4, 2, 3), noise(g, 2, 3).square(), covariance(g, 3)
    flat = F.flatten(1)
    M = (flat.mT @ flat) * rho.repeat(2, 2) + torch.diag(d.reshape(-1))
    return Ensemble(F, d, Dense(rho, symmetric=True)), M


@case
def ensemble_of_places(g: torch.Generator) -> Case:
    F, d, rho = noise(g, 3, 2, 2), noise(g, 2, 2).square(), covariance(g, 4)
    flat = F.flatten(1)
    return Ensemble(F, d, Dense(rho, (2, 2), symmetric=True)), flat.mT @ flat * rho + torch.diag(
        d.reshape(-1)
    )


@case
def composition(g: torch.Generator) -> Case:
    m, M = mask(g, 2, 3), noise(g, 6, 4)
    return 2.0 * Mask(m) @ Dense(M, out_shape=(2, 3)), 2 * M[m.reshape(-1)]


@case
def batched_sum(g: torch.Generator) -> Case:
    M, d = noise(g, 3, 4, 4), noise(g, 4)
    return Dense(M) + Diagonal(d) - Identity(4), M + torch.diag(d) - eye(g, 4)


@case
def batched_multiple(g: torch.Generator) -> Case:
    c, M = noise(g, 2), noise(g, 3, 4)
    return Dense(M) * c[:, None, None], c[:, None, None] * M


@case
def innovation(g: torch.Generator) -> Case:
    H, V, r = noise(g, 3, 5), covariance(g, 5), noise(g, 3).square()
    S = InnovationCovariance(Dense(H), Dense(V, symmetric=True), Diagonal(r))
    return S, H @ V @ H.mT + torch.diag(r)


@case
def asymmetric_innovation(g: torch.Generator) -> Case:
    H, V = noise(g, 3, 5), noise(g, 2, 5, 5)
    S = InnovationCovariance(Dense(H), Dense(V), Isotropic(2.0, 3))
    return S, H @ V @ H.mT + 2 * eye(g, 3)


@case
def jacobian(g: torch.Generator) -> Case:
    W, x = noise(g, 4, 6), noise(g, 2, 3)
    J = Jacobian(lambda x: (W @ x.reshape(6)).tanh().reshape(2, 2), x)
    return J, (1 - (W @ x.reshape(6)).tanh().square())[:, None] * W


@case
def batched_jacobian(g: torch.Generator) -> Case:
    x = noise(g, 3, 4)
    J = Jacobian(lambda x: x.sin().cumsum(-1), x, event_ndim=1, forward="forward-mode")
    return J, torch.ones(4, 4, dtype=x.dtype, device=x.device).tril() * x.cos()[:, None]


@case
def tweedie(g: torch.Generator) -> Case:
    C, sigma, x_t = covariance(g, 4), noise(g, 3).square() + 0.1, noise(g, 3, 4)
    gain = 4 * C @ torch.linalg.inv(16 * C + sigma[:, None, None].square() * eye(g, 4))
    V = TweedieCovariance(
        lambda x, t: (gain @ x[..., None])[..., 0], x_t, sigma, 4.0, sigma, in_shape=4
    )
    return V, sigma[:, None, None].square() / 4 * gain


@case
def zero(g: torch.Generator) -> Case:
    A = Zero((2, 2), 3, (2,), dtype=torch.float64, device=g.device)
    return A, torch.zeros(2, 3, 4, dtype=torch.float64, device=g.device)


@case
def concatenate(g: torch.Generator) -> Case:
    m, M = mask(g, 5), noise(g, 2, 5, 4)
    placed = eye(g, 5)[:, m].expand(2, -1, -1)
    return Concatenate([Mask(m).T, Dense(M, (2, 2))]), torch.cat((placed, M), dim=-1)


@case
def kronecker(g: torch.Generator) -> Case:
    M, d, N = noise(g, 3, 4), noise(g, 2), noise(g, 3, 2)
    A = Kronecker([Dense(M, (2, 2)), Diagonal(d), Dense(N)])
    return A, torch.kron(torch.kron(M, torch.diag(d)), N)


@case
def batched_kronecker(g: torch.Generator) -> Case:
    M, N = noise(g, 3, 1, 2, 3), noise(g, 2, 2, 1)
    pairs = torch.einsum("aij,bkl->abikjl", M[:, 0], N).reshape(3, 2, 4, 3)
    return Kronecker([Dense(M), Dense(N)]), pairs


@case
def restrict(g: torch.Generator) -> Case:
    A = Restrict({"t": (2, 2), "p": 3, "q": ()}, "p").to(torch.float64).to(g.device)
    return A, eye(g, 8)[4:7]


@case
def power(g: torch.Generator) -> Case:
    M = noise(g, 2, 3, 3)
    return Dense(M) ** 3, M @ M @ M


@case
def inverse(g: torch.Generator) -> Case:
    M = noise(g, 2, 4, 4) + 4 * eye(g, 4)
    A = Dense(M, (2, 2), (2, 2)).inverse(GMRES(rtol=1e-13, max_iterations=8))
    return A, torch.linalg.inv(M)


@case
def symmetric_inverse(g: torch.Generator) -> Case:
    V = covariance(g, 4)
    return Dense(V, symmetric=True).inverse(), torch.linalg.inv(V)


@case
def pseudo_inverse(g: torch.Generator) -> Case:
    M = noise(g, 2, 3, 2) @ noise(g, 2, 2, 4)
    return Dense(M, (2, 2)).pseudo_inverse(), torch.linalg.pinv(M)


HOLDS_GRAPHS = {"jacobian", "batched_jacobian", "tweedie"}
UNPICKLABLE = HOLDS_GRAPHS | {"linear_function"}


@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, generator: torch.Generator) -> None:
    operator, matrix = CASES[name](generator)
    check_operator(operator, matrix, generator=generator, picklable=name not in UNPICKLABLE)


@pytest.mark.parametrize("name", CASES)
def test_contract_of_adjoints(name: str, generator: torch.Generator) -> None:
    operator, matrix = CASES[name](generator)
    check_operator(operator.T, matrix.mT, generator=generator, picklable=name not in UNPICKLABLE)


@pytest.mark.parametrize("name", sorted(HOLDS_GRAPHS))
def test_graphs_stay(name: str, generator: torch.Generator) -> None:
    operator, _ = CASES[name](generator)
    with pytest.raises(TypeError, match="linearize again"):
        (2.0 * operator.T @ operator).to(torch.float32)
    assert (
        operator.to(torch.float64)(torch.zeros(operator.in_shape).double()).dtype == torch.float64
    )


def test_check_operator_finds_a_wrong_adjoint(generator: torch.Generator) -> None:
    class Wrong(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(-1)

        def adjoint(self, y: Tensor) -> Tensor:
            self._check(y, self.out_shape)
            return y.cumsum(-1)

    with pytest.raises(AssertionError, match="adjoint"):
        check_operator(Wrong(3, 3, dtype=torch.float64), generator=generator)
