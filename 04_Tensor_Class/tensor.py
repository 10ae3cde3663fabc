"""The tensor engine (draft, to be replaced by the export)."""
import contextvars
import functools
import inspect
import threading
from collections import namedtuple
from operator import attrgetter

import numpy as np

from shared.scalar_autograd import topological_order

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
uint8, int32, int64 = np.dtype("uint8"), np.dtype("int32"), np.dtype("int64")
double, long = float64, int64


def _to_array(data, dtype=None, copy=True):
    """An array made of `data` by PyTorch's rules: lists become float32 or int64, arrays keep their type."""
    if isinstance(data, Tensor):
        data = data.data
    try:
        array = np.array(data, dtype=dtype, copy=copy or None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tensor: expected numbers in rows of equal length, got {type(data).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: expected real numbers, got {type(data).__name__} of {array.dtype}")
    if dtype is None and array.dtype == float64 and not isinstance(data, np.ndarray | np.generic):
        return array.astype(float32)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Node:
    """One operation of the graph: its name, the nodes of its inputs, and how it sends a gradient to each of them.

    `vjp` holds one function per parent, or one function that returns all their gradients as a tuple; a leaf has None.
    `shape` and `dtype` are those of the operation's result. A node never holds the result itself.
    """

    __slots__ = ("dtype", "grad", "keeps", "name", "parents", "shape", "vjp")

    def __init__(self, name, parents, vjp, shape, dtype):
        self.name = name
        self.parents = parents
        self.vjp = vjp
        self.shape = shape
        self.dtype = dtype
        self.grad = None
        self.keeps = vjp is None  # leaves keep their gradient

    def __repr__(self):
        return f"<{self.name}>"


class Tensor:
    __slots__ = ("__weakref__", "_node", "data")
    __array_ufunc__ = None  # NumPy's arrays and numbers leave `array * tensor` to us

    def __init__(self, data, requires_grad=False, dtype=None, copy=True):
        self.data = _to_array(data, dtype, copy)
        self._node = None
        if requires_grad:
            self.requires_grad = True

    @property
    def requires_grad(self):
        """Whether operations on this tensor are recorded. Set it on leaves only; integers have no gradient."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, wanted):
        if not self.is_leaf:
            if not wanted:
                raise RuntimeError("requires_grad: only a leaf can be switched off; use detach() for the result of an operation")
        elif not wanted:
            self._node = None
        elif self._node is None:
            if self.data.dtype.kind != "f":
                raise RuntimeError(f"requires_grad: only floating-point tensors can have a gradient, this one is {self.data.dtype}")
            self._node = Node("leaf", (), None, self.data.shape, self.data.dtype)

    @property
    def grad(self):
        """The gradient that `backward` left here, a NumPy array of this tensor's shape and type, or None."""
        return None if self._node is None else self._node.grad

    @grad.setter
    def grad(self, gradient):
        if gradient is None:
            if self._node is not None:
                self._node.grad = None
            return
        if self._node is None:
            raise RuntimeError("grad: this tensor does not require a gradient")
        gradient = gradient.data if isinstance(gradient, Tensor) else np.asarray(gradient, self.data.dtype)
        if gradient.shape != self.data.shape:
            raise ValueError(f"grad: expected shape {self.data.shape}, got {gradient.shape}")
        self._node.grad = gradient

    @property
    def grad_fn(self):
        """The graph's node of the operation that made this tensor; None for a leaf."""
        return None if self.is_leaf else self._node

    @property
    def is_leaf(self):
        """Whether this tensor was made by the user, not by a recorded operation."""
        return self._node is None or self._node.vjp is None

    def __repr__(self):
        text = np.array2string(self.data, precision=4, separator=", ", prefix="tensor(")
        notes = [f"dtype={self.dtype}"] if self.dtype not in (float32, int64, bool) else []
        notes += [f"grad_fn={self._node}"] if not self.is_leaf else ["requires_grad=True"] if self._node else []
        return f"tensor({', '.join([text, *notes])})"


def method_of(cls, *others):
    def add(f):
        inner = getattr(f, "fget", None) or getattr(f, "__func__", f)
        for n in (inner.__name__, *others):
            setattr(cls, n, f)
        return f
    return add


class _Thread(threading.local):
    """What each thread has for itself: whether operations are recorded, and a context in which NumPy does not warn."""

    def __init__(self):
        self.recording = True
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.quietly = context.run  # 20 times faster than np.errstate


_thread = _Thread()
OPERATIONS = {}


def differentiable(function):
    name = function.__name__.lstrip("_")
    old = OPERATIONS.get(name)
    if old is not None and not old.__module__ == function.__module__ == "__main__":  # a notebook's cell may run again
        raise ValueError(f"differentiable: the operation {name!r} exists already, in {old.__module__}")
    parameters = inspect.signature(function).parameters.values()
    variadic = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    limit = float("inf") if variadic else len([p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])
    option_names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(function)
    def operation(*inputs, **options):
        if len(inputs) > limit:  # options in PyTorch's order, such as x.sum(1)
            inputs, options = _positional_options(name, inputs, limit, option_names, options)
        arrays, parents = [], []
        for x in inputs:
            if isinstance(x, Tensor):
                arrays.append(x.data)
                if x._node is not None:
                    parents.append(x._node)
            elif type(x) is float or type(x) is int or x is None:
                arrays.append(x)
            else:
                arrays.append(_constant(x))
        try:
            value, pullbacks = _thread.quietly(function, *arrays, **options)
            if value.dtype is float64 and (weaker := _weaken(arrays)):
                value, pullbacks = _thread.quietly(function, *weaker, **options)
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            if not _entered(error):
                raise _explained(error, name, arrays) from error
            value, pullbacks = function(*arrays, **options)  # an operation inside an operation
        result = _new(Tensor)
        result.data = value if type(value) is _ndarray else np.asarray(value)
        if parents and _thread.recording:
            if type(pullbacks) is not tuple and len(inputs) == 1:
                pullbacks = (pullbacks,)
            if len(parents) < len(inputs):
                if type(pullbacks) is tuple:  # keep only what is needed; what the other functions remember is freed
                    kept = []
                    for x, pullback in zip(inputs, pullbacks):  # noqa: B905
                        if isinstance(x, Tensor) and x._node is not None:
                            kept.append(pullback)
                    pullbacks = kept
                else:
                    pullbacks = _needed(pullbacks, inputs)
            result._node = Node(name, parents, pullbacks, value.shape, value.dtype)
        else:
            result._node = None
        return result

    OPERATIONS[name] = operation
    return operation


_new, _ndarray = object.__new__, np.ndarray


def _constant(x):
    """An input that is no tensor, as NumPy should see it: NumPy's scalars become Python's, which do not widen."""
    if isinstance(x, np.ndarray):
        return x if x.ndim else x.item()
    if isinstance(x, bool | int | float):
        return x if not isinstance(x, np.generic) else x.item()
    return x.item() if isinstance(x, np.generic) else _to_array(x)


def _positional_options(name, inputs, limit, names, options):
    """Split positional arguments into inputs and options: what comes after the inputs fills the options in order."""
    extra = inputs[limit:]
    if len(extra) > len(names):
        raise TypeError(f"{name}: takes at most {limit + len(names)} arguments, got {len(inputs)}")
    for option in names[: len(extra)]:
        if option in options:
            raise TypeError(f"{name}: got two values for {option}")
    return inputs[:limit], {**dict(zip(names, extra, strict=False)), **options}


def _weaken(arrays):
    """Inputs that give float64 though none of them asked for it, turned to a weaker type; None where one did ask."""
    floats = [a for a in arrays if type(a) is _ndarray and a.dtype.kind == "f"]
    strong = [a.dtype for a in floats if a.ndim] or [a.dtype for a in floats]
    if float64 in strong:
        return None
    dtype = np.result_type(*strong) if strong else float32
    found = [a for a in arrays if type(a) is _ndarray]
    return [
        a.astype(dtype) if type(a) is _ndarray and (a.dtype.kind != "f" or a.dtype is float64)
        else np.array(a, dtype) if not found and a is not None else a
        for a in arrays
    ]  # fmt: skip


def _entered(error):
    return type(error) is RuntimeError and str(error).startswith("cannot enter context")


def _explained(error, name, arrays):
    """The same error with the operation's name and the shapes in its message."""
    text, shapes = str(error), " and ".join(str(a.shape) for a in arrays if isinstance(a, np.ndarray))
    if isinstance(error, RuntimeError) or text.startswith(f"{name}: "):
        return error
    if "broadcast" in text:
        text = f"{shapes} do not broadcast: {_mismatch(arrays)}"
    elif shapes:
        text = f"{shapes}: {text}"
    kind = IndexError if isinstance(error, IndexError) else TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{name}: {text}")


def _mismatch(arrays):
    """Which sizes keep arrays from broadcasting."""
    shapes = [a.shape[::-1] for a in arrays if isinstance(a, np.ndarray)]
    for i in range(np.max([len(s) for s in shapes], initial=0)):
        sizes = sorted({s[i] for s in shapes if len(s) > i and s[i] != 1})
        if len(sizes) > 1:
            return f"sizes {' and '.join(map(str, sizes))} in dimension {-1 - i} differ"
    return "their sizes differ"


def _needed(pullbacks, inputs):
    """A joint pullback that returns only the gradients of inputs that require one."""
    wanted = tuple(isinstance(x, Tensor) and x._node is not None for x in inputs)
    if pullbacks.__code__.co_argcount == 2:  # shares work, and asks which gradients are wanted
        return lambda g: tuple(d for d, w in zip(pullbacks(g, wanted), wanted, strict=True) if w)
    return lambda g: tuple(d for d, w in zip(pullbacks(g), wanted, strict=True) if w)


def _freed(g):
    """What stands in a node for the functions that a backward pass has used up."""
    raise RuntimeError("backward: this part of the graph was freed by an earlier backward(); give that one retain_graph=True")


class no_grad:
    """Within ``with no_grad():``, or in a function decorated with ``@no_grad()``, operations are not recorded."""

    recording = False

    def __init__(self):
        self.before = []  # a stack: one object may be entered several times

    def __enter__(self):
        self.before.append(_thread.recording)
        _thread.recording = self.recording
        return self

    def __exit__(self, *error):
        _thread.recording = self.before.pop()

    def __call__(self, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with type(self)():
                return function(*args, **kwargs)

        return wrapped


class enable_grad(no_grad):
    """Within ``with enable_grad():`` operations are recorded again, also inside of `no_grad`."""

    recording = True


def is_grad_enabled():
    """Whether operations are being recorded in this thread."""
    return _thread.recording


_parents_of = attrgetter("parents")


@method_of(Tensor)
def backward(self, gradient=None, retain_graph=False):
    """Send the gradient of this tensor back through the graph and add it to `grad` of every leaf it depends on."""
    node = self._node
    if node is None:
        raise RuntimeError("backward: this tensor does not require a gradient and has no graph")
    if gradient is None:
        if self.data.size != 1:
            raise RuntimeError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape; only a single number has 1 by default")
        gradient = np.ones(self.data.shape, self.data.dtype)
    else:
        gradient = np.array(gradient.data if isinstance(gradient, Tensor) else gradient, self.data.dtype)
        if gradient.shape != self.data.shape:
            raise ValueError(f"backward: expected a gradient of shape {self.shape}, got {gradient.shape}")
    order = topological_order(node, _parents_of)
    for node in order:
        if node.vjp is _freed:
            _freed(None)
    kept = _quiet(_pull_back, order, gradient, retain_graph)
    seen = set()
    for node, gradient in kept:
        gradient = np.asarray(gradient)
        if node.grad is not None:
            node.grad += gradient
        elif gradient.base is not None or id(gradient) in seen:
            node.grad = gradient.copy()
        else:
            node.grad = gradient
            seen.add(id(gradient))


def _quiet(function, *arguments):
    """Call a function in the thread's context without NumPy's warnings."""
    try:
        return _thread.quietly(function, *arguments)
    except RuntimeError as error:
        if not _entered(error):
            raise
        return function(*arguments)


def _pull_back(order, gradient, retain_graph):
    """Walk the graph from its root, order[-1], to its leaves; return the gradients to keep as (node, gradient) pairs."""
    table, summed, kept = {order[-1]: gradient}, set(), []
    while order:
        node = order.pop()
        g = table.pop(node, None)
        if g is None:
            continue  # nothing arrived here
        if node.keeps:
            kept.append((node, g))
        vjp, parents = node.vjp, node.parents
        if vjp is None:
            continue
        joint = vjp(g) if callable(vjp) else None
        for i, parent in enumerate(parents):
            new = joint[i] if joint is not None else vjp[i](g)
            if type(new) is not _ndarray or new.shape != parent.shape or new.dtype is not parent.dtype:
                new = _fit(new, parent, node)
            old = table.get(parent)
            if old is None:
                table[parent] = new
            elif parent in summed:
                old += new
            else:
                table[parent] = old + new
                if parent.shape:  # the sum of two numbers is not an array that could be added to in place
                    summed.add(parent)
        if not retain_graph:
            node.vjp, node.parents = _freed, ()
    return kept


def _fit(gradient, parent, node):
    """Make a gradient belong to the input `parent`: sum it over broadcast axes, and cast it to the input's type."""
    gradient = np.asarray(gradient)
    if gradient.shape != parent.shape:
        gradient = unbroadcast(gradient, parent.shape, node.name)
    return gradient if gradient.dtype == parent.dtype else gradient.astype(parent.dtype)


def unbroadcast(gradient, shape, name="unbroadcast"):
    """Sum `gradient` over the axes along which an input of shape `shape` was repeated by broadcasting."""
    missing = gradient.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(shape, missing) if n == 1 != gradient.shape[i])  if missing >= 0 else ()
    fits = missing >= 0 and not [i for i, n in enumerate(shape, missing) if i not in stretched and gradient.shape[i] != n]
    if not fits:
        raise ValueError(f"{name}: its gradient has shape {gradient.shape}, which cannot belong to an input of shape {shape}")
    if missing:
        gradient = gradient.sum(tuple(range(missing)))  
    return gradient.sum(tuple(i - missing for i in stretched), keepdims=True) if stretched else gradient


# ---- arithmetic
@differentiable
def add(a, b):
    """The sum, elementwise, with broadcasting."""
    return a + b, (lambda g: g, lambda g: g)


@differentiable
def sub(a, b):
    """The difference, elementwise, with broadcasting."""
    return a - b, (lambda g: g, lambda g: -g)


@differentiable
def mul(a, b):
    """The product, elementwise, with broadcasting."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@differentiable
def div(a, b):
    """The quotient, elementwise, with broadcasting. Integers give floats."""
    quotient = a / b
    return quotient, (lambda g: g / b, lambda g: -g * quotient / b)


@differentiable
def neg(x):
    """The negative."""
    return -x, lambda g: -g


@differentiable
def pow(a, b):
    """`a` to the power of `b`, elementwise. By the exponent, the gradient at a = 0 is 0, as in PyTorch."""
    value = _power(a, b)

    def by_base(g):
        if type(b) is not _ndarray:
            return g * (b * _power(a, b - 1)) if b else np.zeros_like(g)
        return g * np.where(b == 0, 0, b * a ** (b - (b != 0)))

    def by_exponent(g):
        base = np.asarray(a, value.dtype)
        return g * value * np.where((base == 0) & (b >= 0), 0, np.log(base))

    return value, (by_base, by_exponent)


def _power(a, b):
    """a ** b; small whole exponents as products, which are many times faster."""
    if type(b) is int or type(b) is float:
        if b == 1:
            return +a
        if b == 2:
            return a * a
        if b == 3:
            return a * a * a
    return a**b


@differentiable
def remainder(a, b):
    """The remainder of a division, with the sign of the divisor, as Python's %."""
    return a % b, (lambda g: g, lambda g: -g * np.floor(a / b))


def without_gradient(function):
    """Lift a NumPy function that has no gradient, such as a comparison: its result never requires one."""
    name = function.__name__.strip("_")

    @functools.wraps(function)
    def operation(*inputs, **options):
        arrays = []
        for x in inputs:
            arrays.append(x.data if isinstance(x, Tensor) else x if type(x) in _WEAK else _constant(x))
        try:
            value = _quiet(functools.partial(function, *arrays, **options))
        except (ValueError, TypeError, IndexError) as error:
            raise _explained(error, name, arrays) from error
        result = _new(Tensor)
        result.data = value if type(value) is _ndarray else np.asarray(value)
        result._node = None
        return result

    return operation


_WEAK = (float, int, bool)

Tensor.__add__ = Tensor.__radd__ = Tensor.add = add
Tensor.__sub__ = Tensor.sub = sub
Tensor.__mul__ = Tensor.__rmul__ = Tensor.mul = mul
Tensor.__truediv__ = Tensor.div = div
Tensor.__neg__ = Tensor.neg = neg
Tensor.__pow__ = Tensor.pow = pow
Tensor.__mod__ = Tensor.remainder = remainder
Tensor.__rsub__ = lambda self, other: sub(other, self)
Tensor.__rtruediv__ = lambda self, other: div(other, self)
Tensor.__rpow__ = lambda self, other: pow(other, self)
Tensor.__rmod__ = lambda self, other: remainder(other, self)
Tensor.__pos__ = lambda self: self


def _comparison(symbol, ufunc):
    """A comparison of tensors, elementwise, with broadcasting; without a gradient."""

    def compare(a, b):
        return ufunc(a, b)

    compare.__name__ = symbol
    compare.__doc__ = f"a {symbol} b, elementwise, as a tensor of booleans."
    return without_gradient(compare)


for _name, _ufunc in {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}.items():
    setattr(Tensor, f"__{_name}__", _comparison(_name, _ufunc))
    setattr(Tensor, _name, getattr(Tensor, f"__{_name}__"))
for _name, _ufunc in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "floordiv": np.floor_divide}.items():
    setattr(Tensor, f"__{_name}__", _comparison(_name, _ufunc))
    setattr(Tensor, f"__r{_name}__", (lambda op: lambda self, other: op(other, self))(getattr(Tensor, f"__{_name}__")))
Tensor.__hash__ = object.__hash__
Tensor.__invert__ = without_gradient(lambda x: ~x)
isnan, isinf, isfinite = map(without_gradient, (lambda x: np.isnan(x), lambda x: np.isinf(x), lambda x: np.isfinite(x)))


# ---- matmul
@differentiable
def matmul(a, b):
    """The matrix product, with PyTorch's rules: vectors, matrices, and stacks of matrices that broadcast."""
    if type(a) is not _ndarray or type(b) is not _ndarray or not a.ndim or not b.ndim:
        raise ValueError(f"matmul: {np.shape(a)} @ {np.shape(b)}, both need at least one dimension")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}, inner sizes {a.shape[-1]} and {b.shape[-2 if b.ndim > 1 else 0]} differ")
    if b.ndim == 2 and a.ndim > 2:  # one large product is faster than many small ones
        rows = a.reshape(-1, a.shape[-1])
        value = (rows @ b).reshape(*a.shape[:-1], b.shape[1])
        return value, (
            lambda g: (g.reshape(-1, g.shape[-1]) @ b.T).reshape(a.shape),
            lambda g: rows.T @ g.reshape(-1, g.shape[-1]),
        )
    if a.ndim == b.ndim == 2:
        return a @ b, (lambda g: g @ b.T, lambda g: a.T @ g)
    row, column = a.ndim == 1, b.ndim == 1  # a vector is a matrix of one row, or of one column
    A, B = a[None] if row else a, b[:, None] if column else b

    def matrix(g):
        return g.reshape(*g.shape, *[1] * (row + column)) if row and column else g[..., None, :] if row else g[..., None] if column else g

    def by_a(g):
        d = matrix(g) @ B.swapaxes(-1, -2)
        return d.sum(tuple(range(d.ndim - 2))).reshape(a.shape) if row else d

    def by_b(g):
        d = A.swapaxes(-1, -2) @ matrix(g)
        return d.sum(tuple(range(d.ndim - 2))).reshape(b.shape) if column else d

    return a @ b, (by_a, by_b)


Tensor.__matmul__ = Tensor.matmul = matmul
Tensor.__rmatmul__ = lambda self, other: matmul(other, self)


# ---- elementwise functions
@differentiable
def exp(x):
    """e to the power of `x`."""
    y = np.exp(x)
    return y, lambda g: g * y


@differentiable
def log(x):
    """The natural logarithm: -inf at 0, NaN below."""
    return np.log(x), lambda g: g / x


@differentiable
def sqrt(x):
    """The square root; its slope at 0 is infinite."""
    y = np.sqrt(x)
    return y, lambda g: g / (2 * y)


@differentiable
def abs(x):
    """The absolute value; its gradient at 0 is 0."""
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
    """The hyperbolic tangent."""
    y = np.tanh(x)

    def pullback(g):
        d = y * y
        return g * np.subtract(1, d, out=d) if d.ndim else g * (1 - d)

    return y, pullback


@differentiable
def sigmoid(x):
    """1 / (1 + exp(-x)); where exp overflows, the quotient is 0, as it should be."""
    y = 1 / (1 + np.exp(-x))
    return y, lambda g: g * (y * (1 - y))


@differentiable
def relu(x):
    """`x` where it is positive, else 0; the gradient at 0 is 0."""
    y = np.maximum(x, 0)
    return y, lambda g: g * (y > 0)


def _shares(a, b, wins):
    """1 where `a` wins against `b`, 1/2 where they are equal, else 0."""
    won = wins(a, b)
    ties = np.equal(a, b)
    return won + ties * np.float16(0.5) if ties.any() else won


@differentiable
def maximum(a, b):
    """The larger of two, elementwise; where they are equal, each gets half of the gradient."""
    return np.maximum(a, b), (lambda g: g * _shares(a, b, np.greater), lambda g: g * _shares(b, a, np.greater))


@differentiable
def minimum(a, b):
    """The smaller of two, elementwise; where they are equal, each gets half of the gradient."""
    return np.minimum(a, b), (lambda g: g * _shares(a, b, np.less), lambda g: g * _shares(b, a, np.less))


@differentiable
def clamp(x, *, min=None, max=None):
    """`x` limited to the range from `min` to `max`; the gradient passes where x lies inside or on a limit."""
    if min is None and max is None:
        raise ValueError("clamp: expected min, max, or both")

    def pullback(g):
        inside = (x >= min) if max is None else (x <= max) if min is None else (x >= min) & (x <= max)
        return g * inside

    y = x if min is None else np.maximum(x, min)
    return y if max is None else np.minimum(y, max), pullback


@differentiable
def where(condition, a, b):
    """`a` where the condition holds, else `b`."""
    condition = np.asarray(condition)
    return np.where(condition, a, b), (None, lambda g: g * condition, lambda g: g * ~condition)


@differentiable
def masked_fill(x, mask, *, value):
    """`x`, but `value` where `mask` (booleans that broadcast to the shape of `x`) holds."""
    if mask.dtype != bool:
        raise TypeError(f"masked_fill: expected a mask of booleans, got {mask.dtype}")
    y = x.copy()
    np.copyto(y, value, where=mask)
    return y, (lambda g: g * ~mask, None)


for _operation in (exp, log, sqrt, abs, sin, cos, tanh, sigmoid, relu, maximum, minimum, clamp, masked_fill):
    setattr(Tensor, _operation.__name__, _operation)
Tensor.__abs__ = abs
clip = Tensor.clip = clamp
Tensor.where = lambda self, condition, other: where(condition, self, other)


# ---- reductions
def _axis(dim):
    """NumPy's name for PyTorch's `dim`: None, an integer or a tuple of them."""
    return tuple(dim) if isinstance(dim, list) else dim


def _kept(g, axis, keepdim):
    """A gradient of a reduction, with the reduced axes back as axes of size 1."""
    return g if keepdim or axis is None else np.expand_dims(g, axis)


@differentiable
def sum(x, *, dim=None, keepdim=False, dtype=None):
    """The sum over `dim` (an integer, a tuple, or None for all). Integers and booleans give int64."""
    axis, shape = _axis(dim), x.shape
    value = x.sum(axis, dtype=dtype or (int64 if x.dtype.kind in "biu" else None), keepdims=keepdim)
    return value, lambda g: np.broadcast_to(_kept(g, axis, keepdim), shape)


@differentiable
def mean(x, *, dim=None, keepdim=False):
    """The mean over `dim`."""
    if x.dtype.kind != "f":
        raise TypeError(f"mean: {x.dtype} has no mean of its own type; call .float() first")
    axis, shape = _axis(dim), x.shape
    value = x.mean(axis, keepdims=keepdim)
    count = x.size / value.size if value.size else 1.0
    return value, lambda g: np.broadcast_to(_kept(g / count, axis, keepdim), shape)


@differentiable
def var(x, *, dim=None, correction=1, keepdim=False, unbiased=None):
    """The variance over `dim`, divided by n - correction; `unbiased=False` is an older name of correction=0."""
    axis, correction = _axis(dim), correction if unbiased is None else int(unbiased)
    centred = x - x.mean(axis, keepdims=True)
    square = centred * centred
    total = square.sum(axis, keepdims=keepdim)
    count = x.size / total.size if total.size else 1.0
    degrees = count - correction if count > correction else 0.0
    return total / total.dtype.type(degrees), lambda g: _kept(g * (2 / degrees if degrees else np.inf), axis, keepdim) * centred


@differentiable
def std(x, *, dim=None, correction=1, keepdim=False, unbiased=None):
    """The standard deviation over `dim`; where it is 0, so is its gradient."""
    axis, correction = _axis(dim), correction if unbiased is None else int(unbiased)
    centred = x - x.mean(axis, keepdims=True)
    total = (centred * centred).sum(axis, keepdims=True)
    count = x.size / total.size if total.size else 1.0
    degrees = count - correction if count > correction else 0.0
    deviation = np.sqrt(total / total.dtype.type(degrees))

    def pullback(g):
        scale = _kept(g, axis, keepdim) / (deviation * x.dtype.type(degrees))
        return np.where(deviation == 0, 0, scale) * centred

    return deviation if keepdim else deviation.squeeze(axis), pullback


def _extreme(name, reduce):
    """The operation amax or amin."""

    def extreme(x, *, dim=(), keepdim=False):
        axis = _axis(dim) if dim != () else None
        best = reduce(x, axis=axis, keepdims=True)

        def pullback(g):
            mask = x == best
            return mask * (_kept(g, axis, keepdim) / mask.sum(axis, keepdims=True, dtype=x.dtype))

        return best if keepdim else best.squeeze(axis), pullback

    extreme.__name__, extreme.__doc__ = name, f"The {'largest' if name == 'amax' else 'smallest'} element over `dim`; equal ones share the gradient."
    return differentiable(extreme)


amax, amin = _extreme("amax", np.max), _extreme("amin", np.min)


@without_gradient
def argmax(x, dim=None, keepdim=False):
    """The position of the largest element over `dim` (the first of equal ones), or in the flattened tensor."""
    return x.argmax(dim, keepdims=keepdim) if dim is not None else x.argmax()


@without_gradient
def argmin(x, dim=None, keepdim=False):
    """The position of the smallest element over `dim` (the first of equal ones), or in the flattened tensor."""
    return x.argmin(dim, keepdims=keepdim) if dim is not None else x.argmin()


@differentiable
def _gather(x, index, *, dim):
    def pullback(g):
        d = np.zeros_like(x)
        places = list(np.ix_(*[np.arange(n) for n in index.shape]))
        places[dim] = index
        np.add.at(d, tuple(places), g)
        return d

    return np.take_along_axis(x, index, dim) , (pullback, None)


def gather(x, dim, index):
    """The elements x[i][index[i][j]] for dim=1, and so on: `index` (integers) has the result's shape."""
    return _gather(x, index, dim=dim)


values_and_indices = namedtuple("values_and_indices", "values indices")


def max(x, dim=None, keepdim=False):
    """The largest element; over one `dim` the pair (values, indices), whose gradient goes to the chosen places."""
    return _extreme_of(x, dim, keepdim, amax, maximum, argmax)


def min(x, dim=None, keepdim=False):
    """The smallest element; over one `dim` the pair (values, indices), whose gradient goes to the chosen places."""
    return _extreme_of(x, dim, keepdim, amin, minimum, argmin)


def _extreme_of(x, dim, keepdim, over_all, of_two, places):
    """What `max` and `min` share: without dim over all elements, with a tensor as second argument of two."""
    if dim is None:
        return over_all(x)
    if isinstance(dim, Tensor):
        return of_two(x, dim)
    indices = places(x, dim, True)
    values = _gather(x, indices, dim=dim)
    if not keepdim:
        values, indices = squeeze(values, dim), squeeze(indices, dim)
    return values_and_indices(values, indices)


@differentiable
def logsumexp(x, *, dim, keepdim=False):
    """log(sum(exp(x))) over `dim`, without overflow."""
    axis = _axis(dim)
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    value = np.log(np.exp(x - top).sum(axis, keepdims=True)) + top

    def pullback(g):
        return _kept(g, axis, keepdim) * np.exp(x - np.where(np.isneginf(value), 0, value))

    return value if keepdim else value.squeeze(axis), pullback


@differentiable
def softmax(x, *, dim):
    """exp(x) / sum(exp(x)) over `dim`, without overflow."""
    y = x - x.max(dim, keepdims=True)
    y = np.exp(y, out=y) if y.ndim else np.exp(y)
    y /= y.sum(dim, keepdims=True)

    def pullback(g):
        d = g * y
        d -= y * d.sum(dim, keepdims=True)
        return d

    return y, pullback


@differentiable
def log_softmax(x, *, dim):
    """log(softmax(x)) over `dim`, without overflow or underflow."""
    y = x - x.max(dim, keepdims=True)
    y -= np.log(np.exp(y).sum(dim, keepdims=True))
    return y, lambda g: g - np.exp(y) * g.sum(dim, keepdims=True)


@differentiable
def cumsum(x, *, dim):
    """The running sum along `dim`."""
    value = x.cumsum(dim, dtype=int64 if x.dtype.kind in "biu" else None)
    return value, lambda g: np.flip(np.flip(g, dim).cumsum(dim), dim)


for _operation in (sum, mean, var, std, amax, amin, argmax, argmin, gather, max, min, logsumexp, softmax, log_softmax, cumsum):
    setattr(Tensor, _operation.__name__, _operation)


# ---- shapes
def _sizes(sizes):
    """Sizes given one by one, or as one sequence."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes


@differentiable
def reshape(x, *, shape):
    """The same numbers in another shape, sharing memory where possible; one size may be -1."""
    before = x.shape
    return x.reshape(shape), lambda g: g.reshape(before)


@differentiable
def permute(x, *, dims):
    """The axes in the order `dims`, sharing memory."""
    if len(dims) != x.ndim:
        raise ValueError(f"permute: {x.shape} has {x.ndim} dimensions, dims names {len(dims)}")
    return x.transpose(dims), lambda g: g.transpose(np.argsort(np.arange(x.ndim)[list(dims)]))


@differentiable
def transpose(x, *, dim0, dim1):
    """Two axes exchanged, sharing memory."""
    return x.swapaxes(dim0, dim1), lambda g: g.swapaxes(dim0, dim1)


@differentiable
def squeeze(x, *, dim=None):
    """Without the axes of size 1, or without those in `dim` that have size 1."""
    before = x.shape
    if dim is not None:
        named = np.atleast_1d(dim)
        dim = tuple(int(d) for d in named if x.shape[d] == 1)
    return x.squeeze(dim), lambda g: g.reshape(before)


@differentiable
def unsqueeze(x, *, dim):
    """With a new axis of size 1 at `dim`."""
    before = x.shape
    return np.expand_dims(x, dim), lambda g: g.reshape(before)


@differentiable
def expand(x, *, shape):
    """Repeated along axes of size 1, without copying; -1 keeps a size."""
    if len(shape) < x.ndim:
        raise ValueError(f"expand: {x.shape} to {tuple(shape)}, fewer dimensions than before")
    full = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x, [m if n == -1 else n for m, n in zip(full, shape, strict=True)]), lambda g: g  # summed centrally


@differentiable
def flip(x, *, dims):
    """In reverse order along `dims`."""
    return np.flip(x, dims).copy(), lambda g: np.flip(g, dims)


@differentiable
def pad(x, *, pad, mode="constant", value=0.0):
    """With `value` around it: `pad` is (before, after) of the last axis, then of the one before it, and so on."""
    if mode != "constant":
        raise ValueError(f"pad: only mode 'constant' exists, got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad: {x.shape} needs pairs for at most {x.ndim} axes, got {len(pad)} numbers")
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    sizes = [n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True)]
    inner = tuple(slice(np.maximum(b, 0), n - np.maximum(a, 0)) for n, (b, a) in zip(sizes, pairs, strict=True))
    source = tuple(slice(np.maximum(-b, 0), n - np.maximum(-a, 0)) for n, (b, a) in zip(x.shape, pairs, strict=True))
    y = np.full(sizes, value, x.dtype)
    y[inner] = x[source]

    def pullback(g):
        d = np.zeros_like(x)
        d[source] = g[inner]
        return d

    return y, pullback


@differentiable
def _cat(*arrays, dim=0):
    if len({a.ndim for a in arrays}) > 1 or not arrays[0].ndim:
        raise ValueError(f"cat: {' and '.join(str(a.shape) for a in arrays)}, expected equal numbers of dimensions, at least one")
    ends = np.cumsum([0, *(a.shape[dim] for a in arrays)])

    def piece(i):
        index = [slice(None)] * arrays[0].ndim
        index[dim] = slice(ends[i], ends[i + 1])
        return lambda g: g[tuple(index)]

    return np.concatenate(arrays, dim), tuple(piece(i) for i in range(len(arrays)))


@differentiable
def _stack(*arrays, dim=0):
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"stack: {' and '.join(str(a.shape) for a in arrays)}, expected equal shapes")

    def piece(i):
        return lambda g: np.take(g, i, dim)

    return np.stack(arrays, dim), tuple(piece(i) for i in range(len(arrays)))


def cat(tensors, dim=0):
    """Tensors joined along an existing axis."""
    return _several("cat", _cat, tensors, dim)


def stack(tensors, dim=0):
    """Tensors of one shape joined along a new axis."""
    return _several("stack", _stack, tensors, dim)


def _several(name, operation, tensors, dim):
    tensors = list(tensors)
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor")
    return operation(*tensors, dim=dim)


def split(x, split_size_or_sections, dim=0):
    """A tuple of pieces (views) along `dim`: of one size, the last may be smaller, or of the sizes in a list."""
    n = x.shape[dim]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 1:
            raise ValueError(f"split: expected a size of at least 1, got {step}")
        sizes = [step] * (n // step) + [n % step] * (n % step > 0 or n == 0)
    else:
        sizes = list(split_size_or_sections)
        if np.sum(sizes) != n:
            raise ValueError(f"split: sizes {sizes} do not add up to {n}, the size of dimension {dim} of {x.shape}")
    ends = np.cumsum([0, *sizes]).tolist()
    before = (slice(None),) * (dim % x.ndim)
    return tuple(x[(*before, slice(a, b))] for a, b in zip(ends, ends[1:], strict=False))


def chunk(x, chunks, dim=0):
    """At most `chunks` pieces (views) of equal size along `dim`; the last may be smaller."""
    return split(x, int(-(-x.shape[dim] // chunks)) or 1, dim)


@differentiable
def getitem(x, *, index):
    """x[index], for every kind of index that NumPy and PyTorch share; repeated places add up their gradients."""
    y = x[index]
    if type(y) is not _ndarray:
        y = x[(*index, ...)] if type(index) is tuple else x[index, ...]

    def pullback(g):
        d = np.zeros(x.shape, g.dtype)
        if _repeats(index):
            np.add.at(d, index, g)
        else:
            d[index] = g
        return d

    return y, pullback


def _repeats(index):
    """Whether an index may name a place twice: only arrays and lists of integers can."""
    parts = index if type(index) is tuple else (index,)
    return bool([p for p in parts if isinstance(p, np.ndarray | list) and np.asarray(p).dtype != bool])


def _index(index):
    """An index as NumPy takes it: tensors become arrays."""
    if isinstance(index, tuple):
        return tuple([p.data if isinstance(p, Tensor) else p for p in index])
    return index.data if isinstance(index, Tensor) else index


@differentiable
def index_put(x, value, *, index):
    """A copy of `x` with x[index] = value."""
    y = x.copy()
    y[index] = value

    def by_x(g):
        d = g.copy()
        d[index] = 0
        return d

    return y, (by_x, lambda g: g[index])


@method_of(Tensor)
def __getitem__(self, index):
    return getitem(self, index=_index(index))


@method_of(Tensor)
def __setitem__(self, index, value):
    index = _index(index)
    if _thread.recording and (self._node is not None or isinstance(value, Tensor) and value._node is not None):
        if self._node is not None and self._node.vjp is None:
            raise RuntimeError("setitem: a leaf that requires a gradient is not changed in place; do it under no_grad()")
        changed = index_put(self, value, index=index)
        self.data, self._node = changed.data, changed._node
    else:
        self.data[index] = value.data if isinstance(value, Tensor) else value


@method_of(Tensor)
def __len__(self):
    if not self.data.ndim:
        raise TypeError("len: a tensor of no dimensions has no length")
    return len(self.data)


@method_of(Tensor)
def __iter__(self):
    if not self.data.ndim:
        raise TypeError("iter: a tensor of no dimensions has nothing to go through")
    return (self[i] for i in range(len(self.data)))


@method_of(Tensor, "view_copy")
def reshape_(self, *shape):
    return reshape(self, shape=_sizes(shape))


Tensor.reshape = reshape_


@method_of(Tensor)
def view(self, *shape):
    result = reshape(self, shape=_sizes(shape))
    if result.data.size and not np.may_share_memory(result.data, self.data):
        raise RuntimeError(f"view: {self.shape} with these strides cannot be seen as {result.shape} without a copy; use reshape")
    return result


def flatten(x, start_dim=0, end_dim=-1):
    """The axes from `start_dim` to `end_dim` merged into one."""
    if not x.ndim:
        return reshape(x, shape=(1,))
    first, last = start_dim % x.ndim, end_dim % x.ndim
    if first > last:
        raise ValueError(f"flatten: {x.shape}, start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, shape=(*x.shape[:first], int(np.prod(x.shape[first:last + 1])), *x.shape[last + 1:]))


def _diagonal_free(letters, array):
    return array


@differentiable
def _einsum(*arrays, equation):
    terms, out = _letters(equation, [a.ndim for a in arrays])
    sizes = {}
    for term, a in zip(terms, arrays, strict=True):
        for c, n in zip(term, a.shape, strict=True):
            if sizes.setdefault(c, n) == 1:
                sizes[c] = n
            elif n not in (1, sizes[c]):
                raise ValueError(f"einsum: {equation!r}, the index {c!r} has sizes {sizes[c]} and {n}")

    def contract(operands, inputs, output):
        return np.einsum(f"{','.join(inputs)}->{output}", *operands, optimize=bool(np.prod([*sizes.values()]) > 10_000))

    def pullback(k):
        def by_k(g):
            others = [i for i in range(len(arrays)) if i != k]
            wanted = "".join(dict.fromkeys(terms[k]))
            seen = set(out).union(*(terms[i] for i in others))
            found = "".join(c for c in wanted if c in seen)
            d = contract([g, *(arrays[i] for i in others)], [out, *(terms[i] for i in others)], found)
            d = d.reshape([sizes[c] if c in found else 1 for c in wanted])
            d = np.broadcast_to(d, [sizes[c] for c in wanted])
            if len(wanted) == len(terms[k]):
                return d
            full = np.zeros([sizes[c] for c in terms[k]], d.dtype)
            np.einsum(f"{terms[k]}->{wanted}", full)[...] = d
            return full

        return by_k

    return contract(arrays, terms, out), tuple(pullback(k) for k in range(len(arrays)))


def _letters(equation, ndims):
    """The index letters of each operand and of the result; an ellipsis becomes letters of its own."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {equation!r} names {len(terms)} operands, got {len(ndims)}")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    counts = [ndim - len(term.replace("...", "")) for term, ndim in zip(terms, ndims, strict=True)]
    for term, count, ndim in zip(terms, counts, ndims, strict=True):
        if count < 0 or count and "..." not in term:
            raise ValueError(f"einsum: {equation!r}, {term!r} does not fit an operand of {ndim} dimensions")
    dots = "".join(spare[: np.max(counts, initial=0)])
    terms = [term.replace("...", dots[len(dots) - count :]) for term, count in zip(terms, counts, strict=True)]
    if not arrow:
        joined = "".join(terms)
        out = dots + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in dots))
    return terms, out.replace("...", dots)


def einsum(equation, *operands):
    """Einstein's summation: multiply the operands, sum over every index that the result does not name."""
    return _einsum(*operands, equation=equation)


for _operation in (transpose, squeeze, unsqueeze, flatten, split, chunk, pad):
    setattr(Tensor, _operation.__name__, _operation)
Tensor.permute = lambda self, *dims: permute(self, dims=_sizes(dims))
Tensor.expand = lambda self, *shape: expand(self, shape=_sizes(shape))
Tensor.flip = lambda self, *dims: flip(self, dims=_sizes(dims))
Tensor.T = property(lambda self: permute(self, dims=tuple(range(self.ndim))[::-1]))
Tensor.mT = property(lambda self: transpose(self, -1, -2))


@differentiable
def clone(x):
    """A copy that gradients flow through."""
    return x.copy(), lambda g: g


@differentiable
def to_dtype(x, *, dtype):
    """The same numbers as another floating-point type."""
    return x.astype(dtype), lambda g: g


@method_of(Tensor, "astype", "type")
def to(self, dtype):
    """This tensor as another type; itself where it has that type. A device's name ("cpu") changes nothing."""
    if isinstance(dtype, str) and dtype == "cpu":
        return self
    dtype = np.dtype(dtype)
    if dtype == self.data.dtype:
        return self
    return to_dtype(self, dtype=dtype) if dtype.kind == "f" else Tensor(self.data.astype(dtype), copy=False)


Tensor.float = lambda self: self.to(float32)
Tensor.double = lambda self: self.to(float64)
Tensor.half = lambda self: self.to(float16)
Tensor.long = lambda self: self.to(int64)
Tensor.int = lambda self: self.to(int32)
Tensor.bool = lambda self: self.to(np.bool_)
Tensor.clone = clone
Tensor.shape = property(lambda self: self.data.shape)
Tensor.ndim = property(lambda self: self.data.ndim)
Tensor.dtype = property(lambda self: self.data.dtype)
Tensor.size = lambda self, dim=None: self.data.shape if dim is None else self.data.shape[dim]
Tensor.dim = lambda self: self.data.ndim
Tensor.numel = lambda self: self.data.size
Tensor.tolist = lambda self: self.data.tolist()
Tensor.device = property(lambda self: "cpu")


@method_of(Tensor)
def item(self):
    """The one number of this tensor as a Python number."""
    if self.data.size != 1:
        raise ValueError(f"item: a tensor of shape {self.shape} is not a single number")
    return self.data.item()


@method_of(Tensor)
def __bool__(self):
    if self.data.size != 1:
        raise ValueError(f"bool: a tensor of shape {self.shape} is neither true nor false; use any() or all()")
    return bool(self.data.item())


Tensor.__float__ = lambda self: float(self.item())
Tensor.__int__ = lambda self: int(self.item())
Tensor.__index__ = lambda self: self.data.item().__index__()


@method_of(Tensor)
def numpy(self):
    """The data as a NumPy array that shares its memory."""
    if self._node is not None:
        raise RuntimeError("numpy: this tensor requires a gradient, which NumPy would lose; use detach().numpy()")
    return self.data


@method_of(Tensor)
def __array__(self, dtype=None, copy=None):
    return np.array(self.numpy(), dtype=dtype, copy=copy)


@method_of(Tensor)
def detach(self):
    """A tensor that shares this one's data and has no graph."""
    return Tensor(self.data, copy=False)


@method_of(Tensor)
def requires_grad_(self, requires_grad=True):
    """Set `requires_grad`, and return the tensor."""
    self.requires_grad = requires_grad
    return self


@method_of(Tensor)
def retain_grad(self):
    """Let `backward` keep the gradient of this result of an operation, too."""
    if self._node is None:
        raise RuntimeError("retain_grad: this tensor does not require a gradient")
    self._node.keeps = True


@method_of(Tensor)
def contiguous(self):
    return self if self.data.flags.c_contiguous else clone(self)


@method_of(Tensor)
def __deepcopy__(self, memo):
    if not self.is_leaf:
        raise RuntimeError("deepcopy: only leaves can be copied with their gradient; detach() the result of an operation first")
    result = type(self).__new__(type(self))
    result.data = self.data.copy()
    result._node = None
    if self._node is not None:
        result.requires_grad = True
        result._node.grad = None if self._node.grad is None else self._node.grad.copy()
    memo[id(self)] = result
    return result


class _Random:
    def __init__(self):
        self.generator = np.random.default_rng(0)


_random = _Random()


def manual_seed(seed):
    """Restart the engine's random numbers from `seed`, and return the NumPy generator that gives them."""
    _random.generator = np.random.default_rng(seed)
    return _random.generator


def default_generator():
    """The NumPy generator from which the engine draws when it is given none."""
    return _random.generator


def tensor(data, dtype=None, requires_grad=False, device=None):
    """A tensor with a copy of `data`: numbers, nested lists (float32 or int64), or an array (which keeps its type)."""
    return Tensor(data, requires_grad, dtype)


def from_numpy(array):
    """A tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(array, copy=False)


def as_tensor(data, dtype=None):
    """`data` as a tensor, sharing its memory where that is possible."""
    return data if isinstance(data, Tensor) and dtype in (None, data.dtype) else Tensor(data, dtype=dtype, copy=False)


def _factory(make):
    """Give a function that makes an array from sizes PyTorch's signature."""

    @functools.wraps(make)
    def factory(*size, dtype=None, requires_grad=False, generator=None, device=None, **options):
        size = _sizes(size)
        return Tensor(make(size, dtype, generator or _random.generator, **options), requires_grad, copy=False)

    return factory


@_factory
def zeros(size, dtype, _):
    """A tensor of zeros."""
    return np.zeros(size, dtype or float32)


@_factory
def ones(size, dtype, _):
    """A tensor of ones."""
    return np.ones(size, dtype or float32)


@_factory
def rand(size, dtype, generator):
    """Random numbers, uniform from 0 (included) to 1 (excluded)."""
    return generator.random(size, dtype or float32)


@_factory
def randn(size, dtype, generator):
    """Random numbers from the normal distribution of mean 0 and variance 1."""
    return generator.standard_normal(size, dtype or float32)


def full(size, fill_value, dtype=None, requires_grad=False, device=None):
    """A tensor of the given size, filled with one number."""
    if dtype is None:
        dtype = _to_array(fill_value).dtype
    return Tensor(np.full(size, fill_value, dtype), requires_grad, copy=False)


def eye(n, m=None, dtype=None, requires_grad=False, device=None):
    """The identity matrix, (n, n) or (n, m)."""
    return Tensor(np.eye(n, m, dtype=dtype or float32), requires_grad, copy=False)


def arange(start, end=None, step=1, dtype=None, requires_grad=False, device=None):
    """The numbers from `start` (0 where only the end is given) to `end` (excluded), `step` apart."""
    start, end = (0, start) if end is None else (start, end)
    array = np.arange(start, end, step)
    return Tensor(array.astype(dtype or (float32 if array.dtype.kind == "f" else int64)), requires_grad, copy=False)


def linspace(start, end, steps, dtype=None, requires_grad=False, device=None):
    """`steps` numbers from `start` to `end`, both included, evenly apart."""
    return Tensor(np.linspace(start, end, steps, dtype=dtype or float32), requires_grad, copy=False)


def randint(low, high=None, size=None, dtype=None, generator=None, device=None):
    """Random integers from `low` (0 where only the end is given) to `high` (excluded)."""
    if size is None and not isinstance(high, int | np.integer):
        low, high, size = 0, low, high
    return Tensor((generator or _random.generator).integers(low, high, size, dtype or int64), copy=False)


def zeros_like(x, dtype=None, requires_grad=False):
    """Zeros in the shape and type of `x`."""
    return zeros(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def ones_like(x, dtype=None, requires_grad=False):
    """Ones in the shape and type of `x`."""
    return ones(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def full_like(x, fill_value, dtype=None, requires_grad=False):
    """One number in the shape and type of `x`."""
    return full(x.shape, fill_value, dtype or x.dtype, requires_grad)


def rand_like(x, dtype=None, requires_grad=False):
    """Uniform random numbers in the shape and type of `x`."""
    return rand(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def randn_like(x, dtype=None, requires_grad=False):
    """Normal random numbers in the shape and type of `x`."""
    return randn(x.shape, dtype=dtype or x.dtype, requires_grad=requires_grad)


def gradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, raise_exception=True, seed=0):
    """Compare the gradients of `function` with central differences."""
    inputs = inputs if isinstance(inputs, tuple | list) else (inputs,)
    rng = np.random.default_rng(seed)
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.requires_grad and x.dtype != float64:
            raise TypeError(f"gradcheck: input {i} is {x.dtype}; a difference quotient needs float64")
    leaves = {i: Tensor(x.data, requires_grad=True) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}
    if not leaves:
        raise ValueError("gradcheck: no input requires a gradient")
    arguments = [leaves.get(i, x) for i, x in enumerate(inputs)]

    def outputs():
        value = function(*arguments)
        return value if isinstance(value, tuple | list) else (value,)

    upstream = [rng.standard_normal(y.shape) for y in outputs()]
    for y, g in zip(outputs(), upstream, strict=True):
        if y.requires_grad:
            y.backward(g)

    def projected():
        with no_grad():
            return np.sum([np.sum(g * y.data) for y, g in zip(outputs(), upstream, strict=True)])

    for i, x in leaves.items():
        given = np.zeros(x.shape) if x.grad is None else x.grad
        for place in np.ndindex(x.shape):
            kept = x.data[place]
            x.data[place] = kept + eps
            above = projected()
            x.data[place] = kept - eps
            below = projected()
            x.data[place] = kept
            expected = (above - below) / (2 * eps)
            if not np.abs(given[place] - expected) <= atol + rtol * np.abs(expected):
                if raise_exception:
                    raise ValueError(f"gradcheck: input {i} at {place}: backward gives {given[place]:.6g}, differences give {expected:.6g}")
                return False
    return True
