r"""What observations say of the parameters of their laws: scores, and Fisher's information.

For an observation :math:`y` of law :math:`p(y \mid \theta)`, with :math:`\theta = h(x)`,

.. math:: g = \nabla_\theta \log p(y \mid \theta) \qquad
    W = \mathbb{E} \left[ g g^T \right] \qquad
    \log p(y \mid h(x + \delta)) \approx \log p(y \mid h(x)) + \delta^T H^T g
    - \frac{1}{2} \delta^T H^T W H \delta

which is the method of Gauss and Newton, or of Fisher's scores. It is the likelihood of a Gaussian
observation of :math:`W^{1/2} H x` with errors of unit variance and the residual
:math:`W^{-1/2} g`: in these units an observation that says nothing has a row of zeros, and all
others are alike. Parameters of one law are taken to be orthogonal, so that :math:`W` is diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

from appa_prob.operators.shapes import broadcast

__all__ = ["Part", "dependent", "depends", "information", "split", "standardise"]

VECTORS = (
    torch.distributions.MultivariateNormal,
    torch.distributions.LowRankMultivariateNormal,
)


@dataclass(frozen=True, eq=False)
class Part:
    r"""Numbers observed independently of each other, or vectors of one Gaussian each.

    Arguments:
        law: Their law, all of whose axes are batch axes (but for the last one of a vector).
        value: What was observed.
        weight: The power of their densities, broadcast to the batch of the law; none for 1.
    """

    law: Any
    value: Tensor
    weight: Tensor | None

    @property
    def dense(self) -> bool:
        """Whether they are vectors with correlated errors."""
        return isinstance(self.law, VECTORS)

    @property
    def shape(self) -> Size:
        """The shape of all the numbers."""
        return broadcast(self.law.batch_shape + self.law.event_shape, self.value.shape)


@singledispatch
def split(law: Distribution, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    r"""The parts of an observation whose law may be nested.

    Arguments:
        law: The law: independent, masked, expanded and transformed laws are opened.
        value: The observation.
        weight: The power of its density, broadcast to the batch of the law.

    Raises:
        TypeError: If a transform depends on what is inferred.

    Example:
        >>> law = dist.LogNormal(torch.zeros(3), 0.5).to_event(1)
        >>> (part,) = split(law, torch.ones(3))
        >>> part.law, part.value
        (Normal(loc: torch.Size([3]), scale: torch.Size([3])), tensor([0., 0., 0.]))
    """
    return [Part(law, value, weight)]


@split.register
def _(law: Independent, value: Tensor, weight: Tensor | None = None) -> list[Part]:  # type: ignore[type-arg]
    if weight is not None:
        weight = weight.reshape(*weight.shape, *(1,) * law.reinterpreted_batch_ndims)
    return split(law.base_dist, value, weight)


@split.register
def _(law: dist.MaskedDistribution, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    mask = torch.as_tensor(law._mask, device=value.device).to(value.dtype)
    return split(law.base_dist, value, mask if weight is None else weight * mask)


@split.register
def _(law: dist.ExpandedDistribution, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    return split(law.base_dist, value, weight)


@split.register
def _(law: TransformedDistribution, value: Tensor, weight: Tensor | None = None) -> list[Part]:
    for transform in reversed(law.transforms):
        value = transform.inv(value)
    if value.requires_grad:
        raise TypeError(
            f"expected transforms that don't depend on what is inferred, got {law.transforms} "
            "that do; let the parameters of the base distribution depend on it"
        )
    return split(law.base_dist, value, weight)


@singledispatch
def information(law: Distribution) -> dict[str, Tensor]:
    r"""Fisher's information :math:`W` of one number about each parameter of its law.

    .. math:: W = \mathbb{E} \left[ \left( \frac{\partial \log p(y \mid \theta)}
        {\partial \theta} \right)^2 \right]

    Other laws are added by ``@information.register``, with the parameters that are orthogonal to
    each other.

    Arguments:
        law: The law.

    Returns:
        The information by the names of the parameters, with the shape of the batch.

    Raises:
        TypeError: If the law is not known.

    Example:
        >>> information(dist.Poisson(torch.tensor(4.0)))
        {'rate': tensor(0.2500)}
    """
    raise TypeError(
        f"expected a distribution with a known Fisher information, got {type(law).__name__}; add "
        "it by @appa_prob.information.information.register"
    )


@information.register
def _(law: torch.distributions.Normal) -> dict[str, Tensor]:
    precision = law.scale.square().reciprocal()
    return {"loc": precision, "scale": 2 * precision}


@information.register
def _(law: dist.StudentT) -> dict[str, Tensor]:
    precision = ((law.df + 3) * law.scale.square()).reciprocal()
    return {"loc": (law.df + 1) * precision, "scale": 2 * law.df * precision}


@information.register
def _(law: torch.distributions.Laplace) -> dict[str, Tensor]:
    precision = law.scale.square().reciprocal()
    return {"loc": precision, "scale": precision}


@information.register
def _(law: torch.distributions.Cauchy) -> dict[str, Tensor]:
    precision = 0.5 * law.scale.square().reciprocal()
    return {"loc": precision, "scale": precision}


@information.register
def _(law: torch.distributions.Poisson) -> dict[str, Tensor]:
    return {"rate": law.rate.reciprocal()}


@information.register
def _(law: torch.distributions.Exponential) -> dict[str, Tensor]:
    return {"rate": law.rate.square().reciprocal()}


@information.register
def _(law: torch.distributions.Gamma) -> dict[str, Tensor]:
    return {"rate": law.concentration / law.rate.square()}


@information.register
def _(law: torch.distributions.Bernoulli) -> dict[str, Tensor]:
    return _binary(law, torch.ones_like(law.logits))


@information.register
def _(law: torch.distributions.Binomial) -> dict[str, Tensor]:
    return _binary(law, law.total_count)


@information.register
def _(law: torch.distributions.Geometric) -> dict[str, Tensor]:
    q = torch.sigmoid(-law.logits)
    return {"logits": q}


@information.register
def _(law: torch.distributions.NegativeBinomial) -> dict[str, Tensor]:
    return {"logits": law.total_count * torch.sigmoid(law.logits)}


def _canonical(law: Any, shape: Size) -> Any:
    """The same law by its logits, and by parameters that don't depend on each other in a graph:
    each of them is a view of its own."""
    binary = torch.distributions.Bernoulli, torch.distributions.Geometric
    counts = torch.distributions.Binomial, torch.distributions.NegativeBinomial
    if isinstance(law, binary):
        law = type(law)(logits=law.logits, validate_args=False)
    elif isinstance(law, counts):
        law = type(law)(law.total_count, logits=law.logits, validate_args=False)
    return law.expand(shape)


def _scales(law: Any) -> Sequence[Tensor]:
    """What the covariance of a vector is made of."""
    if isinstance(law, torch.distributions.LowRankMultivariateNormal):
        return law._unbroadcasted_cov_factor, law._unbroadcasted_cov_diag
    lazy = getattr(law, "_covar", None)
    return (law._unbroadcasted_scale_tril,) if lazy is None else lazy.representation()


def _binary(law: Any, count: Tensor) -> dict[str, Tensor]:
    return {"logits": count * torch.sigmoid(law.logits) * torch.sigmoid(-law.logits)}


def depends(tensor: object, sources: Sequence[Tensor]) -> bool:
    r"""Whether a tensor depends on others, by its graph.

    Arguments:
        tensor: The tensor; anything else depends on nothing.
        sources: The tensors, which the graph starts from.
    """
    if not isinstance(tensor, Tensor) or not tensor.requires_grad:
        return False
    found = torch.autograd.grad(tensor.sum(), sources, allow_unused=True, retain_graph=True)
    return any(gradient is not None for gradient in found)


def dependent(part: Part, sources: Sequence[Tensor]) -> list[str]:
    r"""The names of the parameters of a part that depend on given tensors.

    Arguments:
        part: The part. Its parameters are attached to a graph.
        sources: The tensors, which the graph starts from.

    Raises:
        TypeError: If the covariance of a vector depends on them.
    """

    if not part.dense:
        # Probabilities are logits in another form, which laws keep beside each other.
        kept, alias = vars(part.law), {"probs": "logits"}
        found = [name for name in part.law.arg_constraints if depends(kept.get(name), sources)]
        return list(dict.fromkeys(alias.get(name, name) for name in found))
    if any(depends(scale, sources) for scale in _scales(part.law)):
        raise TypeError(
            "expected a covariance of errors that doesn't depend on what is inferred, got one "
            "that does; independent errors may, as those of Normal(h(x), s(x))"
        )
    return ["loc"] if depends(part.law.loc, sources) else []


def standardise(
    part: Part, names: Sequence[str], create_graph: bool = False
) -> list[tuple[Tensor, Tensor, Tensor]]:
    r"""The parameters of a part, and what was observed of them in units of standard deviations.

    Arguments:
        part: The part. Its parameters are attached to a graph.
        names: The parameters that depend on what is inferred.
        create_graph: Whether the results are differentiable.

    Returns:
        For each parameter :math:`\theta`, the residual :math:`W^{-1/2} g` and the root
        :math:`W^{1/2}`, all with the shape of the part.

    Raises:
        TypeError: If the information about a parameter is not known.

    Example:
        >>> loc = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> part = Part(dist.Normal(loc, 0.5), torch.tensor([2.0, 2.0]), None)
        >>> ((theta, residual, root),) = standardise(part, ["loc"])
        >>> residual, root
        (tensor([2., 0.]), tensor([2., 2.]))
    """
    law = _canonical(part.law, part.shape)
    known = information(law)
    for name in names:
        if name not in known:
            raise TypeError(
                f"expected a {type(law).__name__} of which {' and '.join(known)} depend on what "
                f"is inferred, got one whose {name} does, of which the Fisher information is not "
                "known; keep it fixed"
            )
    parameters = [getattr(law, name) for name in names]
    density = law.log_prob(part.value).sum()
    scores = torch.autograd.grad(density, parameters, create_graph=create_graph, retain_graph=True)
    found = []
    for name, theta, score in zip(names, parameters, scores, strict=True):
        W = known[name] if part.weight is None else part.weight * known[name]
        g = score if part.weight is None else part.weight * score
        root = (W if create_graph else W.detach()).sqrt()
        # A weight of 0, or a law that has become flat, says nothing.
        silent = root == 0
        residual = torch.where(silent, 0.0, g / torch.where(silent, 1.0, root))
        found.append((theta, residual, root))
    return found
