r"""The sites of a program: which are fields, which are observed, and what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Size, Tensor
from torch.distributions import Independent

from appa_prob.samplers import CopiedDenoiser, Denoiser, Tempered

from .diffusion_prior import DiffusionPrior
from .information import Part, dependent, depends, split, standardise
from .site_checks import check_observed, check_plate, log_density, refuse_latent

__all__ = ["Field", "Hold", "Observed", "find_prior", "read_parameters", "read_sites"]


@dataclass(frozen=True, eq=False)
class Field:
    r"""A latent site with a diffusion prior.

    Arguments:
        name: Its name.
        prior: Its law.
        copies: The shape of the batch of independent fields.
        power: The power of the prior, by ``poutine.scale``.
    """

    name: str
    prior: DiffusionPrior
    copies: Size
    power: float

    @property
    def shape(self) -> Size:
        """The shape of its value."""
        return Size((*self.copies, *self.prior.event_shape))

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser of all copies."""
        one: Denoiser = self.prior.denoiser
        if self.power != 1:
            one = Tempered(one, self.power)
        return CopiedDenoiser(one, self.copies) if self.copies else one


@dataclass(frozen=True, eq=False)
class Observed:
    r"""An observed site.

    Arguments:
        name: Its name.
        parameters: For each of its parts, the parameters that depend on fields.
    """

    name: str
    parameters: tuple[tuple[str, ...], ...]

    def parts(self, node: Mapping[str, Any]) -> list[tuple[Part, tuple[str, ...]]]:
        r"""The parts that depend on fields, with the parameters that do.

        Arguments:
            node: The site, in a trace of the program.
        """
        parts = split(node["fn"], node["value"], _weight(node))
        found = zip(parts, self.parameters, strict=True)
        return [(part, names) for part, names in found if names]


class Hold(Messenger):
    r"""Gives latent sites their values; diffusion priors without one are not sampled, but filled
    with noise.

    Arguments:
        values: The values by the names of sites.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.generator = torch.Generator().manual_seed(0)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        prior = find_prior(msg["fn"])
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
        elif prior is not None:
            noise = torch.randn(msg["fn"].shape(), generator=self.generator, dtype=prior.dtype)
            msg["value"], msg["done"] = noise.to(prior.device), True


def read_sites(trace: Any, held: Mapping[str, Tensor]) -> tuple[list[Field], list[str]]:
    r"""The fields and the names of the observed sites of a program.

    Arguments:
        trace: A trace of it.
        held: The latent sites that are given a value.

    Raises:
        ValueError: If there is no field or no observed site, if a latent site is neither a field
            nor held, if a site is subsampled, or if shapes don't fit.
    """
    fields, observed, others = [], [], []
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["infer"].get("_deterministic"):
            continue
        if site_is_subsample(node):
            check_plate(name, node)
        elif node["is_observed"]:
            check_observed(name, node)
            observed.append(name)
        elif find_prior(node["fn"]) is not None:
            fields.append(_field(name, node))
        elif name not in held:
            others.append(name)
    if not fields:
        raise ValueError(
            "expected a program with a DiffusionPrior site, got none among the latent sites "
            f"{_names(others)}; programs without are for MCMC or SVI"
        )
    for name in others:
        refuse_latent(name, trace.nodes[name])
    if not observed:
        raise ValueError(
            f"expected a program with an observed site beside {_names([f.name for f in fields])}, "
            "got none; pass obs=... to a site, or condition the program by pyro.condition"
        )
    return fields, observed


def read_parameters(trace: Any) -> dict[str, Tensor]:
    r"""The values of the latent sites that are not fields.

    Arguments:
        trace: A trace of the program.

    Raises:
        ValueError: If there is none, or if one is discrete.
    """
    found = {}
    for name, node in trace.nodes.items():
        if (
            node["type"] != "sample"
            or node["is_observed"]
            or site_is_subsample(node)
            or find_prior(node["fn"]) is not None
        ):
            continue
        if getattr(node["fn"].support, "is_discrete", False):
            refuse_latent(name, node)
        found[name] = node["value"].detach()
    if not found:
        raise ValueError(
            "expected a program with latent sites beside its DiffusionPrior, got none; "
            "appa_prob.conditioning.condition samples fields alone"
        )
    return found


def read_dependence(name: str, node: Mapping[str, Any], sources: list[Tensor]) -> Observed:
    r"""How an observed site depends on fields.

    Arguments:
        name: Its name.
        node: The site, in a trace of the program.
        sources: The values of the fields, which the graph of the trace starts from.

    Raises:
        ValueError: If the site doesn't depend on a field.
        TypeError: If it depends on it in a way that is not known.
    """
    try:
        parts = split(node["fn"], node["value"], _weight(node))
        names = tuple(tuple(dependent(part, sources)) for part in parts)
        for part, found in zip(parts, names, strict=True):
            if found and not part.dense:
                standardise(part, found)
    except TypeError as error:
        raise TypeError(f"site {name!r}: {error}") from error
    if not any(names):
        if depends(log_density(node), sources):
            law = type(parts[0].law).__name__
            raise TypeError(
                f"site {name!r}: expected a distribution with a known Fisher information, got "
                f"{law}, whose parameters it does not show"
            )
        raise ValueError(
            f"site {name!r} is observed, but its distribution does not depend on a DiffusionPrior "
            "site; leave it out, or fix what it depends on"
        )
    return Observed(name, names)


def _field(name: str, node: Mapping[str, Any]) -> Field:
    if node["mask"] is not None or isinstance(node["fn"], dist.MaskedDistribution):
        raise ValueError(
            f"site {name!r}: expected a DiffusionPrior without a mask, got one with; a masked "
            "prior is no prior, mask observed sites instead"
        )
    power = float(torch.as_tensor(node["scale"]).reshape(-1)[0])
    if torch.as_tensor(node["scale"]).numel() != 1 or not power > 0:
        raise ValueError(
            f"site {name!r}: expected a DiffusionPrior with one scale > 0, got {node['scale']}"
        )
    prior = find_prior(node["fn"])
    assert prior is not None
    shape = node["fn"].shape()
    copies = Size(shape[: len(shape) - len(prior.event_shape)])
    if node["value"].shape != shape:
        raise ValueError(
            f"site {name!r}: expected a value of shape {tuple(shape)}, got "
            f"{tuple(node['value'].shape)}"
        )
    return Field(name, prior, copies, power)


def find_prior(law: Any) -> DiffusionPrior | None:
    r"""The diffusion prior within a law, if there is one.

    Arguments:
        law: The law of a site: independent and masked ones are opened.
    """
    while isinstance(law, (Independent, dist.MaskedDistribution)):
        law = law.base_dist
    return law if isinstance(law, DiffusionPrior) else None


def _weight(node: Mapping[str, Any]) -> Tensor | None:
    scale, mask = node["scale"], node["mask"]
    if mask is None and isinstance(scale, (int, float)) and scale == 1:
        return None
    device = node["value"].device
    weight = torch.as_tensor(scale, dtype=torch.get_default_dtype(), device=device).detach()
    return weight if mask is None else weight * torch.as_tensor(mask, device=device)


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "of the program"
