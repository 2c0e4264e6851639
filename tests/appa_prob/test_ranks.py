"""Rank histograms and reliability of ensembles that are calibrated, and that are not."""

import numpy as np
import pytest
import scoringrules
import xarray as xr
from scipy import stats

from appa_prob.ranks import rank_histogram
from appa_prob.regions import REGIONS
from appa_prob.reliability import brier_score, decompose_brier, reliability

# Rows of equal area, so that all points weigh the same and counts are binomial.
LATITUDE = np.rad2deg(np.arcsin(np.linspace(-0.95, 0.95, 20)))
COORDS = {"latitude": LATITUDE, "longitude": np.arange(40) * 9.0}
CASES = 20 * 40 * 25


def draw(seed: int, **sizes: int) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    return xr.DataArray(
        rng.standard_normal((*sizes.values(), 20, 40)), dims=(*sizes, *COORDS), coords=COORDS
    )


def p_value(histogram: xr.DataArray) -> float:
    counts = histogram.mean("time").values * CASES
    return float(stats.chisquare(counts).pvalue)


@pytest.fixture(scope="module")
def members() -> xr.DataArray:
    return draw(0, time=25, member=7)


def test_a_calibrated_ensemble_has_flat_ranks(members: xr.DataArray) -> None:
    # A correct histogram fails with probability 1e-4; rows' weights differ by 1 % or so.
    histogram = rank_histogram(members, draw(1, time=25))
    assert np.allclose(histogram.sum("rank"), 1.0)
    assert p_value(histogram) > 1e-4


@pytest.mark.parametrize(("scale", "shift"), [(1.1, 0.0), (0.9, 0.0), (1.0, 0.05)])
def test_an_ensemble_that_is_not_calibrated_has_not(
    members: xr.DataArray, scale: float, shift: float
) -> None:
    histogram = rank_histogram(members, scale * draw(1, time=25) + shift)
    assert p_value(histogram) < 1e-4
    ends = histogram.isel(rank=[0, -1]).mean("time").values
    if shift:
        assert ends[1] > ends[0]
    else:
        assert (ends > 1 / 8).all() == (scale > 1)


def test_ranks_count_the_area_and_leave_out_what_is_absent() -> None:
    truth = draw(0).where(lambda x: x.latitude < 0)
    ensemble = xr.DataArray([-9.0, -8.0, 9.0], dims="member") + 0 * draw(1)
    assert rank_histogram(ensemble, truth).values.tolist() == pytest.approx([0, 0, 1, 0])
    north = REGIONS["northern-hemisphere"]
    assert np.isnan(rank_histogram(ensemble, truth, north)).all()


def test_ties_share_their_ranks() -> None:
    dry = 0 * draw(0)
    members = xr.DataArray([-1.0, 0.0, 0.0, 1.0], dims="member") + dry
    assert rank_histogram(members, dry).values.tolist() == pytest.approx(
        [0, 1 / 3, 1 / 3, 1 / 3, 0]
    )


def test_probabilities_of_a_calibrated_ensemble_are_reliable() -> None:
    # The probability of each point varies; members and truth are draws of it. The frequency of a
    # bin of n cases is within 5 standard errors of what it must be: its mean probability, which
    # for a flat law of probabilities is (k + 1) / (M + 2) (Laplace's rule of succession).
    rng = np.random.default_rng(0)
    chance = xr.DataArray(rng.random((25, 20, 40)), dims=("time", *COORDS), coords=COORDS)
    uniform = [
        xr.DataArray(rng.random((n, 25, 20, 40)), dims=("member", *chance.dims), coords=COORDS)
        for n in (8, 1)
    ]
    forecast, truth = ((u < chance).astype(float) for u in uniform)
    shares = reliability(forecast, truth.isel(member=0), 0.5).mean("time")
    cases, events = shares.sel(share="cases"), shares.sel(share="events")
    expected = (np.arange(9) + 1) / 10
    error = 5 * np.sqrt(expected * (1 - expected) / (cases * CASES))
    assert (abs(events / cases - expected) < error).all()
    assert np.allclose(cases, 1 / 9, atol=5 * np.sqrt(1 / 9 * 8 / 9 / CASES))


def test_murphy_s_parts_make_up_the_score_of_brier() -> None:
    forecast, truth = draw(0, time=3, member=6), draw(1, time=3)
    forecast = forecast + 0.8 * truth
    shares = reliability(forecast, truth, 0.3)
    parts = decompose_brier(shares)
    signs = xr.DataArray([1.0, -1.0, 1.0], {"part": ["reliability", "resolution", "uncertainty"]})
    xr.testing.assert_allclose((signs * parts).sum("part"), brier_score(shares))
    p, o = (forecast > 0.3).mean("member"), (truth > 0.3).astype(float)
    exact = scoringrules.brier_score(o.values, p.values)
    weights = REGIONS["globe"].weights(truth).values
    expected = (exact * weights).mean((1, 2)) / weights.mean()
    np.testing.assert_allclose(brier_score(shares), expected, rtol=1e-12)
