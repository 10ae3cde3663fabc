"""Scalar autograd: gradients that compute themselves

Exported from 02_Scalar_Autograd/scalar_autograd.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import math
from operator import attrgetter

import numpy as np

__all__ = [
    "Value",
    "draw_graph",
    "topological_order",
]


class Value:
    """A number that knows where it came from, so that gradients can find their way back.

    Parameters
    ----------
    data : the number: a Python or NumPy real number, kept as a float, NaN and infinity too.
    parents : the Values that it was computed from; empty for a leaf.
    derivatives : for each parent, the derivative of this number by that parent alone.
    op : the name of the operation, for pictures.

    `grad` is 0.0 until `backward` fills it in. Values have an identity rather than a size:
    `==` asks whether two are the same object, and there is no `<`; compare their `data`, or
    ``float(value)``. Raises TypeError where `data` is not a real number.
    Sections 4 and 5; the idea is that of Wengert (1964).
    """

    __slots__ = ("data", "derivatives", "grad", "op", "parents")
    __array_ufunc__ = None  # NumPy's numbers leave `number * value` to us

    def __init__(self, data, parents=(), derivatives=(), op=""):
        self.data = data if type(data) is float else _real(data, "Value")
        self.grad = 0.0
        self.parents = parents
        self.derivatives = derivatives
        self.op = op

    def __float__(self):
        return self.data

    def __repr__(self):
        grad = "None" if self.grad is None else f"{self.grad:g}"
        return f"Value(data={self.data:g}, grad={grad})"

    def __add__(self, other):
        if type(other) is not Value:
            other = _lift(other, "+")
        return Value(self.data + other.data, (self, other), (1.0, 1.0), "+")

    __radd__ = __add__

    def __mul__(self, other):
        if type(other) is not Value:
            other = _lift(other, "*")
        return Value(self.data * other.data, (self, other), (other.data, self.data), "*")

    __rmul__ = __mul__

    def backward(self):
        """Fill in `grad` of every Value that this one was computed from: how this one reacts to it.

        Leaves, which have no parents, add the derivative to the `grad` that they have (None counts
        as 0); all others start afresh. The graph is kept, so that `backward` can be called again.
        Section 8; Linnainmaa (1970).
        """
        inner = []
        for node in topological_order(self, _parents):
            if node.parents:
                node.grad = 0.0
                inner.append(node)
            elif node.grad is None:
                node.grad = 0.0
        self.grad += 1.0
        for node in reversed(inner):
            grad, parents = node.grad, node.parents
            if len(parents) == 2:  # the usual cases written out: twice as fast as the loop below
                (a, b), (da, db) = parents, node.derivatives
                a.grad += da * grad
                b.grad += db * grad
            elif len(parents) == 1:
                parents[0].grad += node.derivatives[0] * grad
            else:
                for parent, derivative in zip(parents, node.derivatives, strict=True):
                    parent.grad += derivative * grad

    def __neg__(self):
        return Value(-self.data, (self,), (-1.0,), "neg")

    def __sub__(self, other):
        if type(other) is not Value:
            other = _lift(other, "-")
        return Value(self.data - other.data, (self, other), (1.0, -1.0), "-")

    def __rsub__(self, other):
        return _lift(other, "-") - self

    def __truediv__(self, other):
        if type(other) is not Value:
            other = _lift(other, "/")
        quotient = self.data / other.data
        return Value(quotient, (self, other), (1 / other.data, -quotient / other.data), "/")

    def __rtruediv__(self, other):
        return _lift(other, "/") / self

    def __pow__(self, other):
        x = self.data
        if isinstance(other, Value):
            n = other.data
            result = _power(x, n)
            by_exponent = result * math.log(x) if x > 0 else 0.0 if x == 0 else math.nan
            return Value(result, (self, other), (_power_slope(x, n), by_exponent), "**")
        n = _real(other, "**")
        return Value(_power(x, n), (self,), (_power_slope(x, n),), f"**{other}")

    def __rpow__(self, other):
        return _lift(other, "**") ** self

    def exp(self):
        """e to the power of this number; infinite where that overflows. Section 9."""
        try:
            result = math.exp(self.data)
        except OverflowError:
            result = math.inf
        return Value(result, (self,), (result,), "exp")

    def log(self):
        """The natural logarithm. Raises ValueError unless the number is positive. Section 9."""
        if self.data <= 0:
            raise ValueError(f"log: expected a positive number, got {self.data:g}")
        return Value(math.log(self.data), (self,), (1 / self.data,), "log")

    def sigmoid(self):
        """1 / (1 + exp(-x)), an S-shaped curve from 0 to 1, without overflow for any x. Section 9."""
        z = math.exp(-abs(self.data))  # at most 1
        s = 1 / (1 + z) if self.data >= 0 else z / (1 + z)
        return Value(s, (self,), (z / (1 + z) ** 2,), "sigmoid")

    def tanh(self):
        """The hyperbolic tangent, an S-shaped curve from -1 to 1. Section 9."""
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,), "tanh")

    def relu(self):
        """The number itself where it is positive, else 0, and there the derivative is 0. Section 9."""
        x = self.data
        return Value(0.0 if x <= 0 else x, (self,), (0.0 if x <= 0 else 1.0,), "relu")


_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


def _real(x, operation):
    """The number `x` as a float; anything else is an error that names the operation."""
    if not isinstance(x, _NUMBERS):
        kind = type(x).__name__
        raise TypeError(f"{operation}: expected a real number, got {x!r:.60} of type {kind}")
    try:
        return float(x)
    except OverflowError:
        bits = x.bit_length()
        raise ValueError(f"{operation}: an integer of {bits} bits is too large for a float") from None


def _lift(x, operation):
    """`x` itself where it is a Value, else a new leaf that holds the number `x`."""
    return x if isinstance(x, Value) else Value(x if type(x) is float else _real(x, operation))


def topological_order(root, parents):
    """List the nodes that `root` was computed from, each after all of its parents; `root` is last.

    `parents` is a function from a node to the list or tuple of its parents, empty for a leaf.
    Nodes are told apart by their hash, which for plain objects means by identity. The graph must
    have no cycle. Every node and every edge is looked at once, without recursion, and the order
    depends on nothing but the graph. Section 7; after Tarjan (1976).
    """
    order, seen, stack = [], set(), [root]
    while stack:
        node = stack.pop()
        if node is None:  # a mark: the parents of the node below it are all listed
            order.append(stack.pop())
        elif node not in seen:
            seen.add(node)
            above = parents(node)
            if above:
                stack.append(node)
                stack.append(None)
                stack += above
            else:
                order.append(node)
    return order


_parents = attrgetter("parents")


def draw_graph(root, ax=None, /, *, step=None, **names):
    """Draw the graph that `root` was computed from, with name, data and gradient in every node.

    Parameters
    ----------
    root : a Value.
    ax : the matplotlib Axes to draw into; by default a new figure of fitting size.
    step : None shows the `grad` of every node. A number shows how far a backward pass that starts
        with no gradients has come when it has dealt with so many nodes that have parents: with 0,
        only the root has its gradient.
    names : Values by the names to write into their nodes, such as ``w=w``.

    Returns the Axes. Needs matplotlib, and no program beside it. Section 8.
    """
    from shared.plots import computation_graph  # here, since the engine needs no matplotlib

    order = topological_order(root, _parents)
    place = {node: i for i, node in enumerate(order)}
    grads = {node: node.grad for node in order} if step is None else {root: 1.0}
    turns = [] if step is None else [node for node in reversed(order) if node.parents][:step]
    for turn in turns:
        for parent, derivative in zip(turn.parents, turn.derivatives, strict=True):
            grads[parent] = grads.get(parent, 0.0) + derivative * grads[turn]
    name_of = {value: name for name, value in names.items()}
    nodes = [(node.op, name_of.get(node, ""), node.data, grads.get(node)) for node in order]
    edges = [(place[parent], place[node]) for node in order for parent in node.parents]
    return computation_graph(nodes, edges, ax, turn=place[turns[-1]] if turns else None)


def _power(x, n):
    """x ** n for floats: ValueError where it is not real, infinite where it overflows."""
    try:
        result = x**n
    except OverflowError:
        return math.inf if x > 0 or n % 2 == 0 else -math.inf
    if isinstance(result, complex):
        raise ValueError(
            f"**: {x:g} ** {n:g} is not real; a negative base takes whole exponents only"
        )
    return result


def _power_slope(x, n):
    """The derivative of x ** n by x, where x ** n exists."""
    if x == 0 and n < 1:  # a root of 0 has a vertical tangent, the constant 0 ** 0 a horizontal one
        return math.inf if n else 0.0
    return n * _power(x, n - 1)
