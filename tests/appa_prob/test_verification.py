"""Scores: the published ones, closed forms, and other implementations."""

from pathlib import Path

import numpy as np
import pytest
import scoringrules
import torch
import xarray as xr
from safetensors.numpy import load_file

from appa_prob.errors import UserError
from appa_prob.operators.sphere import row_areas
from appa_prob.regions import GLOBE, REGIONS, Region, average, select_regions
from appa_prob.verification import (
    anomaly_correlation,
    crps,
    energy_score,
    gaussian_crps,
    score,
    score_gaussian_forecast,
    summarise,
)

FIXTURE = load_file(Path(__file__).parent / "data" / "metrics.safetensors")
LATITUDE = np.linspace(-78.75, 78.75, 8)
LONGITUDE = np.arange(16) * 22.5
SPACE = {"latitude": LATITUDE, "longitude": LONGITUDE}


def draw(seed: int, **sizes: int) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    shape = (*sizes.values(), len(LATITUDE), len(LONGITUDE))
    return xr.DataArray(rng.standard_normal(shape), dims=(*sizes, *SPACE), coords=SPACE)


def published(name: str, levels: bool) -> tuple[xr.DataArray, xr.DataArray, list[Region]]:
    latitude = FIXTURE["latitude"].astype(float)
    coords = {"latitude": latitude, "longitude": np.arange(16) * 22.5}
    dims = ["time", "member", "lead_time", *(["level"] if levels else []), *coords]
    forecast = xr.DataArray(FIXTURE[f"{name}_forecast"].astype(float), dims=dims, coords=coords)
    dims.remove("member")
    truth = xr.DataArray(FIXTURE[f"{name}_truth"].astype(float), dims=dims, coords=coords)
    mask = xr.DataArray(FIXTURE["ocean_mask"].astype(bool), coords, dims=list(coords))
    return forecast, truth, [Region("ocean", mask=mask), GLOBE]


@pytest.mark.parametrize(("name", "levels"), [("sst", False), ("atm", True)])
def test_scores_are_those_of_the_published_evaluation(name: str, levels: bool) -> None:
    forecast, truth, regions = published(name, levels)
    found = score(forecast, truth, regions=regions).sel(score=["crps", "mse", "variance"])
    dims = ("time", "score", "region", "lead_time", *(["level"] if levels else []))
    expected = FIXTURE[f"{name}_all_f64"]
    # Absent over land, where the sea has no temperature: so is the average over the globe.
    np.testing.assert_allclose(found.transpose(*dims).values, expected, rtol=1e-12)


def test_summaries_are_those_of_the_published_evaluation() -> None:
    forecast, truth, regions = published("sst", False)
    found = summarise(score(forecast, truth, regions=regions), members=5)
    found = found.sel(score=["crps", "rmse", "spread", "spread_skill"])
    found = found.transpose("score", "region", "lead_time")
    np.testing.assert_allclose(found.values, FIXTURE["sst_avg_ensembles_f64"], rtol=1e-12)
    mean = found.mean("lead_time", skipna=False)
    np.testing.assert_allclose(mean.values, FIXTURE["sst_avg_time_f64"], rtol=1e-12)


def test_weights_are_the_published_ones_and_those_of_the_operators() -> None:
    latitude = FIXTURE["latitude"].astype(float)
    field = xr.DataArray(np.ones((9, 2)), {"latitude": latitude, "longitude": [0.0, 180.0]})
    weights = GLOBE.weights(field).values[:, 0]
    np.testing.assert_allclose(weights, FIXTURE["lat_weights_north_first"], rtol=1e-12)
    areas = row_areas(torch.from_numpy(latitude)).numpy()
    np.testing.assert_allclose(weights / 9, areas, rtol=1e-12)


def test_the_average_of_a_field_does_not_depend_on_the_order_of_rows() -> None:
    x = draw(0, level=2)
    for region in (GLOBE, *select_regions(["europe", "extra-tropics"])):
        flipped = average(x.isel(latitude=slice(None, None, -1)), region)
        xr.testing.assert_allclose(flipped, average(x, region))


def test_regions_hold_the_points_between_their_edges() -> None:
    degrees = {"latitude": np.arange(-90.0, 91.0, 5.0), "longitude": np.arange(0.0, 360.0, 2.5)}
    field = xr.DataArray(np.zeros((37, 144)), degrees)
    inside = REGIONS["europe"].weights(field) > 0
    longitude = field.longitude.where(inside.any("latitude"), drop=True)
    assert float(longitude.where(longitude > 180).min()) == 347.5
    assert float(longitude.where(longitude < 180).max()) == 42.5
    latitude = field.latitude.where(inside.any("longitude"), drop=True)
    assert latitude.values.tolist() == np.arange(35.0, 76.0, 5.0).tolist()
    tropics, rest = (REGIONS[name].weights(field) > 0 for name in ("tropics", "extra-tropics"))
    assert bool((tropics | rest).all())


def test_what_lies_outside_of_a_region_does_not_count() -> None:
    x = draw(0).where(lambda x: x.latitude > 0)
    assert np.isnan(average(x))
    assert np.isfinite(average(x, REGIONS["arctic"]))


def test_fields_can_have_masks_of_their_own() -> None:
    members = xr.concat([draw(0, level=2) * 0 + x for x in (1.0, 3.0)], "member")
    truth = (draw(0, level=2) * 0).transpose("level", ...).copy()
    truth[0, 2, 3], truth[1, 4] = 100.0, -50.0
    found = summarise(score(members, truth, regions=[Region("x", mask=truth == 0)], joint=False))
    assert found.sel(score="rmse").values.tolist() == [[2.0, 2.0]]
    assert "energy_score" not in found.score
    everywhere = summarise(score(members, truth, joint=False))
    assert (everywhere.sel(score="rmse") > 2.5).all()


def test_unknown_and_empty_regions_are_refused() -> None:
    with pytest.raises(UserError, match='unknown region "tropic"; did you mean "tropics"'):
        select_regions(["tropic"])
    with pytest.raises(UserError, match='no point of the grid lies in the region "pole"'):
        average(draw(0), Region("pole", ((89.0, 90.0),)))


def test_crps_of_an_ensemble_of_a_gaussian_is_that_of_the_gaussian() -> None:
    # 20,000 draws of the fair score of 10 members: its mean within five standard errors.
    rng = np.random.default_rng(0)
    members = xr.DataArray(rng.standard_normal((20_000, 10)), dims=("case", "member"))
    truth = xr.DataArray(0.7)
    found = crps(2 * members + 1, truth)
    exact = gaussian_crps(xr.DataArray(1.0), xr.DataArray(2.0), truth)
    assert abs(found.mean() - exact) < 5 * found.std() / np.sqrt(20_000)


def test_crps_of_a_gaussian_is_its_closed_form_and_at_no_width_the_absolute_error() -> None:
    std = xr.DataArray([2.0, 0.0], dims="x")
    found = gaussian_crps(xr.DataArray(1.0), std, xr.DataArray(1.0))
    # That at the mean is sigma (sqrt(2) - 1) / sqrt(pi).
    np.testing.assert_allclose(found, [2 * (np.sqrt(2) - 1) / np.sqrt(np.pi), 0.0], rtol=1e-6)
    assert float(gaussian_crps(0 * std, 0 * std, 3 + 0 * std)[0]) == 3.0


def test_fair_scores_do_not_depend_on_the_number_of_members() -> None:
    truth = draw(0, case=400)
    means = [float(average(crps(draw(m, case=400, member=m), truth)).mean()) for m in (2, 20)]
    # Both within 5 standard errors of the expectation 1 / sqrt(pi) for draws of one law.
    assert np.allclose(means, 1 / np.sqrt(np.pi), atol=5 * 0.85 / np.sqrt(400 * 128))


def test_energy_score_is_that_of_scoringrules_and_of_one_point_the_crps() -> None:
    forecast, truth = draw(0, time=2, member=6), draw(1, time=2)
    region = REGIONS["tropics"]
    weights = region.weights(truth)
    root = np.sqrt(weights / weights.sum())
    expected = scoringrules.es_ensemble(
        (truth * root).values.reshape(2, -1),
        (forecast * root).values.reshape(2, 6, -1),
        estimator="fair",
    )
    np.testing.assert_allclose(energy_score(forecast, truth, region), expected, rtol=1e-10)
    mask = xr.zeros_like(truth[0]).astype(bool)
    mask[3, 5] = True
    point = Region("point", mask=mask)
    xr.testing.assert_allclose(
        energy_score(forecast, truth, point), average(crps(forecast, truth), point)
    )


def test_anomaly_correlation_of_truth_and_of_its_opposite() -> None:
    truth, climatology = draw(0, level=2), draw(1, level=2)
    assert np.allclose(anomaly_correlation(truth, truth, climatology), 1.0)
    opposite = (2 * climatology - truth).expand_dims(member=3)
    assert np.allclose(anomaly_correlation(opposite, truth, climatology), -1.0)
    assert np.allclose(anomaly_correlation(climatology + 1, climatology + 2, climatology), 1.0)


def test_scores_of_a_reliable_ensemble() -> None:
    # Truth and members are draws around one centre: spread matches skill for any size. The mean
    # of 200 fields of 128 points has about 1.5 % of standard error on the ratio; 6 of them.
    centre = 3 * draw(0, time=200)
    forecast, truth = centre + draw(1, time=200, member=4), centre + draw(2, time=200)
    found = summarise(score(forecast, truth, climatology=0 * truth), members=4).sel(region="globe")
    assert abs(found.sel(score="spread_skill") - 1) < 0.06
    assert abs(found.sel(score="rmse") - np.sqrt(1 + 1 / 4)) < 0.06
    assert abs(found.sel(score="bias")) < 0.06
    # Signal of variance 9 with errors of variance 1/4 and 1.
    assert abs(found.sel(score="acc") - 9 / np.sqrt((9 + 1 / 4) * (9 + 1))) < 0.06
    assert found.dtype == np.float64 and set(found.score.values) >= {"crps", "energy_score"}


def test_a_single_forecast_has_the_absolute_error_and_no_spread() -> None:
    forecast, truth = draw(0, time=3), draw(1, time=3)
    found = score(forecast, truth).isel(region=0)
    xr.testing.assert_allclose(
        found.sel(score="crps", drop=True).drop_vars("region"), average(abs(forecast - truth))
    )
    assert bool(found.sel(score=["variance", "energy_score"]).isnull().all())
    two = xr.concat([forecast, forecast + 1e-9], "member")
    close = score(two, truth).isel(region=0).sel(score=["bias", "mse", "crps"])
    xr.testing.assert_allclose(close, found.sel(score=["bias", "mse", "crps"]), rtol=1e-6)


def test_scores_of_gaussians_are_those_of_large_ensembles() -> None:
    mean, truth = draw(0, time=2), draw(1, time=2)
    std = xr.DataArray([1.0, 2.0], dims="time")
    exact = summarise(score_gaussian_forecast(mean, std, truth)).isel(region=0)
    forecast = mean + std * draw(2, time=2, member=2000)
    found = summarise(score(forecast, truth), members=2000).isel(region=0)
    # Within six standard errors of the estimates.
    for name, bound in {"rmse": 0.02, "spread": 0.02, "spread_skill": 0.02, "crps": 0.02}.items():
        assert abs(found.sel(score=name) - exact.sel(score=name)) < bound


def test_datasets_are_scored_variable_by_variable() -> None:
    forecast = xr.Dataset(
        {"a": draw(0, time=2, member=3), "b": draw(1, time=2, member=3, level=2)}
    )
    truth = xr.Dataset({"a": draw(2, time=2), "b": draw(3, time=2, level=2)})
    regions = select_regions(["globe", "tropics"])
    found = score(forecast, truth, regions=regions)
    xr.testing.assert_allclose(found["b"], score(forecast["b"], truth["b"], regions=regions))
    assert found["a"].dims == ("score", "region", "time")
    assert found["b"].dims == ("score", "region", "time", "level")
