"""The transformer: zero at first, then a function of all that it is given, item by item."""

from typing import Any

import pytest
import torch

from appa_prob.transformer import TrajectoryTransformer

SIZES: dict[str, Any] = {
    "window": 3,
    "grid": (4, 8),
    "patch": 2,
    "width": 16,
    "depth": 2,
    "heads": 2,
}


def transformer(
    device: torch.device, *, zero: bool = False, **sizes: int
) -> TrajectoryTransformer:
    module = TrajectoryTransformer(6, 4, **(SIZES | sizes)).double().to(device)
    if not zero:
        torch.nn.init.normal_(module.unembed.weight)
    return module


def inputs(device: torch.device, count: int = 5) -> tuple[torch.Tensor, ...]:
    x = torch.randn(count, 3, 6, 4, 8, dtype=torch.float64, device=device)
    c_noise = torch.randn(count, dtype=torch.float64, device=device)
    return x, c_noise, torch.randn(count, 3, 2, dtype=torch.float64, device=device)


def test_output_is_zero_at_first(device: torch.device) -> None:
    x, c_noise, date = inputs(device)
    y = transformer(device, zero=True)(x, c_noise, date=date)
    assert torch.equal(y, torch.zeros(5, 3, 4, 4, 8, dtype=torch.float64, device=device))


@pytest.mark.parametrize("changed", [0, 1, 2], ids=["x", "noise", "date"])
def test_output_depends_on_all_inputs(device: torch.device, changed: int) -> None:
    module, arguments = transformer(device), list(inputs(device))
    y = module(arguments[0], arguments[1], date=arguments[2])
    arguments[changed] = arguments[changed] + 0.5
    other = module(arguments[0], arguments[1], date=arguments[2])
    assert ((other - y).abs().amax((1, 2, 3, 4)) > 1e-3).all()


def test_items_of_a_batch_do_not_mix(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device)
    y = module(x, c_noise, date=date)
    for i in range(5):
        alone = module(x[i], c_noise[i], date=date[i])
        assert torch.allclose(alone, y[i], atol=1e-10)


def test_batch_axes_and_shared_dates(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device, 6)
    y = module(x, c_noise[0], date=date[0])
    nested = module(x.reshape(2, 3, *x.shape[1:]), c_noise[0], date=date[0])
    assert torch.allclose(nested.reshape(y.shape), y, atol=1e-10)
    spelt = module(x, c_noise[:1].expand(6), date=date[:1].expand(6, -1, -1))
    assert torch.allclose(spelt, y, atol=1e-10)


def test_without_blocks_patches_stay_where_they_are(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device, depth=0), inputs(device, 1)
    other = x.clone()
    other[0, 1, 3, 2, 5] += 1.0
    change = (module(other, c_noise, date=date) - module(x, c_noise, date=date))[0]
    inside = torch.zeros(3, 4, 4, 8, dtype=torch.bool, device=device)
    inside[1, :, 2:4, 4:6] = True
    assert (change[~inside] == 0).all()
    assert (change[inside] != 0).all()


def test_with_blocks_every_patch_sees_every_other(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device, 1)
    other = x.clone()
    other[0, 0, 0, 0, 0] += 10.0
    change = module(other, c_noise, date=date) - module(x, c_noise, date=date)
    assert (change.abs() > 1e-12).all()


def test_time_and_place_tell_tokens_apart(device: torch.device) -> None:
    module = transformer(device, depth=0)
    y = module(
        torch.zeros(3, 6, 4, 8, dtype=torch.float64, device=device),
        torch.zeros((), dtype=torch.float64, device=device),
        date=torch.zeros(3, 2, dtype=torch.float64, device=device),
    )
    corners = y[:, 0, ::2, ::2].flatten()
    assert len(corners.unique()) == corners.numel() == 3 * 2 * 4


def test_gradients_reach_every_weight(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device)
    module(x, c_noise, date=date).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch": 3}, r"patch that tiles the grid \(4, 8\), got 3"),
        ({"patch": 8}, "patch that tiles"),
        ({"heads": 3}, "multiple of 3 heads, got 16"),
        ({"width": 15, "heads": 1}, "even width"),
    ],
)
def test_wrong_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrajectoryTransformer(6, 4, **(SIZES | sizes))
