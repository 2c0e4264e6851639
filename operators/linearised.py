r"""Functions taken apart, once for all points of one shape, into a value and a linear part.

.. math:: f(x) = p_1(x) \qquad r = p_2(x) \qquad J v = t(v; r)

Tracing :math:`(x, v) \mapsto (f(x), J v)` gives one graph. What doesn't depend upon :math:`v` is
the function itself, with the intermediate results :math:`r` that the rest needs; the rest,
:math:`t`, is linear in :math:`v`, and costs about as much as the function. Both are evaluated at
new points without looking at the function again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Linearised", "Trace"]


@dataclass(frozen=True)
class Trace:
    r"""The two parts of a function, for points of one shape.

    Arguments:
        primal: The graph of :math:`x \mapsto (f(x), r)`.
        tangent: The graph of :math:`(v, r) \mapsto J v`.

    Example:
        >>> trace = Linearised(torch.sin).trace(torch.zeros(2))
        >>> value, residuals = trace.value(torch.tensor([0.0, torch.pi]))
        >>> trace.product(torch.ones(2), residuals)
        tensor([ 1., -1.])
    """

    primal: GraphModule
    tangent: GraphModule

    def value(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The value at a point, and what the linear part needs."""
        value, *residuals = self.primal(x)
        return value, tuple(residuals)

    def product(self, v: Tensor, residuals: tuple[Tensor, ...]) -> Tensor:
        """The product of the Jacobian with a direction."""
        result: Tensor = self.tangent(v, *residuals)
        return result


class Linearised:
    r"""A function that keeps a :class:`Trace` for each shape, type and device of its points.

    A trace holds the operations of one evaluation. The function must do the same at all points:
    what depends on the values of :math:`x` by ``if``, or on what else may change between
    evaluations other than the values of its tensors, is not seen. Values of parameters are read
    anew each time.

    Arguments:
        function: The function :math:`f`, of one field.

    Example:
        >>> f = Linearised(torch.sin)
        >>> f.trace(torch.zeros(2)) is f.trace(torch.ones(2))
        True
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.traces: dict[Any, Trace] = {}

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def trace(self, x: Tensor) -> Trace:
        r"""The trace for points like :math:`x`, made when first asked for.

        Arguments:
            x: A point.

        Raises:
            RuntimeError: If the function can't be traced, or an operation has no forward mode.
        """
        key = (x.shape, x.dtype, x.device)
        if key not in self.traces:
            self.traces[key] = traced(self.function, x.detach())
        return self.traces[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "traces": {}}


def traced(function: Callable[[Tensor], Tensor], x: Tensor) -> Trace:
    r"""Traces a function with its forward product, and takes the graph apart.

    Arguments:
        function: The function.
        x: A point.
    """

    def both(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        value, product = torch.func.jvp(function, (x,), (v,))[:2]
        return value, product

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        v = torch.zeros_like(x)
        joint = make_fx(both)(x, v)
        # What is written in place becomes an expression; not before functions with derivatives of
        # their own are resolved.
        expressions = torch.func.functionalize(joint)
        joint = make_fx(expressions, {torch.ops.aten.copy.default: copied})(x, v)
    return split(joint)


def copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """A copy into a tensor as an expression, which has derivatives."""
    return source.to(target.dtype).expand_as(target)


def split(joint: GraphModule) -> Trace:
    r"""Takes the graph of :math:`(x, v) \mapsto (f(x), J v)` apart.

    Arguments:
        joint: The graph.
    """
    joint.graph.eliminate_dead_code()
    x, v = joint.graph.find_nodes(op="placeholder")
    (end,) = joint.graph.find_nodes(op="output")
    value, product = end.args[0]
    varying = dependents(joint.graph, v)
    late = [node for node in joint.graph.nodes if node in varying and node is not end]
    needed: dict[Node, None] = {}
    for node in (*late, product):
        if node in varying:
            needed |= dict.fromkeys(a for a in node.all_input_nodes if a not in varying)
        else:
            needed[node] = None
    constants = [node for node in needed if node.op == "get_attr"]
    residuals = [node for node in needed if node.op != "get_attr"]
    early = [node for node in joint.graph.nodes if node not in varying]
    return Trace(
        part(joint, [x], early, (value, *residuals)),
        part(joint, [v, *residuals], [*constants, *late], product),
    )


def dependents(graph: Graph, source: Node) -> set[Node]:
    """The nodes of a graph that depend upon one, and this one itself."""
    found = {source}
    for node in graph.nodes:
        if any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def part(joint: GraphModule, inputs: list[Node], nodes: list[Node], result: Any) -> GraphModule:
    r"""A part of a graph as a function.

    Arguments:
        joint: The whole.
        inputs: The nodes that become arguments.
        nodes: The nodes of the part, in the order of the whole.
        result: The node that becomes the result, or a tuple of nodes.
    """
    graph = Graph()
    copies = {node: graph.placeholder(f"a{i}") for i, node in enumerate(inputs)}
    for node in nodes:
        if node not in copies and node.op != "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(torch.fx.node.map_arg(result, copies.__getitem__))
    graph.eliminate_dead_code()
    return GraphModule(joint, graph)
