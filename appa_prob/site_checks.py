r"""What is wrong with a site of a program, said in terms of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import pyro.distributions as dist
from pyro.distributions.util import scale_and_mask
from pyro.util import check_site_shape
from torch import Tensor

__all__ = ["check_observed", "check_plate", "log_density", "refuse_latent"]


def log_density(node: Mapping[str, Any]) -> Tensor:
    r"""The logarithm of the density of a site, scaled and masked, with the shape of its batch.

    Arguments:
        node: The site, in a trace of the program.
    """
    density: Tensor = node["fn"].log_prob(node["value"])
    density = scale_and_mask(density, node["scale"], node["mask"])
    return density.expand(node["fn"].batch_shape)


def check_plate(name: str, node: Mapping[str, Any]) -> None:
    r"""Refuses a plate of which a part is drawn.

    Arguments:
        name: Its name.
        node: Its site, in a trace of the program.

    Raises:
        ValueError: If it is subsampled.
    """
    size, subsample = node["fn"].size, node["fn"].subsample_size
    if subsample is not None and subsample != size:
        raise ValueError(
            f"plate {name!r}: expected all of {size} elements, got a subsample of {subsample}; a "
            "posterior is conditioned on all data at once"
        )


def check_observed(name: str, node: Any) -> None:
    r"""Refuses an observation that is not one of the distribution of its site.

    Arguments:
        name: The name of the site.
        node: The site, in a trace of the program.

    Raises:
        ValueError: If it is none, has another shape or values out of the support, or doesn't fit
            the plates.
        TypeError: If it is not a tensor.
    """
    law, value = node["fn"], node["value"]
    if isinstance(law, dist.Unit):
        raise ValueError(
            f"site {name!r}: expected an observed site with a distribution, got pyro.factor, of "
            "which no linearisation is known; write it as an observation"
        )
    if not isinstance(value, Tensor):
        raise TypeError(
            f"site {name!r}: expected an observation that is a tensor, got "
            f"{type(value).__name__}; torch.as_tensor makes one"
        )
    if value.shape != law.shape():
        raise ValueError(
            f"site {name!r}: expected an observation of shape {tuple(law.shape())}, that of its "
            f"distribution, got {tuple(value.shape)}; declare independent numbers by a plate, or "
            "by .to_event"
        )
    try:
        node["log_prob"] = log_density(node)
    except ValueError as error:
        missing = bool(value.isnan().any()) * (
            " (some are NaN: see appa_prob.likelihoods.Missing, or mask the site and give any "
            "numbers in their place, as torch.nan_to_num does)"
        )
        raise ValueError(f"site {name!r}: {error}{missing}") from error
    # Pyro's own check of plates, whose errors name the site and the remedies.
    check_site_shape(node, max_plate_nesting=len(law.batch_shape) + len(node["cond_indep_stack"]))


def refuse_latent(name: str, node: Mapping[str, Any]) -> NoReturn:
    r"""Says what to do about a latent site that is no field.

    Arguments:
        name: Its name.
        node: The site, in a trace of the program.

    Raises:
        ValueError: Always.
    """
    discrete = getattr(node["fn"].support, "is_discrete", False)
    if discrete:
        raise ValueError(
            f"site {name!r} is discrete and latent, got {type(node['fn']).__name__}; condition on "
            "each of its values, and weigh these, or make a mixture of the prior "
            "(MixtureDenoiser)"
        )
    if name.endswith("_unobserved") and node["mask"] is not None:
        site = name.removesuffix("_unobserved")
        raise ValueError(
            f"site {site!r}: expected an observation without obs_mask, which makes latent sites "
            "of what is missing; use appa_prob.likelihoods.Missing, or poutine.mask, which leave "
            "it out"
        )
    raise ValueError(
        f"site {name!r} is latent, and neither a DiffusionPrior nor given a value, got "
        f"{type(node['fn']).__name__}; observe it, fix it by values={{{name!r}: ...}}, or sample "
        "it too by appa_prob.gibbs.gibbs"
    )
