"""The tensor engine: gradients of whole arrays

Exported from 04_Tensor_Class/tensor.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import contextvars
import copy
import functools
import inspect
import threading
from collections import namedtuple
from itertools import pairwise
from operator import attrgetter

import numpy as np

from shared.scalar_autograd import topological_order

__all__ = [
    "OPERATIONS",
    "Node",
    "Tensor",
    "abs",
    "add",
    "allclose",
    "arange",
    "argmax",
    "argmin",
    "as_tensor",
    "bitwise_not",
    "cat",
    "chunk",
    "clamp",
    "clone",
    "cos",
    "cumsum",
    "default_generator",
    "differentiable",
    "differentiable_view",
    "div",
    "einsum",
    "empty",
    "enable_grad",
    "equal",
    "exp",
    "expand",
    "eye",
    "flatten",
    "flip",
    "from_numpy",
    "full",
    "full_like",
    "gather",
    "getitem",
    "gradcheck",
    "index_put",
    "is_grad_enabled",
    "isfinite",
    "linspace",
    "log",
    "log_softmax",
    "logical_not",
    "logsumexp",
    "manual_seed",
    "masked_fill",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mul",
    "neg",
    "no_grad",
    "ones",
    "ones_like",
    "pad",
    "permute",
    "pow",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "relu",
    "remainder",
    "reshape",
    "sigmoid",
    "sin",
    "softmax",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "std",
    "sub",
    "sum",
    "tanh",
    "tensor",
    "transpose",
    "unbroadcast",
    "unsqueeze",
    "values_and_indices",
    "var",
    "where",
    "without_gradient",
    "zeros",
    "zeros_like",
]


def unbroadcast(gradient, shape, name="unbroadcast"):
    """Sum `gradient` over the axes along which an input of shape `shape` was repeated by broadcasting.

    `name` is the operation's, for the message. Raises ValueError where no broadcasting leads from `shape` to the
    shape of `gradient`. Section 5.
    """
    missing = gradient.ndim - len(shape)
    stretched = [i for i, n in enumerate(shape) if missing >= 0 and gradient.shape[missing + i] != n]
    if missing < 0 or [i for i in stretched if shape[i] != 1]:
        raise ValueError(f"{name}: its pullback gave shape {gradient.shape}, "
                         f"which cannot belong to an input of shape {shape}")
    axes = (*range(missing), *(missing + i for i in stretched))
    if not axes:
        return gradient
    in_front, large = axes == (*range(len(axes)),), gradient.size > 100_000 and gradient.dtype.itemsize > 2
    if in_front and large and gradient.flags.c_contiguous:
        rows = gradient.reshape(-1, np.prod(gradient.shape[len(axes) :], dtype=int))
        return (np.ones(len(rows), rows.dtype) @ rows).reshape(shape)  # much faster where rows are short
    return np.add.reduce(gradient, axes).reshape(shape)


class Node:
    """One operation of the graph: its name, the nodes of its inputs, and how to send a gradient to each of them.

    `vjp` holds one pullback for each parent, or is one function that returns all their gradients as a tuple;
    a leaf has None. `shape` and `dtype` are those of the result, which the node itself does not hold.
    `grad` is kept where `keeps`.
    """

    __slots__ = ("dtype", "grad", "keeps", "name", "parents", "shape", "vjp")

    def __repr__(self):
        return f"<{self.name}>"


def _node(name, parents, vjp, shape, dtype):
    """A node with these entries. (Without an `__init__` of its own, a node is made in half the time: section 7.)"""
    node = Node()
    node.name, node.parents, node.vjp, node.shape, node.dtype = name, parents, vjp, shape, dtype
    node.grad, node.keeps = None, vjp is None
    return node


float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")


uint8, int32, int64 = np.dtype("uint8"), np.dtype("int32"), np.dtype("int64")


half, double, long = float16, float64, int64


def _to_array(data, dtype=None, copy=True):
    """An array of `data`: lists and Python numbers become float32, int64 or boolean, arrays keep their type."""
    if isinstance(data, Tensor):
        data = data.data
    try:
        array = np.array(data, dtype=dtype, copy=copy or None)
    except (ValueError, TypeError) as error:
        raise ValueError("tensor: expected numbers in rows of equal length, "
                         f"got a {type(data).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: expected real numbers, got a {type(data).__name__} that holds {array.dtype}")
    if dtype is None and array.dtype == float64 and not isinstance(data, np.ndarray | np.generic):
        return array.astype(float32)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Tensor:
    """An array that operations can be recorded on, so that gradients can be sent back to it.

    Parameters
    ----------
    data : numbers, nested lists (they become float32, int64 or boolean) or an array (which keeps its type).
    requires_grad : whether to record operations and keep a gradient; for floating-point numbers only.
    dtype : a NumPy type, where another one is wanted.
    copy : False shares the memory of an array instead of copying it.

    `data` is the NumPy array. Changing it in place is allowed, and is how optimisers work; but a graph recorded
    before remembers arrays, not copies, so change it only between backward() and the next forward pass.
    Raises ValueError for rows of unequal length, TypeError for what is no number. Section 6.
    """

    __slots__ = ("__weakref__", "_node", "data")
    __array_ufunc__ = None  # NumPy leaves `array * tensor` to the tensor

    def __init__(self, data, requires_grad=False, dtype=None, copy=True):
        self.data = _to_array(data, dtype, copy)
        self._node = None
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self):
        """Whether operations on this tensor are recorded. It can be set on leaves."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, wanted):
        if wanted and self.data.dtype.kind != "f":
            raise RuntimeError("requires_grad: only floating-point tensors have gradients, "
                               f"this one is {self.data.dtype}")
        if not wanted and not self.is_leaf:
            raise RuntimeError("requires_grad: the result of an operation cannot be switched off; use detach()")
        if not wanted:
            self._node = None
        elif self._node is None:
            self._node = _node("leaf", (), None, self.data.shape, self.data.dtype)

    @property
    def is_leaf(self):
        """Whether no recorded operation made this tensor."""
        return self._node is None or self._node.vjp is None

    @property
    def grad_fn(self):
        """The graph's node of the operation that made this tensor; None for a leaf."""
        return None if self.is_leaf else self._node

    @property
    def grad(self):
        """The gradient that `backward` left here: an array of this tensor's shape and type, or None."""
        return None if self._node is None else self._node.grad

    @grad.setter
    def grad(self, gradient):
        """Set the gradient, to None or to an array of this tensor's shape."""
        if gradient is None and self._node is None:
            return
        if self._node is None:
            raise RuntimeError("grad: this tensor does not require a gradient")
        if gradient is not None:
            gradient = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient, self.data.dtype)
            if gradient.shape != self.data.shape:
                raise ValueError(f"grad: expected shape {self.data.shape}, got {gradient.shape}")
        self._node.grad = gradient

    def requires_grad_(self, requires_grad=True):
        """Set `requires_grad`, and return the tensor."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self):
        """Let `backward` keep the gradient of this result of an operation, too."""
        if self._node is None:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        self._node.keeps = True

    def __repr__(self):
        text = np.array2string(self.data, precision=4, separator=", ", prefix="tensor(", threshold=200)
        notes = [] if self.dtype in (float32, int64, np.dtype("bool")) else [f"dtype={self.dtype}"]
        if self._node is not None:
            notes.append("requires_grad=True" if self.is_leaf else f"grad_fn={self._node}")
        return f"tensor({', '.join([text, *notes])})"

    def backward(self, gradient=None, retain_graph=False):
        """Send a gradient from this tensor back to every leaf it was computed from, and add it to their `grad`.

        `gradient` has this tensor's shape; for a single number it is 1 by default. The graph is freed on the way, unless
        `retain_graph`. Raises RuntimeError without a graph, with one that is used up, and where a gradient is missing;
        ValueError where its shape is wrong. Nothing is changed then. Section 8.
        """
        if self._node is None:
            raise RuntimeError("backward: this tensor does not require a gradient, "
                               "so there is no graph to go back through")
        if gradient is None and self.data.size != 1:
            raise RuntimeError(f"backward: shape {self.shape} needs a gradient of that shape; "
                               "only one number has a default")
        gradient = 1 if gradient is None else gradient.data if isinstance(gradient, Tensor) else gradient
        gradient = np.array(gradient, self.dtype)
        if gradient.shape != self.shape and gradient.size + self.data.size != 2:
            raise ValueError(f"backward: expected a gradient of shape {self.shape}, got {gradient.shape}")
        order = topological_order(self._node, _parents_of)
        for node in order:
            if node.vjp is _freed:
                _freed(gradient)
        fresh = set()
        for node, g in _quietly(_pull_back, order, gradient.reshape(self.shape), retain_graph):
            g = np.asarray(g)
            if node.grad is not None:
                node.grad += g
            elif g.base is None and id(g) not in fresh:  # ours alone
                node.grad = g
                fresh.add(id(g))
            else:
                node.grad = g.copy()

    def detach(self):
        """A tensor that shares this one's data, without its graph."""
        return Tensor(self.data, copy=False)

    def __rsub__(self, other):
        return sub(other, self)

    def __rtruediv__(self, other):
        return div(other, self)

    def __rpow__(self, other):
        return pow(other, self)

    def __rmod__(self, other):
        return remainder(other, self)

    def __pos__(self):
        return self

    def item(self):
        """The one number of this tensor, as a Python number."""
        if self.data.size != 1:
            raise ValueError(f"item: a tensor of shape {self.shape} is not a single number")
        return self.data.item()

    def __bool__(self):
        if self.data.size != 1:
            raise ValueError(f"bool: a tensor of shape {self.shape} is neither true nor false; ask any() or all()")
        return bool(self.data.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        if self.data.dtype.kind not in "iub":
            raise TypeError(f"index: expected an integer, this tensor is {self.dtype}")
        return int(self.item())

    def view(self, *shape):
        """`reshape` that never copies. Raises RuntimeError where that is impossible."""
        result = reshape(self, shape=_sizes(shape))
        if result.data.size and not np.may_share_memory(result.data, self.data):
            raise RuntimeError(f"view: {self.shape}, as it lies in memory, is not {result.shape} without a copy; "
                               "use reshape")
        return result

    def contiguous(self):
        """This tensor itself where its numbers lie in order, else a copy where they do."""
        return self if self.data.flags.c_contiguous else clone(self)

    def __setitem__(self, index, value):
        index, follows = _index(index), isinstance(value, Tensor) and value._node is not None
        if (self._node is not None or follows) and is_grad_enabled():
            if self._node is not None and self._node.vjp is None:
                raise RuntimeError("setitem: a leaf that requires a gradient cannot be changed in place; "
                                   "do it under no_grad()")
            changed = index_put(self, value, index=index)
            self.data, self._node = changed.data, changed._node
            return
        value = value.data if isinstance(value, Tensor) else value
        try:
            part, rest = _integers_first(self.data, index)
            part[rest] = value
        except _ERRORS as error:
            _again(error, None, "setitem", (self.data, value), {})

    def __len__(self):
        if not self.data.ndim:
            raise TypeError("len: a tensor without axes has no length")
        return len(self.data)

    def __iter__(self):
        if not self.data.ndim:
            raise TypeError("iter: a tensor without axes has no parts")
        return (self[i] for i in range(len(self.data)))

    def to(self, dtype, **ignored):
        """This tensor with another type; itself where it has that type. A device, "cpu" or None, changes nothing."""
        if dtype is None or dtype == "cpu":
            return self
        dtype = np.dtype(dtype)
        if dtype == self.data.dtype:
            return self
        if dtype.kind not in "fiub":
            raise TypeError(f"to: expected a type of real numbers, got {dtype}")
        return _to(self, dtype=dtype) if dtype.kind == "f" else Tensor(self.data.astype(dtype), copy=False)

    astype = to
    type = to

    def numpy(self):
        """The data as a NumPy array that shares memory. Raises RuntimeError where this tensor requires a gradient."""
        if self._node is not None:
            raise RuntimeError("numpy: this tensor requires a gradient, which NumPy would lose; use detach().numpy()")
        return self.data

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def tolist(self):
        """The numbers as nested Python lists."""
        return self.data.tolist()

    def numel(self):
        """The number of elements."""
        return self.data.size

    def size(self, dim=None):
        """The shape, or the size of one axis."""
        return self.data.shape if dim is None else self.data.shape[dim]

    def dim(self):
        """The number of axes, as `ndim`."""
        return self.data.ndim

    @property
    def device(self):
        """Where the numbers live: always the processor."""
        return "cpu"

    def __deepcopy__(self, memo):
        if not self.is_leaf:
            raise RuntimeError("deepcopy: only leaves can be copied; detach() the result of an operation first")
        result = memo[id(self)] = _new(type(self))
        result.data, result._node = self.data.copy(), None
        if hasattr(self, "__dict__"):
            result.__dict__.update(copy.deepcopy(self.__dict__, memo))
        if self._node is not None:
            result.requires_grad = True
            result.grad = None if self.grad is None else self.grad.copy()
        return result


Tensor.shape = property(attrgetter("data.shape"), doc="The sizes of the axes.")


Tensor.ndim = property(attrgetter("data.ndim"), doc="The number of axes.")


Tensor.dtype = property(attrgetter("data.dtype"), doc="The type of the numbers, a NumPy dtype.")


def _constant(x, name):
    """An input that is not a tensor, as NumPy should see it: numbers become Python's, which never widen an array."""
    if x is None or type(x) in (float, int, bool):
        return x
    if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and not x.ndim):
        return x.item()
    if isinstance(x, np.ndarray | list | tuple):
        return _to_array(x, copy=False)
    raise TypeError(f"{name}: expected a tensor, an array or a number, got {type(x).__name__} {x!r:.40}")


def _weaken(dtype, arrays, options):
    """The inputs in the type that PyTorch would compute with, where NumPy chose another `dtype` for the result;
    else None.

    To NumPy an integer divided by an integer, or multiplied by a float32, is float64,
    and the exponential of a boolean float16; to PyTorch all are float32. An array without axes counts as a number.
    A type asked for by an option stands.
    """
    if dtype.kind != "f" or options.get("dtype") is not None:
        return None
    floats = [a for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    strong = [a.dtype for a in floats if a.ndim] or [a.dtype for a in floats]
    wanted = np.result_type(*strong) if strong else float32
    if dtype == wanted or (strong and dtype != float64):
        return None
    kept = (float16, float32) if strong else ()
    return [a if a is None or (isinstance(a, np.ndarray) and a.dtype in kept) else np.asarray(a, wanted)
            for a in arrays]


_not_recording = set()  # the threads that are inside of `no_grad`


class _Thread(threading.local):
    """`_thread.quietly` calls a function in a context of the calling thread in which NumPy does not warn."""

    def __init__(self):
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.quietly = context.run


_thread = _Thread()


def _again(error, function, name, arrays, options):
    """After an error in an operation: inside another operation call it directly,
    else raise the error with its shapes."""
    if type(error) is RuntimeError and str(error).startswith("cannot enter context"):
        return function(*arrays, **options)  # the outer operation has silenced NumPy already
    text, shapes = str(error), [a.shape for a in arrays if isinstance(a, np.ndarray)]
    if isinstance(error, RuntimeError) or text.startswith(f"{name}: "):
        raise error
    if "broadcast" in text and len(shapes) > 1:
        aligned = [[shape[-i] for shape in shapes if len(shape) >= i]
                   for i in range(1, 1 + len(sorted(shapes, key=len)[-1]))]
        unequal = [sorted(set(sizes) - {1}) for sizes in aligned]
        found = [f"sizes {' and '.join(map(str, s))} differ in dim {-i}"
                 for i, s in enumerate(unequal, 1) if len(s) > 1]
        text = "; ".join(found) or text
    kind = IndexError if isinstance(error, IndexError) else TypeError if isinstance(error, TypeError) else ValueError
    raise kind(f"{name}: {' and '.join(map(str, shapes))}{': ' if shapes else ''}{text}") from error


_new, _ndarray = object.__new__, np.ndarray


_ERRORS = (ValueError, TypeError, IndexError, RuntimeError)


def _result(name, value, parents, vjp):
    """A tensor that holds `value`, with a node of the graph where there are parents. Written for speed."""
    result = _new(Tensor)
    result.data = value
    result._node = _node(name, parents, vjp, value.shape, value.dtype) if parents else None
    return result


def _needed(name, pullbacks, nodes):
    """The parents among the inputs' `nodes` (None where no gradient is wanted) and the pullbacks that serve them."""
    if type(pullbacks) is not tuple and len(nodes) == 1:
        pullbacks = (pullbacks,)
    if type(pullbacks) is tuple:
        if len(pullbacks) != len(nodes):
            raise ValueError(f"{name}: {len(nodes)} inputs, but {len(pullbacks)} pullbacks")
        parents, kept = [], []
        for i, node in enumerate(nodes):
            if node is not None:
                if pullbacks[i] is None:
                    raise ValueError(f"{name}: it has no gradient for input {i + 1}, which requires one")
                parents.append(node)
                kept.append(pullbacks[i])
        return tuple(parents), tuple(kept)
    wanted = tuple(node is not None for node in nodes)
    parents = tuple(node for node in nodes if node is not None)
    ask = pullbacks.__code__.co_argcount == 2
    send = (lambda g: pullbacks(g, wanted)) if ask else pullbacks
    return parents, lambda g: tuple(d for d, w in zip(send(g), wanted, strict=True) if w)


def _named(extra, names, options, name):
    """Options that came without their names: positional arguments beyond the inputs fill the options in order."""
    if names in (["shape"], ["dims"]) and not options:  # a row of numbers, one by one: x.reshape(2, 3)
        return {names[0]: extra}
    if len(extra) > len(names) or set(names[: len(extra)]) & options.keys():
        raise TypeError(f"{name}: {len(extra)} arguments beyond the inputs, for the options {names}, "
                        f"beside {sorted(options)}")
    return dict(zip(names, extra, strict=False)) | options


def _lifted(function, name, count, names):
    """`function` on tensors, for any number of inputs: at most `count` of them, then the options `names`."""

    def operation(*inputs, **options):
        if len(inputs) > count:
            inputs, options = inputs[:count], _named(inputs[count:], names, options, name)
        arrays = [x.data if isinstance(x, Tensor) else _constant(x, name) for x in inputs]
        value, pullbacks = _run(function, name, arrays, options)
        nodes = [x._node if isinstance(x, Tensor) else None for x in inputs]
        if nodes.count(None) == len(nodes) or not is_grad_enabled():
            return _result(name, value, None, None)
        return _result(name, value, *_needed(name, pullbacks, nodes))

    return operation


def _run(function, name, arrays, options, weaken=True):
    """Call `function` on arrays without warnings;
    the result is not float64 unless an input is, or an option says so."""
    try:
        value, pullbacks = _thread.quietly(function, *arrays, **options)
    except _ERRORS as error:
        value, pullbacks = _again(error, function, name, arrays, options)
    if type(value) is not _ndarray:
        value = np.asarray(value)
    if weaken and value.dtype is not float32 and (weaker := _weaken(value.dtype, arrays, options)):
        return _run(function, name, weaker, options, weaken=False)
    return value, pullbacks


def _lifted_one(function, name, names):
    """What `_lifted` does, for one input."""

    def operation(x, *extra, **options):
        if extra:
            options = ({names[0]: extra[0]} if len(extra) == 1 and names and not options
                       else _named(extra, names, options, name))
        if isinstance(x, Tensor):
            x, node = x.data, x._node
        else:
            x, node = _constant(x, name), None
        quietly = _thread.quietly
        try:
            value, pullback = quietly(function, x, **options) if options else quietly(function, x)
        except _ERRORS as error:
            value, pullback = _again(error, function, name, (x,), options)
        if type(value) is not _ndarray:
            value = np.asarray(value)
        dtype = value.dtype
        if dtype is not float32 and (weaker := _weaken(dtype, (x,), options)):
            value, pullback = _run(function, name, weaker, options, weaken=False)
            dtype = value.dtype
        result = _new(Tensor)
        result.data = value
        if node is None or (_not_recording and not is_grad_enabled()):
            result._node = None
        else:
            parents, vjp = (node,), pullback if type(pullback) is tuple else (pullback,)
            result._node = node = Node()
            node.name, node.parents, node.vjp, node.shape, node.dtype = name, parents, vjp, value.shape, dtype
            node.grad, node.keeps = None, False
        return result

    return operation


def _lifted_two(function, name):
    """What `_lifted` does, for two inputs without options."""

    def operation(a, b):
        if isinstance(a, Tensor):
            a, n = a.data, a._node
        else:
            a, n = a if type(a) is float else _constant(a, name), None
        if isinstance(b, Tensor):
            b, m = b.data, b._node
        else:
            b, m = b if type(b) is float else _constant(b, name), None
        try:
            value, pullbacks = _thread.quietly(function, a, b)
        except _ERRORS as error:
            value, pullbacks = _again(error, function, name, (a, b), {})
        if type(value) is not _ndarray:
            value = np.asarray(value)
        dtype = value.dtype
        if dtype is not float32 and (weaker := _weaken(dtype, (a, b), {})):
            value, pullbacks = _run(function, name, weaker, {}, weaken=False)
            dtype = value.dtype
        result = _new(Tensor)
        result.data = value
        if n is m is None or (_not_recording and not is_grad_enabled()):
            result._node = None
            return result
        result._node = node = Node()
        if type(pullbacks) is not tuple or len(pullbacks) != 2:
            node.parents, node.vjp = _needed(name, pullbacks, (n, m))
        elif n is None:
            node.parents, node.vjp = (m,), pullbacks[1:]
        elif m is None:
            node.parents, node.vjp = (n,), pullbacks[:1]
        else:
            node.parents, node.vjp = (n, m), pullbacks
        node.name, node.shape, node.dtype, node.grad, node.keeps = name, value.shape, dtype, None, False
        return result

    return operation


OPERATIONS = {}


def _free_name(function):
    """The name of the operation that `function` becomes. Raises ValueError where it is taken."""
    name = function.__name__.lstrip("_")
    if name in OPERATIONS and not OPERATIONS[name].__module__ == function.__module__ == "__main__":
        raise ValueError(f"differentiable: the operation {name!r} exists already, in {OPERATIONS[name].__module__}")
    return name


def differentiable(function):
    """Lift a NumPy function to tensors: the decorator that makes an operation.

    The function takes its inputs as positional arguments (arrays, or Python numbers, or None) and options as keywords
    after a star. It returns its value and the pullbacks: a tuple with one function per input (None where there is no
    gradient), each from the gradient of the value to that of the input; or, for inputs that share work, one function
    that returns a tuple, and that may take as second argument which inputs want a gradient. A pullback may return its
    argument, or a view; it must not change its argument, nor return an array that it keeps. The gradient is summed
    over broadcast axes and cast to the input's type centrally. First derivatives only: pullbacks work on arrays.

    The operation stands in OPERATIONS under the function's name without leading underscores. Raises ValueError where
    that name is taken; in a notebook, where cells are run again, its own operations may be replaced. Section 7.
    """
    name = _free_name(function)
    parameters = inspect.signature(function).parameters.values()
    inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    variable = [p for p in inputs if p.kind is p.VAR_POSITIONAL]
    optional = [p for p in inputs if p.default is not p.empty]
    if len(inputs) == 1 and not variable:
        operation = _lifted_one(function, name, names)
    elif len(inputs) == 2 and not names and not variable and not optional:
        operation = _lifted_two(function, name)
    else:
        operation = _lifted(function, name, np.inf if variable else len(inputs), names)
    OPERATIONS[name] = functools.update_wrapper(operation, function)
    return operation


def _same(g):
    """The pullback that passes the gradient on as it is."""
    return g


@differentiable
def add(a, b):
    """The sum a + b, element by element; shapes broadcast."""
    return a + b, (_same, _same)


@differentiable
def sub(a, b):
    """The difference a - b, element by element; shapes broadcast."""
    for x in (a, b):
        if type(x) is _ndarray and x.dtype.kind == "b":
            raise TypeError("sub: booleans have no difference; use ^ or ~, or call int() first")
    return a - b, (_same, np.negative)


@differentiable
def mul(a, b):
    """The product a * b, element by element; shapes broadcast."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@differentiable
def div(a, b):
    """The quotient a / b, element by element; shapes broadcast. Integers give float32."""
    quotient = a / b
    return quotient, (lambda g: g / b, lambda g: -g * quotient / b)


@differentiable
def neg(x):
    """The negative, -x."""
    return -x, np.negative


Tensor.__add__ = Tensor.__radd__ = Tensor.add = add


Tensor.__mul__ = Tensor.__rmul__ = Tensor.mul = mul


Tensor.__sub__ = Tensor.sub = sub


Tensor.__truediv__ = Tensor.div = div


Tensor.__neg__ = Tensor.neg = neg


def _freed(g):
    """What stands in a node in place of the pullbacks that a backward pass has used up."""
    raise RuntimeError("backward: this graph was used up by an earlier backward(); give that one retain_graph=True")


def _fit(gradient, parent, node):
    """Make a gradient belong to an input: sum it over broadcast axes and cast it to the input's type."""
    if gradient is None:
        raise ValueError(f"{node.name}: it has no gradient for one of its inputs")
    gradient = np.asarray(gradient)
    if gradient.shape != parent.shape:
        gradient = np.asarray(unbroadcast(gradient, parent.shape, node.name))
    return gradient if gradient.dtype == parent.dtype else gradient.astype(parent.dtype)


class _Part:
    """A gradient that is zero but for the numbers `g`, which belong at the places `index`. Section 15."""

    __slots__ = ("g", "index")

    def __init__(self, index, g):
        self.index, self.g = index, g


def _pull_back(order, gradient, retain_graph):
    """Walk from the root, order[-1], to the leaves. Returns the gradients to keep, as (node, gradient) pairs."""
    table, summed, kept = {order[-1]: gradient}, set(), []
    while order:
        node = order.pop()
        g = table.pop(node)
        if node.keeps:
            kept.append((node, g))
        vjp, parents = node.vjp, node.parents
        if vjp is None:
            continue
        joint = None if type(vjp) is tuple else vjp(g)
        for i, parent in enumerate(parents):
            new = vjp[i](g) if joint is None else joint[i]
            if type(new) is _Part:
                if parent not in summed:
                    table[parent] = table[parent].copy() if parent in table else np.zeros(parent.shape, parent.dtype)
                    summed.add(parent)
                _add_at(table[parent], new.index, new.g)
                continue
            if type(new) is not _ndarray or new.shape != parent.shape or new.dtype is not parent.dtype:
                new = _fit(new, parent, node)
            if parent not in table:
                table[parent] = new
            elif parent in summed:
                table[parent] += new  # the sum is ours, so it may grow in place
            else:
                table[parent] = table[parent] + new
                summed.add(parent)
        if not retain_graph:
            node.vjp, node.parents = _freed, ()
    return kept


_parents_of = attrgetter("parents")


def _quietly(function, *arguments):
    """Call a function without NumPy's warnings, also inside of an operation."""
    try:
        return _thread.quietly(function, *arguments)
    except RuntimeError as error:
        return _again(error, function, "", arguments, {})


class no_grad:
    """``with no_grad():``, or a function decorated with ``@no_grad()``: operations are not recorded. Section 8."""

    _recording = False

    def __init__(self):
        self._before = []  # a stack: one object may be entered several times

    def __enter__(self):
        self._before.append(is_grad_enabled())
        _record(self._recording)
        return self

    def __exit__(self, *error):
        _record(self._before.pop())

    def __call__(self, function):
        @functools.wraps(function)
        def wrapped(*arguments, **options):
            with type(self)():
                return function(*arguments, **options)

        return wrapped


class enable_grad(no_grad):
    """Records operations again, also inside of `no_grad`."""

    _recording = True


def is_grad_enabled():
    """Whether this thread records operations."""
    return threading.current_thread() not in _not_recording


def _record(wanted):
    """Switch the recording of this thread on or off."""
    (_not_recording.discard if wanted else _not_recording.add)(threading.current_thread())


def gradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, raise_exception=True, seed=0):
    """Whether the gradients of `function` agree with central differences.

    Parameters
    ----------
    function : takes the inputs and returns a tensor, or a tuple of tensors.
    inputs : a tensor or a tuple; those that require a gradient are checked, element by element, and must be float64.
        Each element is moved a little, and put back; so a function may also know its inputs by itself.
    eps : the step. atol, rtol : the differences allowed, absolute and relative.
    raise_exception : raise ValueError, naming the worst input and element, instead of returning False.
    seed : of the random weights that make one number of the outputs.

    Raises TypeError for inputs of another type, ValueError where no input requires a gradient. Section 9.
    """
    inputs = inputs if isinstance(inputs, tuple | list) else (inputs,)
    leaves = {i: x if x.is_leaf else Tensor(x.data, requires_grad=True) for i, x in enumerate(inputs)
              if isinstance(x, Tensor) and x.requires_grad}  # not copies: a module knows its parameters by itself
    if not leaves:
        raise ValueError("gradcheck: no input requires a gradient")
    if wrong := [i for i, x in leaves.items() if x.dtype != float64]:
        raise TypeError(f"gradcheck: input {wrong[0]} is {leaves[wrong[0]].dtype}; "
                        "a difference quotient needs float64")
    arguments = [leaves.get(i, x) for i, x in enumerate(inputs)]
    rng = np.random.default_rng(seed)
    upstream = [rng.standard_normal(y.shape) for y in _outputs(function, arguments)]
    found = _pulled_back(function, arguments, leaves, upstream)
    for i, x in leaves.items():
        got, expected = found[i], _slopes(function, arguments, x.data, upstream, eps)
        excess = np.abs(got - expected) - atol - rtol * np.abs(expected)
        if not (excess <= 0).all():
            worst = np.unravel_index(np.nanargmax(np.where(np.isnan(excess), np.inf, excess)), x.shape)
            place = f"input {i}, element {tuple(map(int, worst))}"
            if raise_exception:
                raise ValueError(f"gradcheck: {place}: backward gives {got[worst]:.6g}, "
                                 f"differences give {expected[worst]:.6g} "
                                 f"({np.count_nonzero(~(excess <= 0))} of {x.data.size} elements disagree)")
            return False
    return True


def _outputs(function, arguments):
    """The outputs of a function as a sequence."""
    value = function(*arguments)
    return value if isinstance(value, tuple | list) else (value,)


def _pulled_back(function, arguments, leaves, upstream):
    """The gradients that backward gives to each of the leaves, which get their own back afterwards."""
    own = {i: x.grad for i, x in leaves.items()}
    try:
        for x in leaves.values():
            x.grad = None
        for y, g in zip(_outputs(function, arguments), upstream, strict=True):
            if y.requires_grad:
                y.backward(g, retain_graph=True)
        return {i: np.zeros(x.shape) if x.grad is None else x.grad for i, x in leaves.items()}
    finally:
        for i, x in leaves.items():
            x.grad = own[i]


def _slopes(function, arguments, data, upstream, eps):
    """The slope of the outputs, weighted with `upstream`, by each element of `data`, one of the arguments' arrays."""
    def weighted():
        return np.sum([np.vdot(g, y.data) for g, y in zip(upstream, _outputs(function, arguments), strict=True)])

    slopes = np.zeros_like(data)
    with no_grad():
        for place in np.ndindex(data.shape):
            kept = data[place]
            try:
                data[place] = kept + eps
                above = weighted()
                data[place] = kept - eps
                slopes[place] = (above - weighted()) / (2 * eps)
            finally:
                data[place] = kept
    return slopes


@differentiable
def matmul(a, b):
    """The matrix product of vectors (k), matrices (m, k) @ (k, n), and stacks of matrices,
    whose front axes broadcast.

    Raises ValueError where the inner sizes differ, or an input is a single number.
    """
    if type(a) is type(b) is _ndarray and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]:
        return a.dot(b), (lambda g: g.dot(b.T), lambda g: a.T.dot(g))  # the same product as @, with less ado
    if not np.ndim(a) or not np.ndim(b):
        raise ValueError(f"matmul: {np.shape(a)} @ {np.shape(b)}, both need at least one axis")
    inner = b.shape[-2 if b.ndim > 1 else 0]
    if a.shape[-1] != inner:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}, inner sizes {a.shape[-1]} and {inner} differ")
    if b.ndim == 2 and a.ndim > 2:  # a stack times one matrix: one tall matrix
        rows = a.reshape(np.prod(a.shape[:-1], dtype=int), inner)
        tall = (len(rows), b.shape[1])
        return (rows @ b).reshape(*a.shape[:-1], b.shape[1]), (
            lambda g: (g.reshape(tall) @ b.T).reshape(a.shape),
            lambda g: rows.T @ g.reshape(tall),
        )
    return a @ b, _stacked_pullbacks(a, b)


def _stacked_pullbacks(a, b):
    """The pullbacks of a product of stacks of matrices, or of vectors, which count as a row or as a column."""
    row, column = a.ndim == 1, b.ndim == 1
    A, B = a[None] if row else a, b[:, None] if column else b

    def matrices(g):
        g = g[..., None, :] if row and not column else g[..., None] if column else g
        return g[..., None] if row and column else g

    def by_a(g):
        d = matrices(g) @ B.swapaxes(-1, -2)
        return unbroadcast(d, (1, *a.shape)).reshape(a.shape) if row else d

    def by_b(g):
        d = A.swapaxes(-1, -2) @ matrices(g)
        return unbroadcast(d, (*b.shape, 1)).reshape(b.shape) if column else d

    return by_a, by_b


Tensor.__matmul__ = Tensor.matmul = matmul


Tensor.__rmatmul__ = lambda self, other: matmul(other, self)


@differentiable
def exp(x):
    """e to the power of x."""
    y = np.exp(x)
    return y, lambda g: g * y


@differentiable
def log(x):
    """The natural logarithm: -inf at 0, NaN below."""
    return np.log(x), lambda g: g / x


@differentiable
def sqrt(x):
    """The square root; NaN below 0, and of infinite slope at 0."""
    y = np.sqrt(x)
    return y, lambda g: g / (y + y)


@differentiable
def abs(x):
    """The absolute value; its gradient at 0 is 0."""
    if x.dtype.kind == "b":
        raise TypeError("abs: booleans have no absolute value")
    return np.abs(x), lambda g: g * np.sign(x)


@differentiable
def sin(x):
    """The sine."""
    return np.sin(x), lambda g: g * np.cos(x)


@differentiable
def cos(x):
    """The cosine."""
    return np.cos(x), lambda g: -g * np.sin(x)


@differentiable
def tanh(x):
    """The hyperbolic tangent, from -1 to 1."""
    y = np.tanh(x)

    def pullback(g):
        d = np.multiply(y, y, out=np.empty_like(y))
        np.subtract(1, d, out=d)
        return np.multiply(g, d, out=d)  # in place, in an array of our own

    return y, pullback


@differentiable
def sigmoid(x):
    """1 / (1 + exp(-x)), from 0 to 1. Where exp overflows to infinity, the quotient is 0, as it should be."""
    y = np.exp(-x if x.dtype.kind != "b" else np.subtract(0, x, dtype=float32))
    y += np.ones((), y.dtype)
    y = np.reciprocal(y, out=y) if y.ndim else 1 / y
    return y, lambda g: g * (y * (1 - y))


@differentiable
def relu(x):
    """x where it is positive, else 0; the gradient at 0 is 0."""
    zero = _ZERO
    if x.dtype is not float32:
        zero = np.zeros((), x.dtype)
        if x.dtype.kind == "b":
            raise TypeError("relu: booleans are neither positive nor negative")
    # clip is faster for many floating-point numbers, maximum for all else
    y = x.clip(zero, np.inf) if x.size > 10_000 and x.dtype.kind == "f" else np.maximum(x, zero)
    return y, lambda g: (y != zero) * g  # NaN lets it pass, as in PyTorch


_ZERO = np.zeros((), float32)


Tensor.exp, Tensor.log, Tensor.sqrt, Tensor.abs, Tensor.__abs__ = exp, log, sqrt, abs, abs


Tensor.sin, Tensor.cos, Tensor.tanh, Tensor.sigmoid, Tensor.relu = sin, cos, tanh, sigmoid, relu


def _power(a, b):
    """a ** b; the commonest exponents as products, which are two or three times as fast."""
    if type(b) is int or type(b) is float:
        if b == 1:
            return +a
        if b == 2:
            return a * a
        if b == 3:
            return a * a * a
    return a**b


@differentiable
def pow(a, b):
    """a to the power of b, element by element. By the exponent the gradient at a = 0 is 0, as in PyTorch."""
    value = _power(a, b)

    def by_base(g):
        if type(b) is _ndarray:
            return g * np.where(b == 0, 0, b * a ** (b - (b != 0)))
        return g * (b * _power(a, b - 1)) if b else np.zeros_like(g)

    def by_exponent(g):
        base = np.asarray(a, g.dtype)
        return g * value * np.where((base == 0) & (b >= 0), 0, np.log(base))

    return value, (by_base, by_exponent)


@differentiable
def remainder(a, b):
    """The remainder of a / b with the sign of b, as Python's %."""
    return a % b, (lambda g: g, lambda g: -g * np.floor_divide(a, b))


Tensor.__pow__ = Tensor.pow = pow


Tensor.__mod__ = Tensor.remainder = remainder


def without_gradient(function):
    """Lift a NumPy function that has no gradient, such as a comparison, to tensors. Section 11."""
    name = function.__name__.strip("_")

    @functools.wraps(function)
    def operation(*inputs, **options):
        arrays = [x.data if isinstance(x, Tensor) else _constant(x, name) for x in inputs]
        try:
            value = _thread.quietly(function, *arrays, **options)
        except _ERRORS as error:
            value = _again(error, function, name, arrays, options)
        return _result(name, value if type(value) is _ndarray else np.asarray(value), None, None)

    return operation


def _comparison(name, ufunc):
    """The function `name` of two tensors that NumPy's `ufunc` computes."""
    def compare(a, b):
        return ufunc(a, b)

    compare.__name__, compare.__doc__ = name, f"{name}: element by element, with broadcasting; without a gradient."
    return without_gradient(compare)


eq, ne = _comparison("eq", np.equal), _comparison("ne", np.not_equal)


lt, le = _comparison("lt", np.less), _comparison("le", np.less_equal)


gt, ge = _comparison("gt", np.greater), _comparison("ge", np.greater_equal)


logical_and, logical_or = _comparison("logical_and", np.logical_and), _comparison("logical_or", np.logical_or)


bitwise_and, bitwise_or = _comparison("bitwise_and", np.bitwise_and), _comparison("bitwise_or", np.bitwise_or)


bitwise_xor, floor_divide = _comparison("bitwise_xor", np.bitwise_xor), _comparison("floor_divide", np.floor_divide)


def _question(name, ufunc, meaning):
    """The function `name` of one tensor that NumPy's `ufunc` computes."""
    def ask(x):
        return ufunc(x)

    ask.__name__, ask.__doc__ = name, f"{meaning}, element by element, as booleans."
    return without_gradient(ask)


isnan, isinf = (_question("isnan", np.isnan, "Whether it is NaN"),
                _question("isinf", np.isinf, "Whether it is infinite"))


isfinite = _question("isfinite", np.isfinite, "Whether it is a finite number")


logical_not = _question("logical_not", np.logical_not, "Whether it is 0 or false")


bitwise_not = _question("bitwise_not", np.invert, "The other truth value (of integers: every bit turned)")


Tensor.__eq__, Tensor.__ne__, Tensor.__hash__ = eq, ne, object.__hash__


Tensor.__lt__, Tensor.__le__, Tensor.__gt__, Tensor.__ge__ = lt, le, gt, ge


Tensor.__and__ = Tensor.__rand__ = bitwise_and


Tensor.__or__ = Tensor.__ror__ = bitwise_or


Tensor.__xor__ = Tensor.__rxor__ = bitwise_xor


Tensor.__invert__ = bitwise_not


Tensor.__floordiv__ = Tensor.floor_divide = floor_divide


Tensor.__rfloordiv__ = lambda self, other: floor_divide(other, self)


Tensor.eq, Tensor.ne, Tensor.lt, Tensor.le, Tensor.gt, Tensor.ge = eq, ne, lt, le, gt, ge


Tensor.isnan, Tensor.isinf, Tensor.isfinite, Tensor.logical_not = isnan, isinf, isfinite, logical_not


def _share(g, a, b, wins):
    """The gradient for `a`: all of it where `a` wins against `b`, half of it where they are equal."""
    d = g * wins(a, b)
    ties = np.equal(a, b)
    return d + g * ties * 0.5 if ties.any() else d


@differentiable
def maximum(a, b):
    """The larger of a and b, element by element; equal ones share the gradient."""
    return np.maximum(a, b), (lambda g: _share(g, a, b, np.greater), lambda g: _share(g, b, a, np.greater))


@differentiable
def minimum(a, b):
    """The smaller of a and b, element by element; equal ones share the gradient."""
    return np.minimum(a, b), (lambda g: _share(g, a, b, np.less), lambda g: _share(g, b, a, np.less))


@differentiable
def clamp(x, *, min=None, max=None):
    """x, limited to the range from the numbers `min` to `max`; either may be None."""
    min, max = _constant(min, "clamp"), _constant(max, "clamp")
    if (min is None and max is None) or np.ndim(min) or np.ndim(max):
        raise ValueError("clamp: expected a number for min, for max, or for both")
    low, high = -np.inf if min is None else min, np.inf if max is None else max
    y = x if min is None else np.maximum(x, min)
    return y if max is None else np.minimum(y, max), lambda g: g * ((x >= low) & (x <= high))


@differentiable
def where(condition, a, b):
    """a where the condition holds, else b, element by element; all three broadcast."""
    condition = np.asarray(condition, bool)
    return np.where(condition, a, b), (None, lambda g: g * condition, lambda g: g * ~condition)


@differentiable
def masked_fill(x, mask, *, value):
    """A copy of x with the number `value` where `mask` holds: booleans; both broadcast."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"masked_fill: expected a mask of booleans, got {mask.dtype}")
    y = (x if mask.shape == x.shape else np.broadcast_arrays(x, mask)[0]).copy()
    np.copyto(y, value, where=mask)
    return y, (lambda g: g * ~mask, None)


Tensor.maximum, Tensor.minimum, Tensor.clamp, Tensor.clip, Tensor.masked_fill = (
    maximum, minimum, clamp, clamp, masked_fill)


def _where(self, condition, other):
    """This tensor where the condition holds, else `other`, element by element."""
    return where(condition, self, other)


Tensor.where = _where


def _axis(dim):
    """`dim` as NumPy's axis: None, an integer or a tuple."""
    return tuple(dim) if type(dim) is list else dim


def _floating(x, name):
    """Raise TypeError where `x` holds no floating-point numbers."""
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: expected floating-point numbers, got {x.dtype}; call float() first")


def _repeat(g, shape, size, axis, keepdim):
    """`g` repeated along the reduced axes to `shape`: as a view without memory of its own, unless that is small."""
    if axis is not None and not keepdim:
        kept = list(shape)
        for i in axis if type(axis) is tuple else (axis,):
            kept[i] = 1
        g = g.reshape(kept)
    if size > 10_000:
        return np.broadcast_to(g, shape)
    d = np.empty(shape, g.dtype)
    d[...] = g
    return d


@differentiable
def sum(x, *, dim=None, keepdim=False, dtype=None):
    """The sum over `dim`: an integer, a tuple, or None for all. Integers and booleans give int64."""
    axis, shape, size = tuple(dim) if type(dim) is list else dim, x.shape, x.size
    if dtype is None and x.dtype is not float32 and x.dtype.kind in "biu":
        dtype = int64
    return np.add.reduce(x, axis, dtype, None, keepdim), lambda g: _repeat(g, shape, size, axis, keepdim)


@differentiable
def mean(x, *, dim=None, keepdim=False):
    """The mean over `dim`: an integer, a tuple, or None for all. Raises TypeError for integers."""
    _floating(x, "mean")
    axis, shape, size = _axis(dim), x.shape, x.size
    total = np.add.reduce(x, axis, None, None, keepdim)
    count = size / (total.size or 1)
    return total / count if count else total * np.nan, lambda g: _repeat(g / count, shape, size, axis, keepdim)


@functools.lru_cache(maxsize=32)
def _ones(n, dtype):
    """A column of n ones, made once."""
    column = np.ones((n, 1), dtype)
    column.flags.writeable = False
    return column


def _totals(x, dim):
    """The sums over one `dim`, kept with size 1.

    The rows of a matrix are added up as a product with ones, which is faster."""
    if x.ndim == 2 and dim in (1, -1) and x.dtype.itemsize > 2:
        return x.dot(_ones(x.shape[1], x.dtype))
    return np.add.reduce(x, dim, None, None, True)


def _spread(x, axis, correction):
    """The deviations from the mean over `axis`, their mean square with n - correction below, and that divisor."""
    _floating(x, "var")
    total = np.add.reduce(x, axis, None, None, True)
    count = x.size / (total.size or 1)
    deviations = x - total / (count or np.nan)
    divisor = count - correction if count > correction else 0.0
    return deviations, np.add.reduce(deviations * deviations, axis, None, None, True) / x.dtype.type(divisor), divisor


@differentiable
def var(x, *, dim=None, correction=1, keepdim=False, unbiased=None):
    """The variance over `dim`, with n - correction below the sum.

    `unbiased=False` is an older name of correction=0."""
    axis = _axis(dim)
    deviations, value, divisor = _spread(x, axis, correction if unbiased is None else int(unbiased))
    scale = 2 / divisor if divisor else np.inf
    return value if keepdim else value.squeeze(axis), lambda g: g.reshape(value.shape) * scale * deviations


@differentiable
def std(x, *, dim=None, correction=1, keepdim=False, unbiased=None):
    """The standard deviation over `dim`, the root of `var`; where it is 0, so is its gradient, as in PyTorch."""
    axis = _axis(dim)
    deviations, variance, divisor = _spread(x, axis, correction if unbiased is None else int(unbiased))
    value = np.sqrt(variance)

    def pullback(g):
        scale = g.reshape(value.shape) / (value * (divisor or np.nan))
        return np.where(value == 0, 0, scale) * deviations

    return value if keepdim else value.squeeze(axis), pullback


Tensor.sum, Tensor.mean, Tensor.var, Tensor.std = sum, mean, var, std


def _extreme(name, ufunc):
    """The operation `amax` or `amin`."""
    def extreme(x, *, dim=None, keepdim=False):
        axis = _axis(dim) if dim != () else None
        best = ufunc.reduce(x, axis, None, None, True)

        def pullback(g):
            ties = x == best
            return ties * (g.reshape(best.shape) / np.add.reduce(ties, axis, g.dtype, None, True))

        return best if keepdim else best.squeeze(axis), pullback

    extreme.__name__ = name
    extreme.__doc__ = (f"The {ufunc.__name__} over `dim`, an integer, a tuple or None for all; "
                       "equal elements share the gradient.")
    return differentiable(extreme)


amax, amin = _extreme("amax", np.maximum), _extreme("amin", np.minimum)


@without_gradient
def argmax(x, dim=None, keepdim=False):
    """The index of the largest element over `dim`, the first of equal ones;
    without `dim`, in the flattened tensor."""
    return x.argmax(dim, keepdims=keepdim and dim is not None)


@without_gradient
def argmin(x, dim=None, keepdim=False):
    """The index of the smallest element over `dim`, the first of equal ones;
    without `dim`, in the flattened tensor."""
    return x.argmin(dim, keepdims=keepdim and dim is not None)


@differentiable
def _gather(x, index, *, dim):
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or index.ndim != x.ndim:
        raise ValueError(f"gather: {x.shape} needs an index of {x.ndim} axes of integers, "
                         f"got {index.shape} of {index.dtype}")
    places = list(np.indices(index.shape, sparse=True))
    places[dim] = index
    places = tuple(places)
    return x[places], (lambda g: _Part(places, g), None)


def gather(x, dim, index):
    """Pick along one axis: for dim=1 the result at [i, j] is x[i, index[i, j]]. It has the shape of `index`."""
    return _gather(x, index, dim=dim)


values_and_indices = namedtuple("values_and_indices", "values indices")


def max(x, dim=None, keepdim=False):
    """The largest element of all; with `dim`, the pair (values, indices), whose gradient goes to the chosen elements.

    With a tensor in place of `dim` it is `maximum`, the larger of two.
    """
    return _largest(x, dim, keepdim, amax, maximum, argmax)


def min(x, dim=None, keepdim=False):
    """The smallest element of all; with `dim`, the pair (values, indices),
    whose gradient goes to the chosen elements.

    With a tensor in place of `dim` it is `minimum`, the smaller of two.
    """
    return _largest(x, dim, keepdim, amin, minimum, argmin)


def _largest(x, dim, keepdim, of_all, of_two, place):
    """What `max` and `min` have in common."""
    if dim is None:
        return of_all(x)
    if isinstance(dim, Tensor):
        return of_two(x, dim)
    if not x.ndim:
        return values_and_indices(of_all(x), place(x))
    indices = place(x, dim=dim, keepdim=True)
    values = _gather(x, indices, dim=dim)
    if not keepdim:
        values, indices = squeeze(values, dim=dim), squeeze(indices, dim=dim)
    return values_and_indices(values, indices)


Tensor.amax, Tensor.amin, Tensor.argmax, Tensor.argmin = amax, amin, argmax, argmin


Tensor.gather, Tensor.max, Tensor.min = gather, max, min


@without_gradient
def _any(x, dim=None, keepdim=False):
    """Whether any element, over `dim` or of all, is true or not 0."""
    return x.any(dim, keepdims=keepdim)


@without_gradient
def _all(x, dim=None, keepdim=False):
    """Whether all elements, over `dim` or of all, are true or not 0."""
    return x.all(dim, keepdims=keepdim)


Tensor.any, Tensor.all = _any, _all


@differentiable
def softmax(x, *, dim):
    """exp(x) / sum(exp(x)) over one `dim`, without overflow. A row of nothing but -inf gives NaN, as in PyTorch."""
    _floating(x, "softmax")
    y = x - np.maximum.reduce(x, dim, None, None, True, -np.inf)
    # where the steps write: in place saves memory, but costs time on small arrays
    place = y if y.size > 10_000 else None
    y = np.exp(y, place)
    y = np.divide(y, _totals(y, dim), place)

    def pullback(g):
        d = g * y
        return d - y * _totals(d, dim)

    return y, pullback


@differentiable
def log_softmax(x, *, dim):
    """log(softmax(x)) over one `dim`, without overflow, and without the log of a rounded 0."""
    _floating(x, "log_softmax")
    y = x - np.maximum.reduce(x, dim, None, None, True, -np.inf)
    y -= np.log(_totals(np.exp(y), dim))
    return y, lambda g: g - np.exp(y) * _totals(g, dim)


@differentiable
def logsumexp(x, *, dim, keepdim=False):
    """log(sum(exp(x))) over `dim`, an integer or a tuple, without overflow; -inf where all of x is."""
    axis, x = _axis(dim), x if x.dtype.kind == "f" else x.astype(float32)
    top = np.maximum.reduce(x, axis, None, None, True, -np.inf)
    top = np.where(np.isfinite(top), top, 0)
    value = np.log(np.add.reduce(np.exp(x - top), axis, None, None, True)) + top
    return value if keepdim else value.squeeze(axis), (
        lambda g: g.reshape(value.shape) * np.exp(x - np.where(np.isneginf(value), 0, value)),
    )


@differentiable
def cumsum(x, *, dim):
    """The running sum along `dim`. Its gradient is the running sum from the other end."""
    value = np.cumsum(x, dim, int64 if x.dtype.kind in "biu" else None).reshape(x.shape)
    return value, lambda g: np.flip(np.flip(g, dim).cumsum(dim), dim) if x.ndim else g


Tensor.softmax, Tensor.log_softmax, Tensor.logsumexp, Tensor.cumsum = softmax, log_softmax, logsumexp, cumsum


_ABSENT = object()


def differentiable_view(function):
    """Lift a NumPy function that shows one array otherwise: what `differentiable` does, for views.

    The function takes the array and its options. It returns a view and the pullback. Section 14.
    """
    name = _free_name(function)
    lifted = _lifted_one(function, name, [*inspect.signature(function).parameters][1:])

    def operation(x, option=_ABSENT, *more, **options):
        if option is _ABSENT or more or options or not isinstance(x, Tensor):
            return lifted(x, *(() if option is _ABSENT else (option, *more)), **options)
        parent = x._node
        try:
            value, pullback = function(x.data, option)
        except _ERRORS as error:
            _again(error, function, name, (x.data,), {})
        result = _new(Tensor)
        result.data = value
        if parent is None or (_not_recording and not is_grad_enabled()):
            result._node = None
        else:
            result._node = node = Node()
            node.name, node.parents, node.vjp, node.shape, node.dtype = (
                name, (parent,), (pullback,), value.shape, parent.dtype)
            node.grad, node.keeps = None, False
        return result

    OPERATIONS[name] = functools.update_wrapper(operation, function)
    return operation


def _sizes(sizes):
    """Sizes given one by one, or as one sequence."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes


@differentiable_view
def reshape(x, shape):
    """The same numbers in the shape `shape`, where one size may be -1; shares memory where that is possible."""
    before = x.shape
    return x.reshape(shape), lambda g: g.reshape(before)


@differentiable_view
def permute(x, dims):
    """The axes in the order `dims`; shares memory."""
    dims = _sizes((dims,))
    if len(dims) != x.ndim:
        raise ValueError(f"permute: {x.shape} has {x.ndim} axes, dims {tuple(dims)} names {len(dims)}")
    back = np.argsort([d % x.ndim for d in dims]) if dims else ()
    return x.transpose(dims), lambda g: g.transpose(back)


@differentiable_view
def transpose(x, dim0, dim1):
    """Two axes exchanged; shares memory."""
    if not x.ndim and {dim0, dim1} <= {0, -1}:
        return x, lambda g: g
    return x.swapaxes(dim0, dim1), lambda g: g.swapaxes(dim0, dim1)


@differentiable_view
def expand(x, shape):
    """Axes of size 1 repeated to `shape`, where -1 keeps a size, and new ones may stand in front; shares memory."""
    shape = _sizes((shape,))
    if len(shape) < x.ndim:
        raise ValueError(f"expand: {x.shape} has more axes than {tuple(shape)}")
    new = len(shape) - x.ndim
    if -1 in shape[:new]:
        raise ValueError(f"expand: {x.shape} to {tuple(shape)}, a new axis cannot keep its size with -1")
    before = (1,) * new + x.shape
    return np.broadcast_to(x, [old if n == -1 else n for old, n in zip(before, shape, strict=True)]), lambda g: g


@differentiable_view
def squeeze(x, dim=None):
    """Without the axes of size 1, or without those that `dim` names and that have size 1; shares memory."""
    before = x.shape
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, tuple | list) else (dim,)
    if wrong := [d for d in dims if not -x.ndim <= d < x.ndim and not (x.ndim == 0 and d in (0, -1))]:
        raise IndexError(f"squeeze: {x.shape} has no dim {wrong[0]}")
    return x.squeeze(tuple(d for d in dims if x.ndim and x.shape[d] == 1)), lambda g: g.reshape(before)


@differentiable_view
def unsqueeze(x, dim):
    """With a new axis of size 1 at `dim`; shares memory."""
    before = x.shape
    return np.expand_dims(x, dim), lambda g: g.reshape(before)


@differentiable
def flip(x, *, dims):
    """In reverse order along `dims`; a copy, as in PyTorch."""
    if not x.ndim and np.atleast_1d(dims).tolist() in ([], [0], [-1]):
        return x.copy(), lambda g: g
    return np.flip(x, dims).copy(), lambda g: np.flip(g, dims)


@differentiable
def clone(x):
    """A copy, through which gradients flow."""
    return x.copy(), lambda g: g


def flatten(x, start_dim=0, end_dim=-1):
    """The axes from `start_dim` to `end_dim` merged into one; shares memory where that is possible."""
    for dim in (start_dim, end_dim):
        if not -(x.ndim or 1) <= dim < (x.ndim or 1):
            raise IndexError(f"flatten: {x.shape} has no dim {dim}")
    if not x.ndim:
        return reshape(x, shape=(1,))
    first, last = start_dim % x.ndim, end_dim % x.ndim
    if first > last:
        raise ValueError(f"flatten: {x.shape}, start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, shape=(*x.shape[:first], int(np.prod(x.shape[first : last + 1])), *x.shape[last + 1 :]))


Tensor.transpose, Tensor.squeeze, Tensor.unsqueeze, Tensor.clone, Tensor.flatten = (
    transpose, squeeze, unsqueeze, clone, flatten)


Tensor.reshape, Tensor.expand, Tensor.permute, Tensor.flip = reshape, expand, permute, flip


Tensor.T = property(lambda self: permute(self, dims=tuple(range(self.ndim))[::-1]), doc="The axes in reverse order.")


Tensor.mT = property(lambda self: transpose(self, dim0=-1, dim1=-2), doc="The last two axes exchanged.")


def _index(index):
    """An index as NumPy takes it: its tensors and lists become arrays, and whole numbers without axes integers."""
    return tuple([_entry(i) for i in index]) if type(index) is tuple else _entry(index)


def _entry(i):
    """One entry of an index."""
    i = i.data if isinstance(i, Tensor) else i
    if isinstance(i, list | tuple | range):
        return np.array(i, None if len(i) else int64)
    return int(i) if type(i) is _ndarray and not i.ndim and i.dtype.kind in "iu" else i


def _integers_first(array, index):
    """The part of an array that an index's integers pick, where arrays stand beside them, and the rest of the index.

    NumPy counts an integer beside an array as an array, which may move axes; PyTorch takes the integers first.
    """
    if type(index) is not tuple:
        return array, index
    whole = [isinstance(i, int | np.integer) and not isinstance(i, bool) for i in index]
    if not any(whole) or not [i for i in index if type(i) is _ndarray]:
        return array, index
    first = []
    for i, number in zip(index, whole, strict=True):
        if number or i is ...:
            first.append(i)
        elif i is not None:
            first += [slice(None)] * (i.ndim if type(i) is _ndarray and i.dtype == bool else 1)
    return array[tuple(first)], tuple(i for i, number in zip(index, whole, strict=True) if not number)


@differentiable_view
def getitem(x, index):
    """x[index], for every kind of index that NumPy and PyTorch share; gradients of repeated places add up."""
    if type(index) is int or type(index) is slice:
        y = x[index]
    else:
        index = _index(index)
        part, rest = _integers_first(x, index)
        y = part[rest]
    if type(y) is not _ndarray:
        y = x[(*index, ...)] if type(index) is tuple else x[index, ...]  # a view, not a number
    return y, lambda g: _Part(index, g)


def _add_at(d, index, g):
    """d[index] += g in place, where `g` is added as often as `index` names a place."""
    part, rest = _integers_first(d, index)
    arrays = [i for i in (rest if type(rest) is tuple else (rest,)) if type(i) is _ndarray and i.dtype != bool]
    if not arrays:
        part[rest] += g
    elif type(rest) is _ndarray and rest.size > 100 and d.ndim > 1:
        _add_rows(part, rest, g)
    else:
        np.add.at(part, rest, g)


def _add_rows(target, index, g):
    """target[index] += g for an array of row numbers, where repeated rows add up: sorted, and summed run by run."""
    rows = index.ravel().astype(np.intp) % len(target)
    order = np.argsort(rows, kind="stable")
    rows, starts = np.unique(rows[order], return_index=True)
    target[rows] += np.add.reduceat(g.reshape(-1, *target.shape[1:])[order], starts, axis=0)


@differentiable
def index_put(x, value, *, index):
    """A copy of x in which x[index] = value; where `index` names a place twice, one of the values wins."""
    def put(array, value):
        array = array.copy()
        part, rest = _integers_first(array, index)
        part[rest] = value
        return array

    def by_value(g):
        part, rest = _integers_first(g, index)
        d = part[rest]
        return d.reshape((1,) * (axes - np.ndim(d)) + np.shape(d))  # a value may have axes of size 1 in front

    axes = np.ndim(value)

    return put(x, value), (lambda g: put(g, 0), by_value)


Tensor.__getitem__ = getitem


def _in_place(operation):
    """`x -= y` and the like: of a leaf that requires a gradient the numbers are changed; else it is x = x - y."""
    def changed(self, other):
        if self._node is None or self._node.vjp is not None:
            return operation(self, other)
        with no_grad():
            value = operation(self, other)
        self[...] = value
        return self

    return changed


Tensor.__iadd__, Tensor.__isub__, Tensor.__imul__, Tensor.__itruediv__ = map(_in_place, (add, sub, mul, div))


def split(x, split_size_or_sections, dim=0):
    """A tuple of views along `dim`: pieces of one size, of which the last may be smaller,
    or of the sizes in a list."""
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(f"split: {x.shape} has no dim {dim}")
    n, sizes = x.shape[dim], split_size_or_sections
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError(f"split: expected a size of at least 1, got {sizes}")
        sizes = [sizes] * (n // sizes) + [n % sizes] * (n % sizes > 0 or n == 0)
    ends = np.cumsum([0, *sizes]).tolist()
    if ends[-1] != n:
        raise ValueError(f"split: {x.shape}, the sizes {list(sizes)} do not add up to {n} along dim {dim}")
    before = (slice(None),) * (dim % x.ndim)
    return tuple(x[(*before, slice(start, end))] for start, end in pairwise(ends))


def chunk(x, chunks, dim=0):
    """At most `chunks` views of one size along `dim`; the last may be smaller."""
    if chunks < 1:
        raise ValueError(f"chunk: expected at least 1 chunk, got {chunks}")
    n = x.shape[dim] if -x.ndim <= dim < x.ndim else 1
    return split(x, -(-n // chunks) or 1, dim)


Tensor.split, Tensor.chunk = split, chunk


@differentiable
def _cat(*arrays, dim=0):
    shapes = [a.shape for a in arrays]
    trimmed = {(*s[: dim % len(s)], *s[dim % len(s) + 1 :]) if -len(s) <= dim < len(s) else None for s in shapes}
    if len(trimmed) > 1 or None in trimmed:
        raise ValueError(f"cat: {' and '.join(map(str, shapes))} do not fit together along dim {dim}")
    ends = np.cumsum([0, *(s[dim] for s in shapes)]).tolist()
    before = (slice(None),) * (dim % len(shapes[0]))
    return np.concatenate(arrays, dim), tuple(_pick(*before, slice(*part)) for part in pairwise(ends))


@differentiable
def _stack(*arrays, dim=0):
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"stack: {' and '.join(str(a.shape) for a in arrays)}, expected equal shapes")
    before = (slice(None),) * (dim % (arrays[0].ndim + 1))
    return np.stack(arrays, dim), tuple(_pick(*before, i) for i in range(len(arrays)))


def _pick(*index):
    """A pullback that picks a part of its argument, as a view."""
    return lambda g: g[index]


def cat(tensors, dim=0):
    """Tensors joined along an axis that they have. Raises ValueError where their other sizes differ."""
    return _join("cat", _cat, tensors, dim)


def stack(tensors, dim=0):
    """Tensors of one shape joined along a new axis. Raises ValueError where the shapes differ."""
    return _join("stack", _stack, tensors, dim)


def _join(name, operation, tensors, dim):
    """Call `operation` on a sequence of tensors, which must not be empty."""
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor")
    return operation(*tensors, dim=dim)


@differentiable
def pad(x, *, pad, mode="constant", value=0.0):
    """x with `value` around it. `pad` is (before, after) for the last axis, then for the one before it, and so on.

    Negative numbers cut off. The argument's order is that of torch.nn.functional.pad.
    """
    if mode != "constant":
        raise ValueError(f"pad: only the mode 'constant' is known, got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad: {x.shape} takes pairs for at most {x.ndim} axes, got {tuple(pad)}")
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + [*zip(pad[::2], pad[1::2], strict=True)][::-1]
    sizes = [n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True)]
    if [n for n in sizes if n < 0]:
        raise ValueError(f"pad: {x.shape} cannot lose as much as {tuple(pad)} says")
    cut = [(-b if b < 0 else 0, n + a if a < 0 else n) for n, (b, a) in zip(x.shape, pairs, strict=True)]
    put = [(b if b > 0 else 0, n - a if a > 0 else n) for n, (b, a) in zip(sizes, pairs, strict=True)]
    source, inner = tuple(slice(*ends) for ends in cut), tuple(slice(*ends) for ends in put)
    y = np.full(sizes, value, x.dtype)
    y[inner] = x[source]

    def pullback(g):
        d = np.zeros(x.shape, g.dtype)
        d[source] = g[inner]
        return d

    return y, pullback


def _triangle(name, function):
    """The operation `tril` or `triu`."""
    def triangle(x, *, diagonal=0):
        if x.ndim < 2:
            raise ValueError(f"{name}: {x.shape}, expected at least two axes")
        return function(x, diagonal), lambda g: function(g, diagonal)

    triangle.__name__, triangle.__doc__ = (
        name, f"{name}: a matrix with zeros on one side of a diagonal (0: the main one).")
    return differentiable(triangle)


tril, triu = _triangle("tril", np.tril), _triangle("triu", np.triu)


Tensor.pad, Tensor.tril, Tensor.triu = pad, tril, triu


@differentiable
def _einsum(*arrays, equation):
    arrays = [np.asarray(a) for a in arrays]
    terms, out = _letters(equation, [a.ndim for a in arrays])
    sizes = {}
    for letter, n in [pair for term, a in zip(terms, arrays, strict=True)
                      for pair in zip(term, a.shape, strict=True)]:
        if n != 1 and sizes.get(letter, 1) not in (1, n):
            raise ValueError(f"einsum: {equation!r}, the index {letter} has sizes {sizes[letter]} and {n}")
        sizes[letter] = n if n != 1 else sizes.get(letter, 1)
    optimize = bool(np.prod([*map(float, sizes.values())]) > 10_000)

    def contract(inputs, result, operands):
        return np.einsum(f"{','.join(inputs)}->{result}", *operands, optimize=optimize)

    def pullback(k):
        others = [i for i in range(len(arrays)) if i != k]
        own = "".join(dict.fromkeys(terms[k]))
        elsewhere = set(out).union(*(terms[i] for i in others))

        def by_k(g):
            found = "".join(letter for letter in own if letter in elsewhere)
            d = contract([out, *(terms[i] for i in others)], found, [g, *(arrays[i] for i in others)])
            rest = iter(d.shape)
            d = d.reshape([next(rest) if letter in found else 1 for letter in own])
            # an index of this operand alone repeats its gradient
            d = np.broadcast_to(d, [sizes[letter] for letter in own])
            if own == terms[k]:
                return d
            full = np.zeros([sizes[letter] for letter in terms[k]], d.dtype)
            np.einsum(f"{terms[k]}->{own}", full)[...] = d  # a view of the diagonal
            return full

        return by_k

    return contract(terms, out, arrays), tuple(pullback(k) for k in range(len(arrays)))


def _letters(equation, ndims):
    """The letters of each operand and of the result; an ellipsis becomes capital letters of its own."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {equation!r} names {len(terms)} operands, got {len(ndims)}")
    counts = [ndim - len(term.replace("...", "")) for term, ndim in zip(terms, ndims, strict=True)]
    for term, count, ndim in zip(terms, counts, ndims, strict=True):
        if count < 0 or (count and "..." not in term):
            raise ValueError(f"einsum: {equation!r}, the term {term!r} does not fit an operand of {ndim} axes")
    spare = "".join(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation)[: np.max(counts)]
    terms = [term.replace("...", spare[len(spare) - count :]) for term, count in zip(terms, counts, strict=True)]
    joined = "".join(terms)
    if not arrow:  # the letters that occur once, in the order of the alphabet
        out = "..." + "".join(sorted(c for c in set(joined) - set(spare) if joined.count(c) == 1))
    out = out.replace("...", spare)
    if unknown := set(out) - set(joined):
        raise ValueError(f"einsum: {equation!r}, no operand has the index {' '.join(sorted(unknown))}")
    return terms, out


def einsum(equation, *operands):
    """Multiply the operands and sum over every index that the result does not name: ``einsum("ij,jk->ik", a, b)``.

    Raises ValueError where letters and axes do not fit, or an index has two sizes. Section 15.
    """
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    return _einsum(*operands, equation=equation)


@differentiable
def _to(x, *, dtype):
    return x.astype(dtype), lambda g: g


def _cast(dtype):
    """The method that casts to one type."""
    def cast(self):
        return self.to(dtype)

    cast.__doc__ = f"This tensor as {np.dtype(dtype)}; itself where it is that already."
    return cast


Tensor.float, Tensor.double, Tensor.half = _cast(float32), _cast(float64), _cast(float16)


Tensor.long, Tensor.int, Tensor.bool = _cast(int64), _cast(int32), _cast(np.bool_)


class _Random:
    """The engine's random numbers: one generator, which `manual_seed` replaces."""

    def __init__(self):
        self.generator = np.random.default_rng(0)


_random = _Random()


def manual_seed(seed):
    """Start the engine's random numbers afresh from `seed`. Returns the NumPy generator that gives them."""
    _random.generator = np.random.default_rng(seed)
    return _random.generator


def default_generator():
    """The NumPy generator that the engine draws from where it is given none."""
    return _random.generator


def _made(name, make, *arguments, **options):
    """The array that a NumPy function makes; an error gets the name of our function."""
    try:
        return np.asarray(make(*arguments, **options))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error


def rand(*size, dtype=None, requires_grad=False, generator=None, device=None):
    """Random numbers from 0 (included) to 1 (excluded), float32 unless told otherwise."""
    generator = default_generator() if generator is None else generator
    return Tensor(_made("rand", generator.random, _sizes(size), dtype or float32), requires_grad, copy=False)


def randn(*size, dtype=None, requires_grad=False, generator=None, device=None):
    """Random numbers from the normal distribution with mean 0 and variance 1, float32 unless told otherwise."""
    generator = default_generator() if generator is None else generator
    return Tensor(_made("randn", generator.standard_normal, _sizes(size), dtype or float32),
                  requires_grad, copy=False)


def randint(low, high=None, size=None, dtype=None, generator=None, device=None):
    """Random integers from `low` (0 where only the end is given) to `high` (excluded): randint(10, (2, 3))."""
    if size is None:
        low, high, size = 0, low, high
    generator = default_generator() if generator is None else generator
    return Tensor(_made("randint", generator.integers, low, high, size, dtype or int64), copy=False)


def tensor(data, dtype=None, requires_grad=False, device=None):
    """A tensor with a copy of `data`: numbers, nested lists (float32, int64 or boolean)
    or an array (which keeps its type)."""
    return Tensor(data, requires_grad, dtype)


def from_numpy(array):
    """A tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(array, copy=False)


def as_tensor(data, dtype=None):
    """`data` as a tensor: itself where it is one of that type, sharing memory where that is possible."""
    return data.to(dtype) if isinstance(data, Tensor) else Tensor(data, dtype=dtype, copy=False)


def zeros(*size, dtype=None, requires_grad=False, device=None):
    """Zeros, float32 unless told otherwise."""
    return Tensor(_made("zeros", np.zeros, _sizes(size), dtype or float32), requires_grad, copy=False)


def ones(*size, dtype=None, requires_grad=False, device=None):
    """Ones, float32 unless told otherwise."""
    return Tensor(_made("ones", np.ones, _sizes(size), dtype or float32), requires_grad, copy=False)


def empty(*size, dtype=None, requires_grad=False, device=None):
    """Whatever the memory held; to be filled by you."""
    return Tensor(_made("empty", np.empty, _sizes(size), dtype or float32), requires_grad, copy=False)


def full(size, fill_value, dtype=None, requires_grad=False, device=None):
    """One number everywhere, in its own type unless told otherwise."""
    return Tensor(_made("full", np.full, size, fill_value, dtype or _to_array(fill_value).dtype),
                  requires_grad, copy=False)


def eye(n, m=None, dtype=None, requires_grad=False, device=None):
    """The identity matrix, (n, n) or (n, m)."""
    return Tensor(_made("eye", np.eye, n, m, dtype=dtype or float32), requires_grad, copy=False)


def arange(start, end=None, step=1, dtype=None, requires_grad=False, device=None):
    """Numbers from `start` (0 where only the end is given) to `end` (excluded), `step` apart: int64, or float32."""
    start, end = (0, start) if end is None else (start, end)
    if not step or (end - start) * step < 0:
        raise ValueError(f"arange: steps of {step} do not lead from {start} to {end}")
    array = np.arange(start, end, step)
    return Tensor(array.astype(dtype or (float32 if array.dtype.kind == "f" else int64)), requires_grad, copy=False)


def linspace(start, end, steps, dtype=None, requires_grad=False, device=None):
    """`steps` numbers from `start` to `end`, both included, evenly apart."""
    return Tensor(_made("linspace", np.linspace, start, end, steps, dtype=dtype or float32),
                  requires_grad, copy=False)


def zeros_like(x, dtype=None, requires_grad=False):
    """Zeros in the shape and type of x."""
    return zeros(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def ones_like(x, dtype=None, requires_grad=False):
    """Ones in the shape and type of x."""
    return ones(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def full_like(x, fill_value, dtype=None, requires_grad=False):
    """One number in the shape and type of x."""
    return full(x.shape, fill_value, dtype or x.dtype, requires_grad)


def rand_like(x, dtype=None, requires_grad=False):
    """Random numbers from 0 to 1 in the shape and type of x."""
    return rand(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def randn_like(x, dtype=None, requires_grad=False):
    """Normal random numbers in the shape and type of x."""
    return randn(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def allclose(a, b, rtol=1e-05, atol=1e-08):
    """Whether all elements of two tensors agree to |a - b| <= atol + rtol |b|."""
    return np.allclose(as_tensor(a).data, as_tensor(b).data, rtol, atol)


def equal(a, b):
    """Whether two tensors have one shape and equal elements."""
    return np.array_equal(a.data, b.data)
