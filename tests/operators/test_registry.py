"""Operators are made from plain data, and give them back."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from appa_prob import operators
from appa_prob.operators import (
    CG,
    Composition,
    Dense,
    Diagonal,
    Identity,
    Isotropic,
    Jacobian,
    Mask,
    Operator,
    Scaling,
    Stack,
    build,
    register,
)
from appa_prob.operators.registry import describe, registered

F64 = torch.float64
# Operators that data can't describe: they hold functions, and the graphs of these.
WITHOUT_DATA = {"LinearFunction", "Jacobian", "Operator", "TweedieCovariance"}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def through_json(operator: Operator) -> Operator:
    return build(json.loads(json.dumps(operator.spec())))


def test_every_public_operator_is_registered_or_cannot_be_data() -> None:
    public = {
        name
        for name in operators.__all__
        if isinstance(cls := getattr(operators, name), type) and issubclass(cls, Operator)
    }
    assert public - registered().keys() == WITHOUT_DATA


def test_the_map_of_the_package_is_complete() -> None:
    named = re.findall(r":(?:class|func):`(\w+)`", operators.__doc__ or "")
    assert set(operators.__all__) == set(named)


def test_yaml_written_by_hand_makes_an_operator() -> None:
    A = build(
        yaml.safe_load("""
        kind: Composition
        factors:
          - {kind: Mask, mask: [true, false, true]}
          - kind: Sum
            terms:
              - {kind: Diagonal, diagonal: [1.0, 2.0, 3.0]}
              - {kind: Scaling, scale: 0.5, shape: 3}
        """)
    )
    assert torch.equal(A(torch.ones(3)), torch.tensor([1.5, 3.5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_survive_bit_by_bit(dtype: torch.dtype) -> None:
    d = (noise(2, 3) / 3).to(dtype)
    same = through_json(Diagonal(d))
    assert isinstance(same, Diagonal) and same.dtype == dtype
    assert torch.equal(same.entries, d)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.complex128, torch.int32, torch.bool, torch.int64])
def test_tensors_of_any_shape_and_type_survive(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape, dtype=torch.complex128)
    tensor = tensor if dtype.is_complex else (10 * tensor.real).to(dtype)
    data = json.loads(json.dumps(describe(tensor)))
    same = operators.registry.Builder().value(data, "Tensor")
    assert same.dtype == dtype and torch.equal(same, tensor)


def test_the_type_of_operators_without_tensors_survives() -> None:
    A = Mask(torch.tensor([True, False])).to(F64)
    assert A.spec() == {"kind": "Mask", "mask": [True, False], "dtype": "float64"}
    assert through_json(A).dtype == F64
    assert through_json(Stack([A, Identity(2, dtype=F64)])).dtype == F64


def test_a_copy_in_another_type_is_described_as_it_is() -> None:
    A = operators.Interpolate(
        torch.tensor([45.0, -45.0], dtype=F64), torch.arange(4, dtype=F64) * 90, noise(3), noise(3)
    ).to(torch.float32)
    same = through_json(A)
    assert isinstance(same, operators.Interpolate) and same.weights.dtype == torch.float32
    assert torch.equal(same.weights, A.weights)


def test_equal_parts_are_one_object_so_that_symmetry_is_known() -> None:
    H, V = Dense(noise(2, 3)), Dense(torch.eye(3, dtype=F64), symmetric=True)
    S = H @ V @ H.T + Identity(2, dtype=F64)
    same = through_json(S)
    assert same.symmetric
    torch.testing.assert_close(same.to_dense(), S.to_dense())
    scaled = (2.0 * H).T @ (2.0 * H)
    assert through_json(scaled).symmetric
    large = torch.arange(3000.0)
    parts = {
        "kind": "Stack",
        "blocks": [{"kind": "Diagonal", "diagonal": d} for d in (large, -large)],
    }
    assert build(parts)(torch.ones(3000)).sum() == 0  # tensors whose texts are the same


def test_solvers_are_named_or_described() -> None:
    assert describe(CG(max_iterations=7)) == {"kind": "CG", "max_iterations": 7}
    M = Diagonal(noise(3))
    described = describe(CG(preconditioner=M))
    same = operators.registry.Builder().value(described)
    assert isinstance(same, CG) and isinstance(same.preconditioner, Diagonal)
    assert operators.registry.Builder().value("CG", "Solver | None") == CG()


def test_operators_that_hold_functions_are_not_data() -> None:
    A = Mask(torch.tensor([True, False])) @ Jacobian(torch.sin, torch.zeros(2))
    with pytest.raises(TypeError, match="Jacobian isn't registered"):
        A.spec()
    with pytest.raises(TypeError, match="function"):
        describe(CG(preconditioner=torch.abs))


def test_mistakes_are_told_with_the_nearest_match() -> None:
    with pytest.raises(ValueError, match="got 'Diagnal'; did you mean 'Diagonal'"):
        build({"kind": "Diagnal", "diagonal": [1.0]})
    with pytest.raises(ValueError, match=r"known are .*BlockDiagonal, .*Scaling"):
        build({"kind": "?"})
    with pytest.raises(ValueError, match="argument of Mask, got 'maks'; did you mean 'mask'"):
        build({"kind": "Mask", "maks": [True]})
    with pytest.raises(ValueError, match="shape of Isotropic, got variance; add shape"):
        build({"kind": "Isotropic", "variance": 1.0})
    with pytest.raises(ValueError, match="add factors"):
        build({"kind": "Composition"})
    with pytest.raises(TypeError, match="specification of an operator"):
        build({"kind": "CG"})
    with pytest.raises(TypeError, match="dictionary with its 'kind'"):
        build({"mask": [True]})
    with pytest.raises(ValueError, match="type of tensors such as 'float64', got 'load'"):
        build({"kind": "Mask", "mask": [True], "dtype": "load"})
    with pytest.raises(ValueError, match="got also dytpe"):
        build({"kind": "Diagonal", "diagonal": {"tensor": [1.0], "dytpe": "float64"}})
    with pytest.raises(ValueError, match="right factor is applied first"):
        build({"kind": "Composition", "factors": [Dense(noise(2, 3)), Dense(noise(2, 3))]})
    with pytest.raises(ValueError, match="terms of one shape"):
        build({"kind": "Sum", "terms": [Scaling(2.0, 3), Scaling(2.0, 2)]})
    with pytest.raises(ValueError, match="one or more factors"):
        Composition()


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match=r"'Mask', which .* has; register under another one"):

        @register("Mask")
        class Other(Isotropic):
            pass

    with pytest.raises(ValueError, match="sources of the arguments of Wrong, got lenght"):

        @register(lenght="in_shape")
        class Wrong(Isotropic):
            pass


def test_an_installed_package_offers_operators_by_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "observatory.py").write_text(
        "from appa_prob.operators import Scaling\n"
        "class Gain(Scaling):\n"
        "    @property\n"
        "    def shape_(self):\n"
        "        return self.in_shape\n"
        "    def __init__(self, scale, shape_):\n"
        "        super().__init__(scale, shape_)\n"
    )
    info = tmp_path / "observatory-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: observatory\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[appa_prob.operators]\nobservatory.Gain = observatory:Gain\n"
    )
    with pytest.raises(ValueError, match=r"registered operator, got 'observatory\.Gain'"):
        build({"kind": "observatory.Gain", "scale": 2.0, "shape_": 3})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"did you mean 'observatory\.Gain'"):
        build({"kind": "observatory.gain"})
    A = build({"kind": "observatory.Gain", "scale": 2.0, "shape_": 3})
    assert A(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert A.spec() == {"kind": "observatory.Gain", "scale": 2.0, "shape_": [3]}
    assert "observatory.Gain" in registered()
