"""The published transformer, where its outputs are not at hand: shapes, masks, precision,
refusals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from appa_prob.dates import calendar_features
from appa_prob.samplers import PreconditionedDenoiser, RationalSchedule
from appa_prob.vision_transformer import VisionTransformer, VisionTransformerConfig

SIZES: dict[str, Any] = {"window": 4, "width": 16, "depth": 2, "heads": 2, "modulation": 8}
DATE = calendar_features(np.datetime64("2020-02-28T21") + np.arange(4).astype("timedelta64[h]"))


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> VisionTransformer:
    """One with no weight left at zero."""
    network = VisionTransformer(3, (4, 8), VisionTransformerConfig(**(SIZES | changes)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.to(dtype)


def windows(*batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*batch, 4, 3, 4, 8, dtype=dtype)


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 1, 1), (2, 2, 4)])
def test_items_of_a_batch_do_not_mix(patch: tuple[int, int, int]) -> None:
    network, x = build(patch=patch), windows(2, 3)
    level = torch.randn(2, 3, dtype=torch.float64)
    y = network(x, level, date=DATE)
    assert y.shape == x.shape
    torch.testing.assert_close(network(x[1, 2], level[1, 2], date=DATE), y[1, 2])
    torch.testing.assert_close(network(x, level, date=DATE.expand(2, 3, 4, 4)), y)


def test_nothing_comes_out_at_first_and_blocks_are_the_identity() -> None:
    network = VisionTransformer(3, (4, 8), VisionTransformerConfig(**SIZES))
    x = windows(2, dtype=torch.float32)
    assert not network(x, torch.zeros(2), date=DATE).any()
    tokens, level = torch.randn(2, 128, 16), torch.randn(2, 8)
    block = network.blocks[0]
    assert torch.equal(block(tokens, tokens, level, network.coordinates, None), tokens)


def test_noise_dates_and_places_matter() -> None:
    network, x = build(), windows(1)
    y = network(x, torch.zeros(1).double(), date=DATE)
    assert not torch.allclose(network(x, torch.ones(1).double(), date=DATE), y)
    assert not torch.allclose(network(x, torch.zeros(1).double(), date=DATE.flip(0)), y)
    turned = network(x.roll(1, -1), torch.zeros(1).double(), date=DATE)
    assert not torch.allclose(turned, y.roll(1, -1))


@pytest.mark.parametrize("wrap", [(False, False, True), (True, True, True)])
def test_tokens_see_their_reach(wrap: tuple[bool, bool, bool]) -> None:
    network = build(depth=1, reach=(3, 3, 3), wrap=wrap)
    x = windows(1).requires_grad_()
    y = network(x, torch.zeros(1).double(), date=DATE)
    (gradient,) = torch.autograd.grad(y[0, 0, :, 0, 0].sum(), x)
    seen = gradient[0].abs().sum(1) > 0
    assert seen[0, 0, 0] and seen[1, 1, 1] and seen[0, 0, -1]  # around the date line
    assert not seen[2].any() and not seen[:, 2].any() and not seen[..., 2:-1].any()
    # Neither from the last time to the first nor from pole to pole, unless asked for.
    assert bool(seen[-1].any()) == wrap[0] and bool(seen[:, -1].any()) == wrap[1]


def test_rotations_depend_on_distances_alone() -> None:
    # Without embeddings of places in the tokens, a shift of all tokens shifts the output.
    network = build(depth=1, normalised=True)
    torch.nn.init.zeros_(network.positional_embedding[2].weight)  # type: ignore[arg-type]
    x = windows(1)
    y = network(x, torch.zeros(1).double(), date=DATE)
    network.coordinates += torch.tensor([3.0, 5.0, 7.0])
    torch.testing.assert_close(network(x, torch.zeros(1).double(), date=DATE), y)


def test_denoising_in_half_precision_and_gradients() -> None:
    network = build(torch.float32)
    d = PreconditionedDenoiser(network, RationalSchedule(), (4, 3, 4, 8))
    x, t, date = windows(2, dtype=torch.float32), torch.tensor(0.4), DATE.float()
    exact = d(x, t, date=date)
    exact.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    d.precision = torch.bfloat16
    with torch.no_grad():
        rough = d(x, t, date=date)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05)
    assert not torch.equal(rough, exact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (3, 1, 1)}, "window that patches tile"),
        ({"width": 18}, "multiple of 4, twice the heads"),
        ({"modulation": 7}, "an even modulation"),
    ],
)
def test_bad_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)
