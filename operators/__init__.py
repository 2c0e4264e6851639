r"""Lazy linear algebra on fields.

A :class:`Map` takes fields of shape :math:`(*, in)` to fields of shape :math:`(*, out)`; an
:class:`Operator` is a linear one, and a :class:`linear_operator.LinearOperator` as well. Operators
are called on fields, ``A(x)`` and ``A.adjoint(y)``, and combined by ``A @ B``, ``A + B``, ``2.0 *
A`` and ``A.T``. Solvers are objects, called on an operator and a right-hand side.

A map of what is here:

- *element by element*: :class:`Identity`, :class:`Zero`, :class:`Scaling`, :class:`Diagonal`;
- *selections*: :class:`Mask`, :class:`Gather`, :class:`WeightedGather`, :class:`AxisGather`,
  :class:`Slice`, :class:`Pad`, :class:`Permute`, :class:`Reshape`;
- *matrices and functions*: :class:`Dense`, :class:`Sparse`, :class:`Mix` (along one axis),
  :class:`LinearFunction`, :class:`Jacobian`, :class:`Nonlinear` (a :class:`Map`);
- *grids*: :class:`Coarsen`, :class:`Convolution`, :class:`Interpolate`, :class:`Gradient`,
  :class:`Divergence`, :class:`Laplacian`, :class:`TimeInterpolate`, :class:`TimeWindow`,
  :class:`LineIntegrals`, :class:`Radon`;
- *spectra*: :class:`Fourier`, :class:`Hartley`, :class:`SphericalHarmonics`;
- *the sphere*: :class:`SphereGradient`, :class:`SphereDivergence`, :class:`SphereLaplacian`,
  :class:`SphereMatern`, :func:`unit_vectors`;
- *combinations*: ``A @ B`` (:class:`Composition`), ``A + B`` (:class:`Sum`), ``2.0 * A``
  (:class:`Scaled`), ``A.T`` (:class:`Adjoint`), ``A**2`` (:class:`Power`), ``A.inverse()``
  (:class:`Inverse`), ``A.pseudo_inverse()`` (:class:`PseudoInverse`), :class:`Stack`,
  :class:`Concatenate`, :class:`BlockDiagonal`, :class:`Kronecker`, and :class:`Fields`, states of
  several fields, whose parts are restrictions (:class:`Restrict`);
- *covariances*: :class:`Isotropic`, :class:`LowRankPlusDiagonal`, :class:`Eigenbasis`,
  :class:`Factored`, :class:`Stationary`, :class:`SphericalStationary`, :class:`KernelCovariance`,
  :class:`Ensemble` (localised by :func:`gaspari_cohn`), :class:`TweedieCovariance`,
  :class:`InnovationCovariance`; :func:`estimate_diagonal` and :func:`root_product` of large ones;
- *solvers* (each a :class:`Solver`, which gives a :class:`Solution` or a
  :class:`ConvergenceWarning`): :class:`CG`, :class:`MINRES`, :class:`GMRES`, :class:`Cholesky`,
  :class:`Direct`, and for least squares :class:`LSMR`, :class:`LSQR`;
- *preconditioners* (each a :class:`Preconditioner`): :class:`Jacobi`, :class:`Nystrom`,
  :class:`PivotedCholesky`, :class:`Surrogate`;
- *plain data*: :func:`build`, :func:`register`. An operator of your own is a subclass of
  :class:`Operator`.

Example:
    >>> import torch
    >>> A = Mask(torch.tensor([True, False, True])) @ Diagonal(torch.tensor([1.0, 2.0, 3.0]))
    >>> A(torch.ones(5, 3)).shape, A.shape
    (torch.Size([5, 2]), torch.Size([2, 3]))
"""

if __name__ != "appa_prob.operators":
    raise ImportError("Import this package as `appa_prob.operators`.")

from .axis import AxisGather
from .base import Map, Operator
from .cg import CG
from .cholesky import Cholesky
from .coarsen import Coarsen
from .concatenate import Concatenate
from .convolution import Convolution
from .differences import Divergence, Gradient, Laplacian
from .direct import Direct
from .eigenbasis import Eigenbasis
from .elementary import Diagonal, Identity, Isotropic, Scaling, Zero
from .ensemble import Ensemble
from .expressions import Adjoint, Composition, Scaled, Sum
from .factored import Factored
from .fields import Fields, Restrict
from .fourier import Fourier
from .function import LinearFunction
from .gmres import GMRES
from .harmonics import SphericalHarmonics
from .hartley import Hartley
from .innovation import InnovationCovariance
from .interpolate import Interpolate
from .inverse import Inverse
from .jacobi import Jacobi
from .jacobian import Jacobian
from .kernel import KernelCovariance
from .kronecker import Kronecker
from .localisation import gaspari_cohn
from .lowrank import LowRankPlusDiagonal
from .lsmr import LSMR
from .lsqr import LSQR
from .matern import SphereMatern, unit_vectors
from .matrices import Dense
from .minres import MINRES
from .mix import Mix
from .nonlinear import Nonlinear
from .nystrom import Nystrom
from .pad import Pad
from .pivoted import PivotedCholesky
from .power import Power
from .preconditioner import Preconditioner
from .probing import estimate_diagonal, root_product
from .pseudo_inverse import PseudoInverse
from .rays import LineIntegrals, Radon
from .registry import build, register
from .reorder import Permute, Reshape
from .selection import Gather, Mask
from .slices import Slice
from .solution import ConvergenceWarning, Solution, Solver
from .sparse import Sparse
from .sphere_differences import SphereDivergence, SphereGradient, SphereLaplacian
from .spherical import SphericalStationary
from .stack import BlockDiagonal, Stack
from .stationary import Stationary
from .surrogate import Surrogate
from .temporal import TimeInterpolate, TimeWindow
from .tweedie import TweedieCovariance
from .weighted import WeightedGather

__all__ = [
    "CG",
    "GMRES",
    "LSMR",
    "LSQR",
    "MINRES",
    "Adjoint",
    "AxisGather",
    "BlockDiagonal",
    "Cholesky",
    "Coarsen",
    "Composition",
    "Concatenate",
    "ConvergenceWarning",
    "Convolution",
    "Dense",
    "Diagonal",
    "Direct",
    "Divergence",
    "Eigenbasis",
    "Ensemble",
    "Factored",
    "Fields",
    "Fourier",
    "Gather",
    "Gradient",
    "Hartley",
    "Identity",
    "InnovationCovariance",
    "Interpolate",
    "Inverse",
    "Isotropic",
    "Jacobi",
    "Jacobian",
    "KernelCovariance",
    "Kronecker",
    "Laplacian",
    "LineIntegrals",
    "LinearFunction",
    "LowRankPlusDiagonal",
    "Map",
    "Mask",
    "Mix",
    "Nonlinear",
    "Nystrom",
    "Operator",
    "Pad",
    "Permute",
    "PivotedCholesky",
    "Power",
    "Preconditioner",
    "PseudoInverse",
    "Radon",
    "Reshape",
    "Restrict",
    "Scaled",
    "Scaling",
    "Slice",
    "Solution",
    "Solver",
    "Sparse",
    "SphereDivergence",
    "SphereGradient",
    "SphereLaplacian",
    "SphereMatern",
    "SphericalHarmonics",
    "SphericalStationary",
    "Stack",
    "Stationary",
    "Sum",
    "Surrogate",
    "TimeInterpolate",
    "TimeWindow",
    "TweedieCovariance",
    "WeightedGather",
    "Zero",
    "build",
    "estimate_diagonal",
    "gaspari_cohn",
    "register",
    "root_product",
    "unit_vectors",
]
