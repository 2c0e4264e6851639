"""Functions of rows, some at once, beside the Jacobian of all."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from appa_prob.operators import Dense, Map, Nonlinear, WeightedGather, weighted
from appa_prob.operators.rowwise import Rowwise
from appa_prob.operators.weighted import by_rows
from benchmarks.allocations import memory

W = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True, scope="module")
def some() -> Iterator[None]:
    """Sums are looked at three at a time, so that there are several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weighted, "SOME", 3)
        yield


class Counting:
    """A function of rows of 3 numbers that notes which it is given."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.rows.append(x)
        return torch.tanh(x @ W.mT)


def whole(x: Tensor) -> Tensor:
    return torch.tanh(x @ W.mT)


def check_products(f: Map, expected: Map, batch: tuple[int, ...]) -> None:
    """Compares values and products at a point, in batches of fields as well."""
    x = torch.randn(*batch, *f.in_shape).double()
    value, J = f.linearize(x)
    same, K = expected.linearize(x)
    torch.testing.assert_close(value, same, **EXACT)
    torch.testing.assert_close(f(x), same, **EXACT)
    for more in ((), (2,)):
        v = torch.randn(*more, *batch, *f.in_shape).double()
        u = torch.randn(*more, *batch, *f.out_shape).double()
        torch.testing.assert_close(J(v), K(v), **EXACT)
        torch.testing.assert_close(J.adjoint(u), K.adjoint(u), **EXACT)


@st.composite
def observations(draw: Any) -> WeightedGather:
    """Weighted sums of any elements of 5 rows of 4, in any order; some of none."""
    n, k = draw(st.integers(0, 6)), draw(st.integers(1, 3))
    rows = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))  # others are not observed
    entries = st.tuples(st.sampled_from(rows), st.integers(0, 3), st.sampled_from([0, 0.5, -2]))
    drawn = draw(st.lists(entries, min_size=n * k, max_size=n * k))
    table = torch.tensor(drawn, dtype=torch.float64).reshape(n, k, 3)
    indices = (4 * table[..., 0] + table[..., 1]).long()
    return WeightedGather(indices, table[..., 2], (5, 4))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_products_are_those_of_the_jacobian_of_all_rows(batch: tuple[int, ...]) -> None:
    function = Counting()
    f = Rowwise(function, 5, 3, 4, at_once=2)
    check_products(f, Nonlinear(whole, (5, 3), (5, 4)), batch)
    assert max(map(len, function.rows)) == 2
    x = torch.randn(*batch, 5, 3).double()
    observed = Dense(torch.randn(6, 20).double(), (5, 4)) @ f
    torch.testing.assert_close(observed.linearize(x)[0], observed(x))


@given(observations(), st.integers(1, 12), st.sampled_from([(), (1,), (3,), (0,), (2, 2)]))
def test_observed_rows_are_those_of_the_whole(
    H: WeightedGather, at_once: int, batch: tuple[int, ...]
) -> None:
    function = Counting()
    f = Rowwise(function, 5, 3, 4, at_once=at_once, observed=H)
    check_products(f, H @ Nonlinear(whole, (5, 3), (5, 4)), batch)
    assert max(map(len, function.rows), default=0) <= at_once


@given(observations(), st.integers(1, 6))
def test_rows_are_evaluated_once_if_they_are_observed(H: WeightedGather, at_once: int) -> None:
    function = Counting()
    f = Rowwise(function, 5, 3, 4, at_once=at_once, observed=H)
    x = torch.arange(10.0).double().reshape(2, 5, 1).expand(2, 5, 3)
    f(x)
    found = sorted(number for rows in function.rows for number in rows[:, 0].tolist())
    rows = sorted({row // 4 for row in H.indices[H.weights != 0].tolist()})
    assert found == [*rows, *(row + 5 for row in rows)]


@given(observations(), st.integers(1, 6))
def test_sums_are_made_of_their_parts_by_rows(H: WeightedGather, at_once: int) -> None:
    x, y = torch.randn(5, 4).double(), torch.zeros(H.out_shape).double()
    seen = []
    for rows, places, part in by_rows(H, at_once):
        assert len(rows) <= at_once and len(places) == part.out_shape[0] > 0
        y.index_add_(0, places, part(x[rows]))
        seen += rows.tolist()
    torch.testing.assert_close(y, H(x), **EXACT)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("length", [16, 128])
def test_memory_is_that_of_the_rows_at_once(length: int) -> None:
    width, count = 5000, 40
    fixed = torch.randn(2, width)

    def function(x: Tensor) -> Tensor:
        return torch.sin(x @ fixed)

    state = 4 * width
    indices = torch.randint(length * width, (count, 2))
    H = WeightedGather(indices, torch.rand(count, 2), (length, width))
    ours = Rowwise(function, length, 2, width, at_once=1, observed=H)
    theirs = H @ Rowwise(function, length, 2, width, at_once=1)
    x, v, u = torch.randn(length, 2), torch.randn(length, 2), torch.randn(count)
    linear = [f.linearize(x)[1] for f in (ours, theirs)]
    for few, many in (
        (lambda: ours.linearize(x), lambda: theirs.linearize(x)),
        (lambda: linear[0](v), lambda: linear[1](v)),
        (lambda: linear[0].adjoint(u), lambda: linear[1].adjoint(u)),
    ):
        small = memory(few)[1]
        assert state <= small < 8 * state  # a row, its tangent and what sin keeps
        assert memory(many)[1] >= length * state > small


def test_gradients_that_are_wanted_are_there() -> None:
    H = WeightedGather(torch.tensor([[19, 3], [0, 8]]), torch.rand(2, 2).double(), (5, 4))
    x, v = torch.randn(5, 3).double().requires_grad_(), torch.randn(5, 3).double()
    for observed in (None, H):
        f = Rowwise(Counting(), 5, 3, 4, at_once=2, observed=observed)
        assert torch.autograd.gradcheck(lambda x, f=f: f.linearize(x)[1](v), x)
        assert torch.autograd.gradcheck(f, x)


@pytest.mark.parametrize("observed", [True, False])
def test_transforms_see_through_rows(observed: bool) -> None:
    indices = torch.tensor([[19, 3], [0, 8]])
    H = WeightedGather(indices, torch.rand(2, 2).double(), (5, 4)) if observed else None
    f = Rowwise(Counting(), 5, 3, 4, at_once=2, observed=H)
    x, v = torch.randn(2, 3, 5, 3).double()
    torch.testing.assert_close(torch.func.vmap(f)(x), f(x), **EXACT)
    pushed = torch.func.jvp(f, (x,), (v,))[1]
    torch.testing.assert_close(pushed, f.linearize(x)[1](v), **EXACT)
    jacobian = torch.func.jacrev(f)(x[0]).flatten(-2)
    torch.testing.assert_close(jacobian @ v[0].flatten(), pushed[0], **EXACT)


def test_functions_and_operators_are_moved_together() -> None:
    H = WeightedGather(torch.tensor([[7], [0]]), torch.rand(2, 1), (3, 4))
    module, x = nn.Linear(3, 4), torch.randn(3, 3)
    f = Rowwise(module, 3, 3, 4, at_once=1, observed=H)
    single, double = f(x), f.to(torch.float64)(x.double())
    assert double.dtype == torch.float64 and module.weight.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


def test_no_rows_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row at once, got 0"):
        Rowwise(Counting(), 5, 3, 4, at_once=0)


def test_operators_on_other_fields_are_refused() -> None:
    H = WeightedGather(torch.tensor([[0]]), torch.ones(1, 1), (4, 4))
    with pytest.raises(ValueError, match=r"fields of shape \(5, 4\), the rows of the function"):
        Rowwise(Counting(), 5, 3, 4, at_once=1, observed=H)
