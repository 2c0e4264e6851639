"""Footprints, blocks, weighting functions, thinning: exact cases, and dense twins of operators."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from appa_prob.analysis_network import AnalysisNetwork
from appa_prob.catalogue import Catalogue, Channel
from appa_prob.declaration import parse_networks
from appa_prob.errors import UserError
from appa_prob.grid import EARTH_RADIUS, Grid, great_circle
from appa_prob.network import Network
from appa_prob.observe import Observations, observe
from appa_prob.operators import Coarsen, Interpolate, Mix
from appa_prob.operators.testing import check_operator
from appa_prob.quality import doubtful, doubtful_by_climatology, member_moments
from appa_prob.satellite_network import OrbitNetwork
from appa_prob.statistics import Statistics
from appa_prob.stencils import bilinear, block_means, compact, disc_means
from appa_prob.thinning import thin_by_distance
from appa_prob.weighting import WeightingFunction, weighting_matrix

LEVELS = (200.0, 500.0, 850.0)
CATALOGUE = Catalogue(
    (
        *(Channel("temperature", level, "K") for level in LEVELS),
        Channel("surface_pressure", None, "Pa"),
    )
)
GRID = Grid(np.arange(-80.0, 81.0, 20.0), np.arange(0.0, 360.0, 20.0))
TIMES = np.datetime64("2003-06-01T00", "ns") + np.arange(2) * np.timedelta64(6, "h")
SHAPE = (2, 4, 9, 18)


def fields(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def declared(**keys: Any) -> Network:
    common = {"variables": ["temperature"], "error": {"temperature": "1 K"}}
    (network,) = parse_networks({"networks": [common | keys]}, Path())
    return network


def orbit(**keys: Any) -> Network:
    orbits = [{"altitude": "800 km", "inclination": 75}]
    return declared(network="orbit", orbits=orbits, **keys)


def draw(*networks: Network, truth: torch.Tensor | None = None) -> Observations:
    truth = fields() if truth is None else truth
    generator = torch.Generator().manual_seed(0)
    return observe(networks, truth, TIMES, CATALOGUE, GRID, generator=generator)


def statistics() -> Statistics:
    generator = torch.Generator().manual_seed(1)
    coefficients = 10 * torch.randn((1, *SHAPE[1:]), generator=generator)
    return Statistics(coefficients, torch.tensor([1.0, 2.0, 3.0, 100.0]))


def test_a_footprint_averages_over_a_disc() -> None:
    # The mean of sin(latitude) over a cap of radius a is that at its centre times (1 + cos a) / 2;
    # the rule of 19 points has this to fourth order, and interpolation on a fine grid to second.
    grid = Grid(np.arange(-89.5, 90.0), np.arange(0.0, 360.0))
    x = np.sin(np.deg2rad(np.repeat(grid.latitude, 360)))
    latitude, longitude = np.array([40.0, -75.0, 90.0]), np.array([3.0, 200.0, 0.0])
    diameter = 2000.0
    cells, weights = disc_means(latitude, longitude, grid, diameter)
    found = (x[cells] * weights).sum(-1) / np.sin(np.deg2rad(latitude))
    expected = (1 + np.cos(diameter / 2 / EARTH_RADIUS)) / 2
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(weights.sum(-1), 1.0)
    point = disc_means(latitude, longitude, grid, 1e-6)
    exact = bilinear(latitude, longitude, grid)
    np.testing.assert_allclose(
        (x[point[0]] * point[1]).sum(-1), (x[exact[0]] * exact[1]).sum(-1), atol=1e-9
    )


def test_compacting_leaves_the_sums() -> None:
    rng = np.random.default_rng(0)
    cells, weights = rng.integers(0, 6, (20, 12)), rng.random((20, 12))
    x = rng.random(6)
    found = compact(cells, weights)
    assert found[0].shape[1] <= 6
    np.testing.assert_allclose((x[found[0]] * found[1]).sum(1), (x[cells] * weights).sum(1))


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_blocks_are_those_of_coarsen(factor: int) -> None:
    network = AnalysisNetwork(
        factor=factor, variables=("surface_pressure",), error={"surface_pressure": "1 hPa"}
    )
    truth = fields().double()
    H = draw(network).operator
    coarsen = Coarsen(factor, (9, 18), latitude=torch.tensor(GRID.latitude))
    expected = coarsen(truth[:, 3]).flatten()
    torch.testing.assert_close(H(truth), expected, rtol=1e-6, atol=1e-6)


def test_block_means_weigh_by_area() -> None:
    cells, weights = block_means(np.array([-80.0]), np.array([0.0]), GRID, 2)
    expected = np.repeat(GRID.weights[:2], 2)
    assert cells.tolist() == [[0, 1, 18, 19]]
    np.testing.assert_allclose(weights[0], expected / expected.sum())


def test_weighting_functions_are_a_mix_of_levels_interpolated_to_points() -> None:
    functions = [{"peak": 300.0, "width": 0.5}, {"peak": 800.0, "width": 0.1}]
    observations = draw(orbit(weighting=functions))
    matrix = torch.tensor(
        weighting_matrix(LEVELS, [WeightingFunction(**function) for function in functions])
    )
    truth = fields().double()
    first = observations.time == 0
    points = Interpolate(
        torch.tensor(GRID.latitude),
        torch.tensor(GRID.longitude),
        torch.tensor(observations.latitude[first][::2]),
        torch.tensor(observations.longitude[first][::2]),
        leading=(2,),
    )
    twin = points @ Mix(matrix, (3, 9, 18))
    found = observations.operator(truth)[torch.tensor(first)]
    torch.testing.assert_close(found, twin(truth[0, :3]).T.flatten(), rtol=1e-5, atol=1e-6)
    assert set(observations.channel[::2]) == {1} and set(observations.channel[1::2]) == {2}


def test_weights_of_levels() -> None:
    narrow = weighting_matrix(LEVELS, [WeightingFunction(peak=490.0, width=1e-3)])
    np.testing.assert_allclose(narrow, [[0.0, 1.0, 0.0]])
    # Very wide functions weigh levels by their thickness in the logarithm of pressure.
    wide = weighting_matrix((850.0, 200.0, 500.0), [WeightingFunction(peak=500.0, width=1e4)])
    gaps = np.log([850 / 500, 500 / 200, 850 / 200])
    np.testing.assert_allclose(wide[0], gaps / gaps.sum(), rtol=1e-6)
    assert weighting_matrix([500.0], [WeightingFunction(peak=1.0, width=1.0)]) == [[1.0]]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"footprint": "1500 km"},
        {"weighting": [{"peak": 400.0, "width": 0.7}], "footprint": "800 km"},
    ],
)
def test_operators_pass_the_contract(keys: dict[str, Any]) -> None:
    check_operator(draw(orbit(spacing="4000 km", **keys)).operator)


def test_several_networks_are_stacked() -> None:
    parts = [orbit(footprint="1500 km", name="sounder"), declared(network="stations")]
    whole = draw(*parts)
    both = [draw(part).operator for part in parts]
    truth = fields(3)
    expected = torch.cat([H(truth) for H in both])
    torch.testing.assert_close(whole.operator(truth), expected)
    y = torch.randn(len(whole), generator=torch.Generator().manual_seed(2))
    split = len(draw(parts[0]))
    adjoint = both[0].adjoint(y[:split]) + both[1].adjoint(y[split:])
    torch.testing.assert_close(whole.operator.adjoint(y), adjoint)


def test_mixed_levels_are_observed_of_standardised_states_too() -> None:
    observations = draw(orbit(weighting=[{"peak": 400.0, "width": 0.7}]))
    own = statistics()
    H = observations.standardised_operator(own)
    truth = fields(4)
    y, variance = observations.standardised(own, TIMES)
    residual = (observations.values - observations.operator(truth)) / observations.errors
    found = (y - H(own.standardise(truth, TIMES))) / variance.sqrt()
    torch.testing.assert_close(found, residual, rtol=1e-4, atol=1e-4)
    plain = draw(orbit())
    assert plain.standardised_operator(own) is plain.operator


def test_known_biases_are_in_the_values_and_taken_away() -> None:
    plain, biased = (
        draw(declared(network="stations", bias=bias)) for bias in ({}, {"temperature": "-3 K"})
    )
    torch.testing.assert_close(biased.values, plain.values - 3.0)
    own = statistics()
    for found, expected in zip(
        biased.standardised(own, TIMES), plain.standardised(own, TIMES), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_quality_control_leaves_out_gross_errors_alone() -> None:
    own = statistics()
    truth = own.climatology(TIMES)
    network = declared(network="stations")
    clean = draw(network, truth=truth)
    background = torch.full(SHAPE[1:], 0.1)
    # Errors of 1 K about the climatology, of at most six standard deviations.
    assert not doubtful_by_climatology(clean, own, background, TIMES, 6.0).any()
    values = clean.values.clone()
    values[[3, 7]] += torch.tensor([50.0, -50.0])
    gross = Observations(**{**vars(clean), "values": values})
    found = doubtful_by_climatology(gross, own, background, TIMES, 6.0)
    assert np.flatnonzero(found).tolist() == [3, 7]
    # A wide background lets them pass.
    wide = torch.full(SHAPE[1:], 50.0)
    assert not doubtful_by_climatology(gross, own, wide, TIMES, 6.0).any()


def test_an_ensemble_as_background_refuses_what_it_cannot_explain() -> None:
    """Three members cannot tell a deviation of 1 K, but all observations of a channel together."""
    truth = fields()
    seen = draw(declared(network="stations"), truth=truth)
    g = torch.Generator().manual_seed(5)
    members = truth + torch.randn((3, *SHAPE), generator=g)
    mean, variance = member_moments(seen.operator(members), 3)
    spread = variance.mean()
    assert 0.3 < spread < 4 / 3 + 0.2
    assert not doubtful(seen, mean, variance, 6.0).any()
    values = seen.values.clone()
    values[[3, 7]] += torch.tensor([40.0, -40.0])
    gross = Observations(**{**vars(seen), "values": values})
    assert np.flatnonzero(doubtful(gross, mean, variance, 6.0)).tolist() == [3, 7]
    # Biases are known, and no errors.
    biased = Observations(
        **{**vars(seen), "values": seen.values + 40.0, "biases": 40.0 + 0 * values}
    )
    assert not doubtful(biased, mean, variance, 6.0).any()
    # Members that agree by chance are not sure.
    chance = torch.where(torch.arange(len(values)) == 5, 0.0, variance)
    assert not doubtful(seen, mean, chance, 6.0).any()


def test_points_that_are_thinned_are_far_apart_and_none_is_missing() -> None:
    rng = np.random.default_rng(0)
    time = np.repeat([0, 1], 150)
    latitude, longitude = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 300))), rng.uniform(0, 360, 300)
    kept = thin_by_distance(time, latitude, longitude, 1000.0)
    for index in (0, 1):
        here, own = np.flatnonzero(time == index), kept[time[kept] == index]
        between = great_circle(
            latitude[own, None], longitude[own, None], latitude[own], longitude[own]
        )
        assert (between + 1e5 * np.eye(len(own))).min() >= 1000.0
        near = great_circle(
            latitude[here, None], longitude[here, None], latitude[own], longitude[own]
        )
        assert near.min(1).max() < 1000.0
    assert len(draw(orbit(spacing="3000 km"))) < len(draw(orbit())) / 3


def test_stations_may_tell_their_variables_and_heights(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(
        "id,latitude,longitude,elevation,variables\n"
        "a,0,0,10,temperature\n"
        "b,40,100,900,temperature; surface_pressure\n"
        "c,-40,200,3000,\n"
    )
    keys = {
        "network": "stations",
        "file": str(tmp_path / "s.csv"),
        "variables": ["temperature", "surface_pressure"],
        "error": {"temperature": "1 K", "surface_pressure": "1 hPa"},
    }
    seen = [(int(c), lat) for c, lat in zip(*_first(draw(declared(**keys))), strict=True)]
    assert sorted(seen) == [(2, -40.0), (2, 0.0), (2, 40.0), (3, -40.0), (3, 40.0)]
    low = draw(declared(**keys, highest="1 km"))
    assert set(low.latitude) == {0.0, 40.0}


def _first(observations: Observations) -> tuple[np.ndarray, np.ndarray]:
    here = observations.time == 0
    return observations.channel[here], observations.latitude[here]


def test_stations_are_read_from_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    from appa_prob.stations import read_stations

    table = read_stations()
    table.to_parquet(tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(read_stations(tmp_path / "s.parquet"), table, check_dtype=False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"levels": [500.0], "weighting": [{"peak": 1.0, "width": 1.0}]}, "expected `levels` or"),
        ({"footprint": "2 K"}, 'footprint: "2 K" is a temperature; expected a length in km'),
        ({"spacing": "far"}, 'spacing: "far" is no number with a unit; expected a length in km'),
        ({"bias": {"humidity": "1 K"}}, 'unknown variable of `bias` "humidity"'),
        ({"bias": {"temperature": "1 Pa"}}, 'bias for temperature: "1 Pa" is a pressure'),
        ({"weighting": []}, "expected a list of weighting functions"),
        ({"orbits": []}, "expected a list of orbits"),
    ],
)
def test_bad_declarations_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match='network "orbit": .*' + re.escape(message)):
        given = {"orbits": [{"altitude": "800 km", "inclination": 75}]} | keys
        draw(declared(network="orbit", **given))


def test_declarations_survive_json() -> None:
    network = orbit(footprint="50 km", spacing="300 km", weighting=[{"peak": 500, "width": 0.5}])
    assert isinstance(network, OrbitNetwork)
    (again,) = parse_networks({"networks": [network.model_dump(mode="json")]}, Path())
    assert again == network
