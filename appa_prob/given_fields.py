r"""The program of the parameters of a program, given its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro import poutine
from torch import Tensor

from appa_prob.samplers import Denoiser, Integrator, Likelihood

from .conditioning import sample_program
from .prior_dependence import refuse_dependent_priors
from .program import Program
from .sites import Hold, read_parameters

__all__ = ["GivenFields", "Guidance"]

Guidance = Callable[[Denoiser, Likelihood], Denoiser]


class GivenFields:
    """The program of the parameters, with fields given and hidden, so that no handler asks for
    their densities."""

    def __init__(
        self, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.model = model
        with poutine.block():
            trace = poutine.trace(Hold({})(model)).get_trace(*args, **kwargs)
        self.parameters = read_parameters(trace)
        self.program = Program(model, args, kwargs, values=self.parameters)
        self.fields: dict[str, Tensor] = {}
        fields = [field.name for field in self.program.fields]
        refuse_dependent_priors(self.program.trace, fields, list(self.parameters))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = [field.name for field in self.program.fields]
        with poutine.block(hide=names), Hold(self.fields):
            return self.model(*args, **kwargs)

    def draw(self, count: int, guidance: Guidance | None, integrator: Integrator | None) -> Tensor:
        """States given the parameters, with shape (count, event)."""
        self.program = self.program.at(self.parameters)
        samples = sample_program(self.program, count, guidance=guidance, integrator=integrator)
        return self.program.pack(
            {field.name: samples[field.name] for field in self.program.fields}
        )
