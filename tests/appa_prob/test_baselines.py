"""Optimal interpolation is the exact posterior; scores are those of closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from appa_prob.appa import Appa
from appa_prob.baselines import EofConfig, OptimalInterpolation, climatology, train_eofs
from appa_prob.dataset import open_dataset, read_states
from appa_prob.declaration import parse_networks
from appa_prob.eof_prior import fit_eofs, load_eofs, localisation, save_eofs
from appa_prob.errors import UserError
from appa_prob.grid import Grid
from appa_prob.observe import Observations, observe_truth
from appa_prob.observer import Observer
from appa_prob.operators import Ensemble, WeightedGather
from appa_prob.states import Period

GRID = Grid(np.linspace(-60, 60, 4), np.linspace(0, 315, 8))


def test_localisation_is_a_correlation_of_places() -> None:
    rho = localisation(GRID, 3000.0)
    assert rho.in_shape == (4, 8)
    torch.testing.assert_close(rho.diagonal(), torch.ones(32))
    assert torch.linalg.eigvalsh(rho.matrix.double()).min() > 0 and (rho.matrix[0, 4] == 0)


def test_eofs_are_the_leading_ones() -> None:
    g = torch.Generator().manual_seed(0)
    modes = torch.linalg.qr(torch.randn(64, 5, generator=g)).Q.T
    size = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    x = (torch.randn(4000, 5, generator=g) * size) @ modes + 0.01 * torch.randn(
        4000, 64, generator=g
    )
    F = fit_eofs(x.reshape(4000, 2, 4, 8), torch.ones(4), 3).flatten(1)
    torch.testing.assert_close(F.norm(dim=1), size[:3], rtol=0.05, atol=0.0)
    overlap = (F / F.norm(dim=1, keepdim=True) * modes[:3]).sum(1).abs()
    assert (overlap > 0.99).all()


def test_eofs_survive_being_packed(tmp_path: Path) -> None:
    grid = Grid(np.linspace(-82, 82, 12), np.linspace(0, 345, 24))
    phi = torch.tensor(np.deg2rad(grid.latitude)).float().unsqueeze(-1)
    lam = torch.tensor(np.deg2rad(grid.longitude)).float()
    F = torch.stack((phi.sin().expand(12, 24), phi.cos() * lam.cos())).unsqueeze(1)
    save_eofs(tmp_path / "f.safetensors", F, grid, degree=4, length=2000.0)
    V = load_eofs(tmp_path / "f.safetensors", grid, 2 * torch.ones(1, 12, 24))
    torch.testing.assert_close(V.factor, F, rtol=0.0, atol=0.02)
    expected = 4 * torch.ones(1, 12, 24)
    torch.testing.assert_close(V.diagonal().reshape(1, 12, 24), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="EOFs of 1 channels, the model 3"):
        load_eofs(tmp_path / "f.safetensors", grid, torch.ones(3, 12, 24))


def test_optimal_interpolation_is_the_exact_posterior(tiny_model: Path, world: Path) -> None:
    appa = Appa.from_pretrained(tiny_model)
    truth, times = read_states(open_dataset(world).isel(time=slice(3)), appa.catalogue)
    g = torch.Generator().manual_seed(0)
    F = torch.randn(4, 5, 8, 16, generator=g)
    V = Ensemble(F, torch.full((5, 8, 16), 0.2), localisation(appa.grid, 6000.0))
    indices = torch.randint(truth[0].numel(), (40, 2), generator=g) + truth[0].numel()
    H = WeightedGather(indices, torch.full((40, 2), 0.5), truth.shape)
    channel = (indices[:, 0] - truth[0].numel()).numpy() // 128
    zeros = np.zeros(40)
    observations = Observations(
        H,
        H(truth),
        torch.full((40,), 2.0),
        np.ones(40, dtype=int),
        channel,
        zeros,
        zeros,
        torch.zeros(40),
    )
    interpolate = OptimalInterpolation(appa, V, observations, times)
    mean, std = interpolate(1)
    y, variance = observations.at(1).standardised(appa.statistics, times[1:2])
    A = observations.at(1).standardised_operator(appa.statistics).to_dense().double()
    C = V.to_dense().double()
    S = A @ C @ A.T + torch.diag(variance.double())
    gain = C @ A.T @ torch.linalg.inv(S)
    scale = appa.statistics.scale.reshape(-1, 1, 1)
    left = (C - gain @ A @ C).diagonal().sqrt().float().reshape(5, 8, 16) * scale
    anomaly = (gain @ y.double()).float().reshape(5, 8, 16)
    # Where little variance is left, single precision leaves it few digits.
    torch.testing.assert_close(std, left, rtol=5e-3, atol=1e-4)
    expected = appa.statistics.restore(anomaly.unsqueeze(0), times[1:2])[0]
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-3)
    none, prior = interpolate(0)
    clim, _ = climatology(appa, times)
    torch.testing.assert_close(none, clim[0])
    assert (std <= prior * 1.0001).all()


def test_what_all_states_observe_is_conditioned_on_once(tiny_model: Path, world: Path) -> None:
    """States that share stations, with other values, have the posterior that they have alone."""
    appa = Appa.from_pretrained(tiny_model)
    truth, times = read_states(open_dataset(world).isel(time=slice(3)), appa.catalogue)
    shared = {"variables": ["temperature"], "error": {"temperature": "1 K"}}
    stations = {"network": "stations", **shared}
    satellite = {"network": "satellite", "satellites": ["NOAA-20"], **shared}
    V = Ensemble(
        torch.randn(4, 5, 8, 16, generator=torch.Generator().manual_seed(0)),
        torch.full((5, 8, 16), 0.2),
        localisation(appa.grid, 6000.0),
    )
    # Twice the same at some states: then they are not what all states have.
    twice = {**stations, "name": "again", "times": {"every": 2}}
    for declared, share in (([stations, satellite], 1), ([stations, twice, satellite], 0)):
        networks = parse_networks({"networks": declared}, Path())
        seen = observe_truth(appa, networks, truth, times, 0)
        together = OptimalInterpolation(appa, V, seen, times)
        count = len(observe_truth(appa, networks[:1], truth, times, 0).at(0))
        assert len(together.common) == share * count
        for state in range(3):
            alone = OptimalInterpolation(appa, V, seen, times, [state])(state)
            for found, expected in zip(together(state), alone, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_parts_of_a_trajectory_are_interpolated_as_the_whole(
    tiny_model: Path, world: Path
) -> None:
    """Read some states at a time, where sums are as long as footprints of these states ask for."""
    appa = Appa.from_pretrained(tiny_model)
    truth, times = read_states(open_dataset(world).isel(time=slice(4)), appa.catalogue)
    shared = {"variables": ["temperature"], "error": {"temperature": "1 K"}}
    stations = {"network": "stations", **shared}
    wide = {"network": "satellite", "satellites": ["NOAA-20"], "footprint": "3000 km", **shared}
    networks = parse_networks(
        {"networks": [stations, wide | {"times": {"every": 4}, "spacing": "5000 km"}]}, Path()
    )
    V = Ensemble(
        torch.randn(4, 5, 8, 16, generator=torch.Generator().manual_seed(0)),
        torch.full((5, 8, 16), 0.2),
        localisation(appa.grid, 6000.0),
    )
    whole = observe_truth(appa, networks, truth, times, 0)
    parts = Observer(appa, networks, truth, times, 0, at_once=2)
    widths = [parts.at(i).operator.weights.shape[1] for i in (0, 2)]
    assert widths[0] > widths[1]
    one, other = (OptimalInterpolation(appa, V, seen, times) for seen in (whole, parts))
    assert len(one.common) == len(other.common) > 0
    for state in range(4):
        for found, expected in zip(other(state), one(state), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_eofs_can_be_trained(tiny_model: Path, world: Path, tmp_path: Path) -> None:
    config = EofConfig(
        data=world, model=str(tiny_model), train=Period(stop="2003-06-30"), rank=6, degree=4
    )
    train_eofs(config, tmp_path / "eofs.safetensors")
    appa = Appa.from_pretrained(tiny_model)
    V = load_eofs(tmp_path / "eofs.safetensors", appa.grid, appa.variability)
    share = V.factor.square().sum() / appa.variability.square().sum()
    assert 0.5 < float(share) < 1.1
    with pytest.raises(UserError, match="--overwrite"):
        train_eofs(config, tmp_path / "eofs.safetensors")
