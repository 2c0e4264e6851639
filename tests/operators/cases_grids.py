"""Operators on grids, on the sphere and of Fourier, with their dense twins."""

import functools
import itertools
import math
from typing import cast

import torch
from torch import Tensor

from appa_prob.operators import (
    Coarsen,
    Convolution,
    Divergence,
    Fourier,
    Gradient,
    Hartley,
    Interpolate,
    Laplacian,
    LineIntegrals,
    Radon,
    Sparse,
    SphereDivergence,
    SphereGradient,
    SphereLaplacian,
)
from appa_prob.operators.convolution import Method
from appa_prob.operators.differences import Scheme
from appa_prob.operators.interpolate import node_weights
from appa_prob.operators.pad import BOUNDARIES, Boundary
from tests.operators.cases import CASES, Case, block_diag, case, eye, mask, noise


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
def hartley(g: torch.Generator) -> Case:
    lines = [torch.arange(n, dtype=torch.float64, device=g.device) for n in (3, 4)]
    waves = [2 * torch.pi / len(line) * torch.outer(line, line) for line in lines]
    phase = (waves[0][:, None, :, None] + waves[1][None, :, None, :]).reshape(12, 12)
    return Hartley((3, 4), dtype=torch.float64, device=g.device), (
        (phase.cos() + phase.sin()) / 12**0.5
    )
