"""The transformer: zero at first, then a function of all that it is given, item by item."""

from typing import Any

import pytest
import torch

from appa_prob.transformer import TrajectoryTransformer, shift

SIZES: dict[str, Any] = {
    "window": 3,
    "grid": (4, 8),
    "width": 32,
    "depth": 2,
    "heads": 2,
}


def transformer(
    device: torch.device, *, zero: bool = False, **sizes: Any
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


def changes(module: TrajectoryTransformer, device: torch.device) -> torch.Tensor:
    """Where the output changes with one cell of the input, at state 1, row 2 and column 5."""
    x, c_noise, date = inputs(device, 1)
    other = x.clone()
    other[0, 1, :, 2, 5] += 1.0
    change: torch.Tensor = module(other, c_noise, date=date) - module(x, c_noise, date=date)
    return change[0].abs().amax(1)


def test_without_blocks_cells_stay_where_they_are(device: torch.device) -> None:
    found = changes(transformer(device, depth=0), device).nonzero().tolist()
    assert found == [[1, 2, 5]]


def test_a_block_reaches_neighbours_in_time_and_space(device: torch.device) -> None:
    found = changes(transformer(device, depth=1), device).nonzero().tolist()
    places = {(1, 2, (5 + c) % 8) for c in range(-2, 3)} | {(1, 1, 5), (1, 3, 5)}
    assert {tuple(cell) for cell in found} == places | {(0, 2, 5), (2, 2, 5)}


def test_attention_reaches_all_times_of_a_cell(device: torch.device) -> None:
    module = transformer(device, depth=2, window=3)
    attention = module.get_submodule("blocks.1.attention")
    torch.nn.init.normal_(module.get_parameter("blocks.1.attention.out.weight"))
    x = torch.randn(1, 3, 4, 8, 32, dtype=torch.float64, device=device)
    other = x.clone()
    other[0, 2, 1, 3] += torch.randn(32, dtype=torch.float64, device=device)
    change = (attention(other) - attention(x))[0].abs().amax(-1)
    inside = torch.zeros(3, 4, 8, dtype=torch.bool, device=device)
    inside[:, 1, 3] = True
    assert (change[inside] > 0).all() and (change[~inside] == 0).all()


def test_turning_a_window_of_unknown_place_turns_the_output(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device)
    unknown = torch.zeros(5, dtype=torch.float64, device=device)
    y = module(x, c_noise, date=date, known=unknown)
    turned = module(x.roll(3, -1), c_noise, date=date, known=unknown)
    assert torch.allclose(turned, y.roll(3, -1), atol=1e-10)
    assert not torch.allclose(module(x, c_noise, date=date), y, atol=1e-3)
    same = module(x, c_noise, date=date, known=unknown + 1)
    assert torch.equal(module(x, c_noise, date=date), same)


@pytest.mark.parametrize("steps", [(0, 0, 3), (0, 1, 0), (0, -2, 0), (2, 0, 0), (-1, 1, -2)])
def test_shift_moves_each_value_to_its_neighbour(steps: tuple[int, int, int]) -> None:
    x = torch.arange(1.0, 1 + 3 * 4 * 8).reshape(3, 4, 8, 1)
    y = shift(x, *steps)
    for t, i, j in [(0, 0, 0), (1, 3, 5), (2, 1, 7), (2, 3, 4), (0, 2, 2)]:
        source, row, column = t - steps[0], i - steps[1], j - steps[2]
        if row not in range(4):  # beyond a pole: mirrored, at the opposite longitude
            row, column = (-1 - row if row < 0 else 7 - row), column + 4
        expected = x[source, row, column % 8] if source in range(3) else torch.zeros(1)
        assert y[t, i, j] == expected


def test_time_and_place_tell_tokens_apart(device: torch.device) -> None:
    module = transformer(device, depth=0)
    y = module(
        torch.zeros(3, 6, 4, 8, dtype=torch.float64, device=device),
        torch.zeros((), dtype=torch.float64, device=device),
        date=torch.zeros(3, 2, dtype=torch.float64, device=device),
    )
    cells = y[:, 0].flatten()
    assert len(cells.unique()) == cells.numel() == 3 * 4 * 8


def test_gradients_reach_every_weight(device: torch.device) -> None:
    module, (x, c_noise, date) = transformer(device), inputs(device)
    torch.nn.init.normal_(module.get_parameter("blocks.1.attention.out.weight"))
    module(x, c_noise, date=date).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "multiple of 3 heads .* got width 32"),
        ({"width": 15, "heads": 1}, "even width"),
        ({"grid": (4, 7)}, r"even number of columns, got width 32 and grid \(4, 7\)"),
    ],
)
def test_wrong_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrajectoryTransformer(6, 4, **(SIZES | sizes))
