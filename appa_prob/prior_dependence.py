r"""Which diffusion priors of a program depend on other latent sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .diffusion_prior import DiffusionPrior
from .sites import find_prior

__all__ = ["refuse_dependent_priors"]


def refuse_dependent_priors(
    run: Callable[[Mapping[str, Tensor]], Any], fields: Sequence[str], others: Sequence[str]
) -> None:
    r"""Refuses programs in which a diffusion prior depends on another latent site.

    Priors are read once, and would stay what they were for the first value of that site. Denoisers
    that a program is given are what they are; those that it makes are evaluated for two values of
    each other site.

    Arguments:
        run: Traces the program with latent sites held at given values, and others as they are in
            each run.
        fields: The names of sites with a diffusion prior.
        others: The names of latent sites, fields or not, that they may not depend on.

    Raises:
        ValueError: If one depends on another, naming both.
    """
    first, second = run({}), run({})
    made = [
        name
        for name in fields
        if _prior(first, name).denoiser is not _prior(second, name).denoiser
    ]
    if not made:
        return
    values = {name: first.nodes[name]["value"].detach() for name in {*fields, *others}}
    for other in others:
        law, value = first.nodes[other]["fn"], values[other]
        moved = torch.randn_like(value) if find_prior(law) is not None else law.sample()
        changed = run({**values, other: moved})
        same = run(values)
        for name in made:
            if name != other and not torch.equal(_clean(same, name), _clean(changed, name)):
                raise ValueError(
                    f"site {name!r}: expected a DiffusionPrior that depends on no other latent "
                    f"site, got one that depends on {other!r}; fix {other!r}, or "
                    "let the observed sites depend on it instead"
                )


def _prior(trace: Any, name: str) -> DiffusionPrior:
    prior = find_prior(trace.nodes[name]["fn"])
    assert prior is not None
    return prior


def _clean(trace: Any, name: str) -> Tensor:
    """What the denoiser of a site makes of some noise."""
    prior = _prior(trace, name)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(prior.event_shape, generator=g, dtype=prior.dtype).to(prior.device)
    t = torch.tensor(0.5, dtype=prior.dtype, device=prior.device)
    with torch.no_grad():
        alpha, sigma = prior.denoiser.schedule(t)
        clean: Tensor = prior.denoiser(alpha * noise + sigma * noise, t)
    return clean
