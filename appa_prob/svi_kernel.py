r"""Moves of parameters by stochastic variational inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import Tensor
from torch.distributions import constraints, transform_to

__all__ = ["SVIKernel"]


class SVIKernel:
    r"""Draws parameters from the guide that SVI fits to their conditional law.

    .. math:: \phi^\star = \arg \min_\phi \mathrm{KL} \left( q_\phi(\theta) \,\|\,
        p(\theta \mid x, y) \right) \qquad \theta \sim q_{\phi^\star}

    This is approximate: where :math:`p(\theta \mid x, y)` is not in the family of the guide, what
    Gibbs sampling with it converges to is not the posterior; mostly too narrow. Where it is, as
    for a bias beside Gaussian errors and a guide of Gaussians, the error is that of the
    optimisation, some hundredths of a standard deviation. A guide starts from that of the turn
    before; its optimiser starts anew, with steps that fall by a factor of 100. Draws given the
    fields are independent of each other, where the steps of a Markov chain are not.

    Serves as the `kernel` of :func:`~appa_prob.gibbs.gibbs`, bare or by
    ``partial(SVIKernel, steps=50)``.

    References:
        | Automatic Differentiation Variational Inference (Kucukelbir et al., 2017)
        | https://arxiv.org/abs/1603.00788

    Arguments:
        model: The program of the parameters.
        guide: What makes the guide, called on the program and `init_loc_fn`; by default
            ``AutoLaplaceApproximation``, the Gaussian at the mode in unconstrained coordinates,
            whose optimisation is without noise. That of others, as ``AutoNormal``, is not, and
            takes more particles.
        steps: The number of steps of SVI in a turn.
        first: The number of steps in the first one, from an untrained guide; by default four times
            as many.
        rate: The length of the first steps in a turn, that of Adam in unconstrained coordinates.
        particles: The number of draws from the guide that a gradient averages.
        init_strategy: Where the guide starts, as of NUTS.

    Raises:
        ValueError: If a number is not positive, or if the guide leaves a parameter out.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro.infer.autoguide import init_to_median
        >>> def model():
        ...     rate = pyro.sample("rate", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(rate, 1.0), obs=torch.tensor(2.0))
        >>> kernel = SVIKernel(model, steps=5, first=100, init_strategy=init_to_median)
        >>> kernel.setup(0)
        >>> rates = torch.stack([kernel.sample({})["rate"] for _ in range(25)])
        >>> bool((rates.mean() - 1.0).abs() < 0.7)
        True
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] = AutoLaplaceApproximation,
        *,
        steps: int = 100,
        first: int | None = None,
        rate: float = 0.1,
        particles: int = 1,
        init_strategy: Callable[..., Any],
    ) -> None:
        first = 4 * steps if first is None else first
        if steps < 1 or first < 1 or particles < 1 or not rate > 0:
            raise ValueError(
                "expected at least one step and one particle, and steps longer than 0, got "
                f"steps={steps}, first={first}, particles={particles} and rate={rate}"
            )
        self.model, self.steps, self.first, self.rate = model, steps, first, rate
        self.guide = guide(model, init_loc_fn=init_strategy)
        self.elbo = Trace_ELBO(num_particles=particles)
        # Parameters are moved in their own coordinates: those of the guide are its own affair.
        self.transforms: dict[str, Any] = {}
        self.initial_params: dict[str, Tensor] = {}

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        r"""Keeps the arguments of the program.

        Arguments:
            warmup_steps: Ignored: guides are fitted in every turn.
            args: The arguments of the program.
            kwargs: Its arguments by name.
        """
        self.args, self.kwargs = args, kwargs
        self.due = self.first

    def clear_cache(self) -> None:
        r"""Does nothing: all is computed anew when fields have changed."""

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        r"""Fits the guide to what the program is now, and draws from it.

        Arguments:
            params: The parameters before, which the draw doesn't depend on.

        Returns:
            The parameters by the names of sites.
        """
        # The guide keeps its parameters by itself, apart from those of the user's store.
        with pyro.get_param_store().scope(), torch.enable_grad():
            fall = 0.01 ** (1 / self.due)
            optimiser = pyro.optim.ClippedAdam({"lr": self.rate, "lrd": fall})
            svi = SVI(self.model, self.guide, optimiser, self.elbo)
            for _ in range(self.due):
                svi.step(*self.args, **self.kwargs)
            self.due = self.steps
            guide = self.guide
            if isinstance(guide, AutoLaplaceApproximation):
                guide = guide.laplace_approximation(*self.args, **self.kwargs)
            with torch.no_grad():
                drawn: dict[str, Tensor] = guide(*self.args, **self.kwargs)
        identity = transform_to(constraints.real)
        self.transforms = {name: identity for name in drawn}
        return {name: value.detach() for name, value in drawn.items()}
