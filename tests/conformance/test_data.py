"""Dates, masks and losses agree with the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from appa_prob.dates import local_time, to_times, year_progress
from appa_prob.point_masks import PointMask, compile_masks
from appa_prob.published_parts import to_fields

if TYPE_CHECKING:
    from tests.conformance.conftest import Fixtures


def test_dates(published: Fixtures, dtype: torch.dtype) -> None:
    fixture = published("dates")
    times = to_times(fixture["date"])
    fixture.check(year_progress(times).to(dtype), "year_progress")
    fixture.check(local_time(times, fixture["longitude"].double()).to(dtype), "local_time")
    for key, start, step in (("traj_dt1", "2020-02-28T22", 1), ("traj_dt6", "2019-12-31T21", 6)):
        expected = np.datetime64(start, "h") + step * np.arange(10)
        assert (to_times(fixture[key]) == expected).all()
    assert (np.diff(to_times(fixture["interval"])) == np.timedelta64(1, "h")).all()
    for day, hour, step, (after, then) in fixture.info["add_hours"]:
        time = np.datetime64(day, "h") + hour + step
        assert time == np.datetime64(after, "h") + then


def test_masks_of_points(published: Fixtures) -> None:
    fixture = published("mask_state")
    channels = {k: fixture[f"{k}_var"].nonzero()[:, 0].tolist() for k in ("stations", "satellite")}
    state = to_fields(fixture["x"], (6, 10)).unsqueeze(0)
    stations, variances = fixture["stations"], fixture["stations_cov"]
    for time in range(3):
        masks = [
            PointMask([stations], channels["stations"], [variances]),
            PointMask(
                [fixture[f"sat_{time}"]], channels["satellite"], [fixture[f"sat_cov_{time}"]]
            ),
        ]
        H, tiled = compile_masks(masks, state.shape[1:], tiled=True)
        assert torch.equal(H(state).squeeze(0), fixture[f"y_{time}"])
        assert torch.equal(tiled.float(), fixture[f"cov_{time}"])
        _, right = compile_masks(masks, state.shape[1:])
        # Each observation has the variance of its cell, which the published order mixes up.
        assert torch.equal(right[: len(stations) * 3].float(), variances.repeat_interleave(3))
        assert not torch.equal(right, tiled)
    H, variance = compile_masks(masks[:1], state.shape[1:], tiled=True)
    assert torch.equal(H(state).squeeze(0), fixture["y_stations_only"])
    assert torch.equal(variance.float(), fixture["cov_stations_only"])
    H, variance = compile_masks(masks[1:], state.shape[1:], tiled=True)
    assert torch.equal(H(state).squeeze(0), fixture["y_satellite_only_t2"])
    assert torch.equal(variance.float(), fixture["cov_satellite_only_t2"])
