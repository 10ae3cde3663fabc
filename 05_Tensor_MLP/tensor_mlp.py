"""Tensor MLP: real data, and why a network does not learn

Exported from 05_Tensor_MLP/tensor_mlp.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import json
import os
from bisect import bisect_right
from math import cos, erf, erfc, exp, isfinite, pi, prod
from pathlib import Path

import numpy as np

from shared.scalar_mlp import Module, Optimizer, data_of
from shared.tensor import Tensor, default_generator, differentiable, no_grad, relu, sigmoid, tanh
from shared.threads import parallel_for

__all__ = [
    "GELU",
    "Adam",
    "AdamW",
    "BCEWithLogitsLoss",
    "CheckpointError",
    "CosineAnnealingLR",
    "CrossEntropyLoss",
    "DataLoader",
    "Dropout",
    "History",
    "LRScheduler",
    "LambdaLR",
    "LeakyReLU",
    "Linear",
    "LinearLR",
    "MSELoss",
    "ModuleDict",
    "ModuleList",
    "OneCycleLR",
    "Parameter",
    "RMSprop",
    "ReLU",
    "Sequential",
    "SequentialLR",
    "Sigmoid",
    "StepLR",
    "Tanh",
    "TensorDataset",
    "Trainer",
    "TrainingDiverged",
    "accuracy",
    "binary_cross_entropy_with_logits",
    "calculate_gain",
    "clip_grad_norm_",
    "constant_",
    "cross_entropy",
    "dropout",
    "gelu",
    "kaiming_normal_",
    "kaiming_uniform_",
    "leaky_relu",
    "linear",
    "load",
    "load_metadata",
    "lr_range_test",
    "mse_loss",
    "normal_",
    "ones_",
    "random_shift",
    "save",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


class Parameter(Tensor):
    """A tensor that a module trains: it requires a gradient, and `Module.parameters` finds it.

    `data` is an array, which is shared and not copied, a nested list, or a tensor.
    """

    __slots__ = ()
    is_parameter = True

    def __init__(self, data, requires_grad=True):
        data = np.asarray(data.data, order="C") if isinstance(data, Tensor | np.ndarray) else data
        super().__init__(data, requires_grad=requires_grad, copy=False)


@differentiable
def _linear(x, weight, bias):
    """`linear` as one operation."""
    rows = x.reshape(-1, x.shape[-1])  # (M, in)
    y = rows @ weight.T  # (M, out)
    if bias is not None:
        y = np.add(y, bias, out=y if y.dtype == bias.dtype else None)

    def by_x(g):
        return (g.reshape(-1, g.shape[-1]) @ weight).reshape(x.shape)

    def by_weight(g):
        return g.reshape(-1, g.shape[-1]).T @ rows

    def by_bias(g):
        g = g.reshape(-1, g.shape[-1])
        return np.ones(len(g), g.dtype) @ g  # a sum over the rows, as a product because that is faster

    return y.reshape(*x.shape[:-1], len(weight)), (by_x, by_weight, by_bias)


def linear(input, weight, bias=None):
    """x W^T + b: input (..., in), weight (out, in), bias (out,) or None give (..., out), in one operation.

    Raises ValueError where the sizes do not fit. Section 3.
    """
    x, w, b = np.shape(data_of(input)), np.shape(data_of(weight)), None if bias is None else np.shape(data_of(bias))
    if not x or len(w) != 2 or x[-1] != w[1]:
        raise ValueError(f"linear: input {x} and weight {w} do not fit; expected (..., in) and (out, in)")
    if b is not None and b != (w[0],):
        raise ValueError(f"linear: bias {b} does not fit weight {w}; expected {(w[0],)}")
    return _linear(input, weight, bias)


def uniform_(tensor, a=0.0, b=1.0, generator=None):
    """Fill a tensor with numbers drawn evenly between `a` and `b`; returns it."""
    tensor.data[...] = (generator or default_generator()).uniform(a, b, tensor.shape)
    return tensor


def normal_(tensor, mean=0.0, std=1.0, generator=None):
    """Fill a tensor with normal numbers; returns it."""
    tensor.data[...] = (generator or default_generator()).normal(mean, std, tensor.shape)
    return tensor


def constant_(tensor, val):
    """Fill a tensor with one number; returns it."""
    tensor.data[...] = val
    return tensor


def zeros_(tensor):
    """Fill a tensor with zeros; returns it."""
    return constant_(tensor, 0.0)


def ones_(tensor):
    """Fill a tensor with ones; returns it."""
    return constant_(tensor, 1.0)


def _fans(tensor):
    """How many inputs an output sees, and how many outputs an input reaches;
    a convolution's kernel counts for both."""
    if tensor.ndim < 2:
        raise ValueError("init: a weight has at least two dimensions, (out, in, ...), "
                         f"this one has shape {tensor.shape}")
    window = int(np.prod(tensor.shape[2:]))
    return tensor.shape[1] * window, tensor.shape[0] * window


def calculate_gain(nonlinearity, param=None):
    """The factor by which weights before this activation must be larger to keep the signal's size."""
    slope = 0.01 if param is None else param
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": 2**0.5, "leaky_relu": (2 / (1 + slope**2)) ** 0.5}
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: expected one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def xavier_uniform_(tensor, gain=1.0, generator=None):
    """Uniform weights of variance gain^2 * 2 / (fan_in + fan_out). Glorot and Bengio (2010)."""
    bound = gain * (6 / np.sum(_fans(tensor))) ** 0.5
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor, gain=1.0, generator=None):
    """Normal weights of variance gain^2 * 2 / (fan_in + fan_out). Glorot and Bengio (2010)."""
    return normal_(tensor, 0.0, gain * (2 / np.sum(_fans(tensor))) ** 0.5, generator)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """Uniform weights of variance gain^2 / fan. He, Zhang, Ren and Sun (2015)."""
    bound = 3**0.5 * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """Normal weights of variance gain^2 / fan. He, Zhang, Ren and Sun (2015)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _kaiming_std(tensor, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode is 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / _fans(tensor)[mode == "fan_out"] ** 0.5


class Linear(Module):
    """A fully connected layer, x W^T + b, for inputs (..., in_features): outputs (..., out_features).

    `weight` (out_features, in_features) and `bias` (out_features,) start uniform between -1 / sqrt(in_features) and
    1 / sqrt(in_features), as in PyTorch. `generator` is a NumPy generator; without one the engine's own is used.
    Raises ValueError for a size below 1.
    """

    def __init__(self, in_features, out_features, bias=True, *, generator=None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Linear: expected sizes of at least 1, got {in_features} and {out_features}")
        generator = generator or default_generator()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(np.empty((out_features, in_features), np.float32))
        kaiming_uniform_(self.weight, a=5**0.5, generator=generator)
        self.bias = None
        if bias:
            self.bias = Parameter(np.empty(out_features, np.float32))
            uniform_(self.bias, -(in_features**-0.5), in_features**-0.5, generator=generator)

    def forward(self, x):
        """The outputs (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def extra_repr(self):
        """The sizes, as PyTorch prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


@differentiable
def leaky_relu(x, *, negative_slope=0.01):
    """`x` where it is positive, else `negative_slope` times x. Maas, Hannun and Ng (2013)."""
    slope = np.where(x > 0, x.dtype.type(1), x.dtype.type(negative_slope))
    return x * slope, lambda g: g * slope


_PIECE = 1 << 15  # numbers that are worked on at a time, so that several passes over them stay in the cache


_BELL = (2 * np.pi) ** -0.5  # the height of the normal density


def _fitted(z, values, degree, weights=None):
    """Coefficients, highest power first, of a polynomial in z that is close to `values`."""
    fit = np.polynomial.Polynomial.fit(z, values, degree, w=weights)
    return fit.convert().coef[::-1].tolist()


def _tail_polynomial(degree=18):
    """The P in erfc(z) = exp(-z^2) P(3 / (3 + z)) for z >= 0."""
    nodes = np.cos(np.pi * (np.arange(4 * degree) + 0.5) / (4 * degree))  # Chebyshev's points, in -1 to 1
    t = 3 / 29 + (1 - 3 / 29) * (nodes + 1) / 2  # z from 26, beyond which exp(-z^2) is zero, down to 0
    return _fitted(t, [erfc(v) * exp(v * v) for v in (3 / t - 3).tolist()], degree)


def _gate_polynomial(degree=6):
    """The Q in Phi(x) = (1 + tanh(x Q(x^2))) / 2, weighted by what an error in it does to x Phi(x)."""
    x = 5.6 * np.cos(np.pi * (np.arange(200) + 0.5) / 400)  # up to where float32 takes Phi for 1
    area, rest = (np.array([f(v * 0.5**0.5) for v in x.tolist()]) for f in (erf, erfc))
    return _fitted(x * x, np.log((1 + area) / rest) / (2 * x), degree, x * x * rest)


_TAIL, _GATE = _tail_polynomial(), _gate_polynomial()


@differentiable
def gelu(x, *, approximate="none"):
    """x times the area under the normal curve left of x; approximate="tanh" is the cheaper form of GPT-2.

    Raises ValueError for another `approximate`. Hendrycks and Gimpel (2016), Gaussian error linear units.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    rule = _gelu_tanh if approximate == "tanh" else _gelu_exact if x.dtype == np.float64 else _gelu_single
    if not np.may_share_memory(x.ravel(order="K"), x):
        x = x.copy(order="K")  # without gaps
    y, slope = np.empty_like(x), np.empty_like(x)
    flat = [a.ravel(order="K") for a in (x, y, slope)]  # the same memory, in the order in which it lies there

    @np.errstate(all="ignore")  # a thread of its own does not know the engine's silence
    def some(start, stop):
        for first in range(start, stop, 2 * _PIECE):  # threads that call NumPy more often wait for each other
            rule(*(a[first : min(first + 2 * _PIECE, stop)] for a in flat))

    parallel_for(some, x.size, least=1 << 18)
    return y, lambda g: g * slope


def _gelu_exact(x, y, slope):
    """In float64: Phi from its tail."""
    bell, t = np.exp(-0.5 * x * x), 3 / (3 + np.abs(x) * 0.5**0.5)
    area = np.full_like(x, _TAIL[0])
    for coefficient in _TAIL[1:]:
        area *= t
        area += coefficient
    area = 0.5 + np.copysign(0.5 - 0.5 * bell * area, x)
    np.multiply(x, area, out=y)
    np.add(area, x * bell * _BELL, out=slope)


def _gelu_single(x, y, slope):
    """In float32: Phi as a hyperbolic tangent."""
    square = np.square(x, dtype=np.float32)
    area = square * _GATE[0]
    for coefficient in _GATE[1:-1]:
        area += coefficient
        area *= square
    area += _GATE[-1]
    area *= x
    np.tanh(area, out=area)
    area += 1
    area *= 0.5
    np.multiply(area, x, out=y)
    square *= -0.5
    bell = np.exp(square, out=square)
    bell *= _BELL
    bell *= x
    np.add(area, bell, out=slope)


def _gelu_tanh(x, y, slope):
    """GPT-2's form."""
    square = x * x
    inner = square * (0.044715 * (2 / np.pi) ** 0.5)
    inner += (2 / np.pi) ** 0.5
    square *= 3 * 0.044715 * (2 / np.pi) ** 0.5
    square += (2 / np.pi) ** 0.5  # the slope of what stands in tanh
    inner *= x
    np.tanh(inner, out=inner)
    np.multiply(inner, inner, out=slope)
    np.subtract(1, slope, out=slope)
    slope *= square
    slope *= x
    inner += 1
    slope += inner
    slope *= 0.5
    np.multiply(inner, x, out=y)
    y *= 0.5


class ReLU(Module):
    """max(0, x), elementwise. Nair and Hinton (2010)."""

    def forward(self, x):
        """The same shape as x."""
        return relu(x)


class LeakyReLU(Module):
    """x, or `negative_slope` times x where x is negative. Maas, Hannun and Ng (2013)."""

    def __init__(self, negative_slope=0.01):
        self.negative_slope = negative_slope

    def forward(self, x):
        """The same shape as x."""
        return leaky_relu(x, negative_slope=self.negative_slope)


class Tanh(Module):
    """The hyperbolic tangent, elementwise."""

    def forward(self, x):
        """The same shape as x."""
        return tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), elementwise."""

    def forward(self, x):
        """The same shape as x."""
        return sigmoid(x)


class GELU(Module):
    """x times the area under the normal curve left of x, see `gelu`."""

    def __init__(self, approximate="none"):
        self.approximate = approximate

    def forward(self, x):
        """The same shape as x."""
        return gelu(x, approximate=self.approximate)


@differentiable
def _dropout(x, *, p, generator):
    """`dropout` while training, as one operation."""
    kept = (generator.random(x.shape, np.float32) >= p).astype(x.dtype)
    kept *= 1 / (1 - p) if p < 1 else 0.0
    return x * kept, lambda g: g * kept


def dropout(input, p=0.5, training=True, *, generator=None):
    """Set each number to 0 with probability `p`, and multiply the others by 1 / (1 - p), which keeps the mean.

    Not training, or with p = 0, it returns its input. Raises ValueError where p lies outside 0 to 1.
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is a probability from 0 to 1, got {p}")
    return _dropout(input, p=p, generator=generator or default_generator()) if training and p else input


class Dropout(Module):
    """Dropout with probability `p` while the module trains; nothing after `eval()`. See `dropout`."""

    def __init__(self, p=0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is a probability from 0 to 1, got {p}")
        self.p = p

    def forward(self, x):
        """The same shape as x."""
        return dropout(x, self.p, self.training)

    def extra_repr(self):
        """The probability."""
        return f"p={self.p}"


class Sequential(Module):
    """Modules that are called one after the other: each gets the output of the one before it.

    Its parts are named 0, 1, 2, ... as in PyTorch, or as in a dictionary that is given instead.
    """

    def __init__(self, *modules):
        named = modules[0].items() if len(modules) == 1 and isinstance(modules[0], dict) else enumerate(modules)
        for name, module in named:
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: part {name} is a {type(module).__name__}, expected a Module")
            setattr(self, str(name), module)

    def _parts(self):
        return [thing for thing in vars(self).values() if isinstance(thing, Module)]

    def forward(self, x):
        """What the last part makes of x."""
        for module in self._parts():
            x = module(x)
        return x

    def __len__(self):
        """The number of parts."""
        return len(self._parts())

    def __getitem__(self, index):
        """The part at a place, or the Sequential of the parts in a slice."""
        parts = self._parts()[index]
        return Sequential(*parts) if isinstance(index, slice) else parts


class ModuleList(list):
    """A list of modules. `Module` finds what any list holds, so it needs nothing that a list lacks."""


class ModuleDict(dict):
    """A dictionary of modules, whose entries are also attributes, as in PyTorch."""

    def __getattr__(self, name):
        """The entry of that name. Raises AttributeError where there is none."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"ModuleDict: there is no part {name!r}") from None


def _reduced(name, losses, reduction):
    """The losses of the examples by themselves, added up, or averaged."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', got {reduction!r}")
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _same_shape(name, input, target):
    """Raises ValueError where predictions and targets differ in shape, lest broadcasting hide it."""
    if np.shape(input) != np.shape(target):
        raise ValueError(f"{name}: input {np.shape(input)} and target {np.shape(target)} must have the same shape")


def _share(g, count, reduction):
    """What reaches each single loss of the gradient `g` of the reduced one."""
    return g / count if reduction == "mean" else g


@differentiable
def mse_loss(input, target, *, reduction="mean"):
    """The mean of (input - target)^2 over all elements; or the sum, or each ("none").

    Raises ValueError where the shapes differ: (N, 1) against (N,) would broadcast to N x N pairs.
    """
    _same_shape("mse_loss", input, target)
    difference = input - target

    def pullback(g):
        return _share(g, difference.size, reduction) * (2 * difference)

    return _reduced("mse_loss", difference * difference, reduction), (pullback, lambda g: -pullback(g))


@differentiable
def binary_cross_entropy_with_logits(input, target, *, reduction="mean"):
    """-y log s - (1 - y) log(1 - s) for s = sigmoid(input), y = target in [0, 1]: mean, sum, or each ("none").

    Raises ValueError where the shapes differ or a target lies outside 0 to 1.
    """
    name = "binary_cross_entropy_with_logits"
    _same_shape(name, input, target)
    if np.size(target) and not (np.min(target) >= 0 and np.max(target) <= 1):
        raise ValueError(f"{name}: targets lie from 0 to 1, got {np.min(target)} to {np.max(target)}")
    small = np.exp(-np.abs(input))  # at most 1, so that nothing overflows
    losses = np.maximum(input, 0) - input * target + np.log1p(small)
    probability = np.where(input >= 0, 1, small) / (1 + small)
    return _reduced(name, losses, reduction), (
        lambda g: _share(g, losses.size, reduction) * (probability - target),
        lambda g: _share(g, losses.size, reduction) * -input,
    )


@differentiable
def _cross_entropy(logits, *, target, counted, reduction, label_smoothing):
    """`cross_entropy` of logits (N, C) as one operation;
    `counted` (N,) is 1, or 0 for rows to ignore, or None for all."""
    n, classes = logits.shape
    rows, ones = np.arange(n), np.ones(classes, logits.dtype)
    shifted = logits - logits.max(1, keepdims=True) if classes else logits
    p = np.exp(shifted)
    total = p @ ones  # (N,)
    losses = np.log(total) - (1 - label_smoothing) * shifted[rows, target]
    if label_smoothing:
        losses -= label_smoothing / classes * (shifted @ ones)
    p /= total[:, None]
    count = n if counted is None else counted.sum()
    if counted is not None:
        losses = np.where(counted, losses, 0)

    def pullback(g):
        share = _share(g, count, reduction)
        share = np.broadcast_to(share, (n,)) if counted is None else np.where(counted, share, logits.dtype.type(0))
        d = p * share[:, None] if not label_smoothing else (p - label_smoothing / classes) * share[:, None]
        d[rows, target] -= (1 - label_smoothing) * share  # softmax minus one-hot
        return d

    value = losses if reduction == "none" else losses.sum()
    return value / np.asarray(count, value.dtype) if reduction == "mean" else value, pullback


def cross_entropy(input, target, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """-log softmax(input)[target]: logits (N, C) and class numbers (N,), or (N, C, d, ...) and (N, d, ...).

    `reduction` is "mean" over the targets that count, "sum", or "none". Targets equal to `ignore_index` do not count.
    `label_smoothing` moves that share of each target's probability evenly over all classes (Szegedy et al. 2016).
    Raises ValueError where lengths differ or a class does not exist, TypeError where targets are not integers.
    """
    target = np.asarray(data_of(target))
    shape = np.shape(data_of(input))
    if target.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets are class numbers, integers, got {target.dtype}")
    if len(shape) < 2 or (shape[0], *shape[2:]) != target.shape:
        raise ValueError(f"cross_entropy: logits {shape} and targets {target.shape} do not fit; "
                         "expected (N, C) and (N,)")
    if reduction not in ("mean", "sum", "none") or not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: got reduction {reduction!r}, label_smoothing {label_smoothing}; expected "
                         "'mean', 'sum' or 'none', and a share from 0 to 1")
    classes, flat = shape[1], target.reshape(-1).astype(np.int64)
    ignored = flat == ignore_index
    wrong = ~ignored & ((flat < 0) | (flat >= classes))
    if wrong.any():
        raise ValueError(f"cross_entropy: target {flat[wrong][0]} at row {np.flatnonzero(wrong)[0]} is no class; "
                         f"{classes} logits know the classes 0 to {classes - 1}")
    if len(shape) > 2:
        input = ((input if isinstance(input, Tensor) else Tensor(input))
                 .permute(0, *range(2, len(shape)), 1).reshape(-1, classes))
    counted = None
    if ignored.any():
        flat, counted = np.where(ignored, 0, flat), (~ignored).astype(np.float32)
    loss = _cross_entropy(input, target=flat, counted=counted, reduction=reduction, label_smoothing=label_smoothing)
    return loss.reshape(*target.shape) if reduction == "none" else loss


class MSELoss(Module):
    """`mse_loss` as a module."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def forward(self, input, target):
        """The loss."""
        return mse_loss(input, target, reduction=self.reduction)


class BCEWithLogitsLoss(Module):
    """`binary_cross_entropy_with_logits` as a module."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def forward(self, input, target):
        """The loss."""
        return binary_cross_entropy_with_logits(input, target, reduction=self.reduction)


class CrossEntropyLoss(Module):
    """`cross_entropy` as a module."""

    def __init__(self, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        self.options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}

    def forward(self, input, target):
        """The loss."""
        return cross_entropy(input, target, **self.options)


def accuracy(output, target):
    """The share of rows whose largest logit, in `output` (N, C), is that of the class in `target` (N,)."""
    return float(np.mean(data_of(output).argmax(1) == data_of(target)))


class _Adaptive(Optimizer):
    """What the adaptive optimisers share: they walk over each parameter in pieces that stay in the cache.

    A subclass names what it remembers, arrays of the parameter's shape, and says in `_move` how one piece moves. No
    temporary array is larger than a piece.
    """

    _remembered = ()

    def step(self):
        """Move every parameter that has a gradient by one step."""
        scratch = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not p.data.flags.c_contiguous:
                    p.data = p.data.copy()  # so that it, and what is remembered beside it, lie flat
                memory = self.state[p]
                if not memory:
                    memory["step"] = 0
                    memory.update({name: np.zeros_like(p.data) for name in self._names(group)})
                memory["step"] += 1
                flat = [a.reshape(-1)
                        for a in (p.data, data_of(p.grad), *(memory[name] for name in self._names(group)))]
                kind = p.data.dtype
                work = scratch.setdefault(kind, np.empty((2, min(_PIECE, p.data.size)), kind))
                if work.shape[1] < min(_PIECE, p.data.size):
                    work = scratch[kind] = np.empty((2, min(_PIECE, p.data.size)), kind)
                for start in range(0, p.data.size, _PIECE):
                    pieces = [a[start : start + _PIECE] for a in flat]
                    self._move(group, memory["step"], work[:, : len(pieces[0])], *pieces)

    def _names(self, group):
        return self._remembered


class RMSprop(_Adaptive):
    """Divides each gradient by the root of a running mean of its square. PyTorch's rule; arrays only.

    v = alpha v + (1 - alpha) g^2, and the parameter moves by -lr g / (sqrt(v) + eps), with g the gradient plus
    weight_decay times the parameter; with momentum that quotient is gathered in a velocity first.
    Raises ValueError for a negative setting. Tieleman and Hinton (2012), lecture 6.5.
    """

    def __init__(self, params, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0):
        if not 0 <= alpha < 1:
            raise ValueError(f"RMSprop: alpha must lie in [0, 1), got {alpha}")
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps,
                                  "weight_decay": weight_decay, "momentum": momentum})

    def _names(self, group):
        return ("square_avg", "momentum_buffer") if group["momentum"] else ("square_avg",)

    def _move(self, group, step, work, p, g, v, velocity=None):
        a, b = work
        if group["weight_decay"]:
            np.multiply(p, group["weight_decay"], out=b)
            g = np.add(b, g, out=b)
        v *= group["alpha"]
        np.multiply(g, g, out=a)
        a *= 1 - group["alpha"]
        v += a
        np.sqrt(v, out=a)
        a += group["eps"]
        np.divide(g, a, out=a)
        if velocity is not None:
            velocity *= group["momentum"]
            velocity += a
            a[...] = velocity
        a *= group["lr"]
        p -= a


class Adam(_Adaptive):
    """Steps by a running mean of the gradient over the root of a running mean of its square. Arrays only.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2; both start at zero, so at step t they are divided by 1 - b1^t and
    1 - b2^t; the parameter moves by -lr m / (sqrt(v) + eps). `weight_decay` times the parameter is added to g.
    Raises ValueError for a negative setting. Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    _remembered = ("exp_avg", "exp_avg_sq")
    _decoupled = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{type(self).__name__}: betas must lie in [0, 1), got {tuple(betas)}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def _move(self, group, step, work, p, g, m, v):
        a, b = work
        lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], float(group["weight_decay"])
        if decay and self._decoupled:
            p *= 1 - lr * decay
        elif decay:
            np.multiply(p, decay, out=b)
            g = np.add(b, g, out=b)
        m *= beta1
        np.multiply(g, 1 - beta1, out=a)
        m += a
        v *= beta2
        np.multiply(g, g, out=a)
        a *= 1 - beta2
        v += a
        correction = (1 - beta2**step) ** 0.5
        np.sqrt(v, out=a)
        a += group["eps"] * correction
        np.divide(m, a, out=a)
        a *= lr * correction / (1 - beta1**step)
        p -= a


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter directly, by lr times weight_decay of itself, before the step.

    The decay is then the same for all parameters, whatever the size of their gradients.
    Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """

    _decoupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr, betas, eps, weight_decay)


def clip_grad_norm_(parameters, max_norm, *, error_if_nonfinite=False):
    """Shorten all gradients by one common factor so that together they are at most `max_norm` long.

    Returns the length that they had, as a float. Raises ValueError for a negative `max_norm`, and, where asked to,
    RuntimeError if the length is not finite. Pascanu, Mikolov and Bengio (2013).
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm}")
    parameters = [parameters] if hasattr(parameters, "grad") else parameters
    gradients = [data_of(p.grad) for p in parameters if p.grad is not None]
    flat = [g.reshape(-1) for g in gradients]
    total = float(sum(float(np.dot(g, g)) for g in flat)) ** 0.5
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"clip_grad_norm_: the gradients have the length {total}")
    factor = max_norm / (total + 1e-6)
    if not factor >= 1:
        for g in gradients:
            g *= factor
    return total


class LRScheduler:
    """Sets an optimiser's learning rates as a function of how often `step` was called; a subclass says how in `rate`.

    The first rate is set on construction. Each group's own `lr` at that time is what the schedule starts from.
    Structure and names are those of ``torch.optim.lr_scheduler``.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.set_count(0)

    def rate(self, count, base_lr):
        """The learning rate after `count` calls of `step`, for a group that began with `base_lr`."""
        raise NotImplementedError(f"{type(self).__name__}: it has no method rate")

    def set_count(self, count):
        """Go to the place in the schedule that `count` calls of `step` reach."""
        self.last_epoch = count
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(count, base_lr)

    def step(self):
        """Go one place on in the schedule."""
        self.set_count(self.last_epoch + 1)

    def get_last_lr(self):
        """The rates that are set now, one for each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self):
        """Where the schedule stands."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict):
        """Go to where another run of the same schedule stood."""
        self.base_lrs = list(state_dict["base_lrs"])
        self.set_count(state_dict["last_epoch"])


class StepLR(LRScheduler):
    """Multiplies the rate by `gamma` every `step_size` steps."""

    def __init__(self, optimizer, step_size, gamma=0.1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, count, base_lr):
        """A staircase."""
        return base_lr * self.gamma ** (count // self.step_size)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine wave from the first rate down to `eta_min` in `T_max` steps. Loshchilov and Hutter (2017)."""

    def __init__(self, optimizer, T_max, eta_min=0.0):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, count, base_lr):
        """Slow at both ends, fast in the middle."""
        return self.eta_min + (base_lr - self.eta_min) * (1 + cos(pi * count / self.T_max)) / 2


class LinearLR(LRScheduler):
    """A straight line from `start_factor` to `end_factor` times the first rate, in `total_iters` steps: a warm-up."""

    def __init__(self, optimizer, start_factor=1 / 3, end_factor=1.0, total_iters=5):
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, count, base_lr):
        """A ramp, then level."""
        share = min(count, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * share)


class LambdaLR(LRScheduler):
    """Multiplies the first rate by `lr_lambda(count)`, any function of the number of steps."""

    def __init__(self, optimizer, lr_lambda):
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def rate(self, count, base_lr):
        """Whatever the function says."""
        return base_lr * self.lr_lambda(count)


class SequentialLR(LRScheduler):
    """One schedule after the other: `schedulers[i]` begins, at its own beginning,
    when `milestones[i - 1]` is reached."""

    def __init__(self, optimizer, schedulers, milestones):
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, "
                             f"got {len(milestones)}")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rate(self, count, base_lr):
        """What the schedule in force says."""
        current = bisect_right(self.milestones, count)
        return self.schedulers[current].rate(count - ([0, *self.milestones])[current], base_lr)


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to `max_lr`, then far down; the momentum goes the other way. One `step` per batch.

    The rise takes `pct_start` of the `total_steps` (or epochs * steps_per_epoch), each part along half a cosine wave.
    The last rate is max_lr / div_factor / final_div_factor. Momentum, or Adam's first beta, falls from `max_momentum`
    to `base_momentum` and rises again, unless `cycle_momentum` is False.
    Raises ValueError past the last step. Smith and Topin (2018), Super-convergence.
    """

    def __init__(self, optimizer, max_lr, total_steps=None, epochs=None, steps_per_epoch=None, pct_start=0.3,
                 cycle_momentum=True, base_momentum=0.85, max_momentum=0.95, div_factor=25.0, final_div_factor=1e4):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: expected total_steps, or both epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        self.max_lr, self.total_steps, self.pct_start = max_lr, total_steps, pct_start
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.momenta = (max_momentum, base_momentum) if cycle_momentum else None
        if cycle_momentum and not all("betas" in g or g.get("momentum", 0) > 0 for g in optimizer.param_groups):
            raise ValueError("OneCycleLR: cycle_momentum needs an optimiser with momentum or betas")
        super().__init__(optimizer)

    def _along(self, count, start, top, end):
        """From `start` to `top` and on to `end`, along two half cosine waves."""
        if count > self.total_steps:
            raise ValueError(f"OneCycleLR: the cycle has {self.total_steps} steps, step number {count + 1} was asked for")
        peak = self.pct_start * self.total_steps - 1
        if count <= peak:
            share, low, high = count / peak, start, top
        else:
            share, low, high = (count - peak) / (self.total_steps - 1 - peak), top, end
        return high + (low - high) * (1 + cos(pi * share)) / 2

    def rate(self, count, base_lr):
        """Up, then down."""
        start = self.max_lr / self.div_factor
        return self._along(count, start, self.max_lr, start / self.final_div_factor)

    def set_count(self, count):
        """Go to a place in the cycle; sets the momentum, too."""
        LRScheduler.set_count(self, count)
        if self.momenta:
            most, least = self.momenta
            momentum = self._along(count, most, least, most)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class TensorDataset:
    """Arrays of equal length, row by row: `dataset[rows]` is the tuple of these rows of each.

    Raises ValueError where there is no array, or their lengths differ.
    """

    def __init__(self, *arrays):
        self.arrays = tuple(np.asarray(data_of(a)) for a in arrays)
        if not self.arrays or 0 in {a.ndim for a in self.arrays} or len({len(a) for a in self.arrays}) != 1:
            raise ValueError("TensorDataset: expected arrays of one length, "
                             f"got shapes {[a.shape for a in self.arrays]}")

    def __len__(self):
        """The number of rows."""
        return len(self.arrays[0])

    def __getitem__(self, rows):
        """One row of each array, or many where `rows` is an array or a slice."""
        return tuple(a[rows] for a in self.arrays)


class DataLoader:
    """Cuts a data set into batches, tuples of tensors; each pass over the loader is an epoch.

    `dataset` is a `TensorDataset`, a tuple of arrays, or anything with a length whose items are tuples of equally
    shaped numbers. With `shuffle` each epoch has a new order, drawn from `generator`, a NumPy generator or a seed;
    without one from the engine's own. `drop_last` leaves out a last batch that is not full.
    `transform` is called with the arrays of a batch and returns those to use instead: there bytes become floats,
    and pictures are moved about.
    Raises ValueError for an empty data set and for a batch size below 1.
    """

    def __init__(self, dataset, batch_size=1, shuffle=False, *, drop_last=False, generator=None, transform=None):
        self.dataset = TensorDataset(*dataset) if isinstance(dataset, tuple) else dataset
        if not len(self.dataset):
            raise ValueError("DataLoader: the data set is empty")
        if batch_size < 1 or int(batch_size) != batch_size:
            raise ValueError(f"DataLoader: batch_size is a whole number from 1, got {batch_size}")
        self.batch_size, self.shuffle, self.drop_last = int(batch_size), shuffle, drop_last
        self.generator = np.random.default_rng(generator) if generator is not None else None
        self.transform = transform

    def __len__(self):
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self):
        """One epoch."""
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = (self.generator or default_generator()).permutation(order)
        for batch in range(len(self)):
            arrays = self._rows(order[batch * self.batch_size : (batch + 1) * self.batch_size])
            arrays = self.transform(*arrays) if self.transform else arrays
            yield tuple(Tensor(a, copy=False) for a in arrays)

    def _rows(self, rows):
        if isinstance(self.dataset, TensorDataset):
            return self.dataset[rows]
        items = [self.dataset[int(row)] for row in rows]
        return tuple(np.stack([np.asarray(data_of(part)) for part in parts]) for parts in zip(*items, strict=True))


def random_shift(pictures, generator, most=1):
    """Pictures (N, H, W), each moved by up to `most` pixels along both axes, at random; zeros come in at the edges.

    `generator` is a NumPy generator. Simard, Steinkraus and Platt (2003) on such invented examples.
    """
    n, height, width = pictures.shape
    padded = np.pad(pictures, ((0, 0), (most, most), (most, most)))
    down, right = generator.integers(0, 2 * most + 1, (2, n, 1, 1))
    return padded[np.arange(n)[:, None, None], down + np.arange(height)[:, None], right + np.arange(width)]


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
           "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}


_CODES = {np.dtype(name): code for code, name in _DTYPES.items()}


class CheckpointError(ValueError):
    """A file is not the checkpoint that it should be; the message names the file and says what is wrong with it."""


def save(state_dict, path, metadata=None):
    """Write a table from names to arrays, such as a `state_dict`, as a .safetensors file.

    `metadata` is a table of texts. The file is written under a temporary name and renamed when it is whole, so that
    an interruption leaves the old one.
    Raises TypeError for a name or a text that is none, or a type the format has not.
    Format: 8 bytes, the header's length, little-endian; the header, JSON; the numbers, little-endian, without gaps.
    """
    path, header, offset, arrays = Path(path), {}, 0, {}
    for name, value in dict(state_dict).items():
        array = np.asarray(data_of(value))
        if not isinstance(name, str) or name == "__metadata__" or array.dtype.newbyteorder("<") not in _CODES:
            raise TypeError(f"save: {name!r} is a {type(value).__name__} of {array.dtype}, "
                            "which a .safetensors file cannot hold")
        arrays[name] = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise TypeError("save: metadata is a table from texts to texts")
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # the widest first: every number lies aligned
    for name in order:
        array, start, offset = arrays[name], offset, offset + arrays[name].nbytes
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [start, offset]}
    text = json.dumps({**({"__metadata__": metadata} if metadata else {}), **header}).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(arrays[name].tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path):
    """Read a .safetensors file: a table from names to NumPy arrays (bfloat16 as float32),
    as `load_state_dict` takes it.

    Raises CheckpointError where the file is truncated, foreign, or contradicts itself.
    """
    header, raw = _read(Path(path))
    return {name: _array(name, entry, raw, path) for name, entry in header.items() if name != "__metadata__"}


def load_metadata(path):
    """The table of texts that `save` was given; empty where there was none. Raises as `load` does."""
    return _read(Path(path))[0].get("__metadata__", {})


def _read(path):
    """The header and the numbers, as bytes, of a file; checked."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 10 or length > len(content) - 8:
        raise CheckpointError(f"{path}: truncated, or no .safetensors file: a header of {length} bytes is announced, "
                              f"the whole file has {len(content)}")
    try:
        header = json.loads(content[8 : 8 + length])
        places = sorted((start, stop) for name, entry in header.items() if name != "__metadata__"
                        for start, stop in [entry["data_offsets"]])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: no .safetensors file: its header cannot be read ({error})") from error
    raw, end = memoryview(bytearray(content[8 + length :])), 0
    for start, stop in places:
        if start != end or stop < start:
            raise CheckpointError(f"{path}: its arrays overlap or leave gaps at byte {end} of the numbers")
        end = stop
    if end != len(raw):
        what = "truncated" if end > len(raw) else "too long"
        raise CheckpointError(f"{path}: {what}: the header describes {end} bytes of numbers, "
                              f"the file holds {len(raw)}")
    return header, raw


def _array(name, entry, raw, path):
    """One array of a file, a writable view of the bytes that were read."""
    code, shape, (start, stop) = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
    if code not in _DTYPES and code != "BF16":
        raise CheckpointError(f"{path}: {name} is of type {code!r}, which NumPy does not have")
    dtype = np.dtype("<u2" if code == "BF16" else _DTYPES[code])
    sizes = shape if isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape) else [-1]
    if prod(sizes) * dtype.itemsize != stop - start:
        raise CheckpointError(f"{path}: {name} of shape {shape} needs another number of bytes than {stop - start}")
    array = np.frombuffer(raw[start:stop], dtype).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if code == "BF16" else array


class History:
    """The record of a training run.

    `epochs` holds one table for each epoch: epoch, step, lr, train_loss, and, where there is validation, val_loss and
    the metrics. `losses` holds the loss of every step, `norms` the length of every gradient where it was clipped.
    """

    def __init__(self):
        self.epochs, self.losses, self.norms = [], [], []

    def column(self, name):
        """One entry of all epochs, such as "val_loss", as an array; NaN where an epoch lacks it."""
        return np.array([record.get(name, np.nan) for record in self.epochs], dtype=float)

    def plot(self, axes):
        """Draw the losses into axes[0] and the metrics, or else the learning rate, into axes[1]."""
        from shared import plots

        plots.training_run(axes, self)

    def state_dict(self):
        """The whole record, for `load_state_dict`."""
        return {"epochs": [dict(record) for record in self.epochs],
                "losses": list(self.losses), "norms": list(self.norms)}

    def load_state_dict(self, state_dict):
        """Take over the record of another run."""
        self.epochs = [dict(record) for record in state_dict["epochs"]]
        self.losses, self.norms = list(state_dict["losses"]), list(state_dict["norms"])


def _pack(tree, path, arrays):
    """Nested tables, lists and numbers with every array replaced by its name; the arrays go into `arrays`."""
    if isinstance(tree, np.ndarray):
        arrays[path] = tree
        return {"array": path}
    if isinstance(tree, dict):
        return {"table": [[key, _pack(value, f"{path}.{key}", arrays)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [_pack(value, f"{path}.{i}", arrays) for i, value in enumerate(tree)]}
    return {"value": tree.item() if isinstance(tree, np.generic) else tree}


def _unpack(packed, arrays):
    """The inverse of `_pack`."""
    kind, content = next(iter(packed.items()))
    if kind == "array":
        return arrays[content]
    if kind == "table":
        return {key: _unpack(value, arrays) for key, value in content}
    return [_unpack(value, arrays) for value in content] if kind == "list" else content


class TrainingDiverged(ArithmeticError):
    """The loss or a parameter is no longer finite.

    Has `epoch`, `step`, `batch_number` and `batch`, the data itself."""

    def __init__(self, message, epoch, step, batch_number=None, batch=None):
        super().__init__(message)
        self.epoch, self.step, self.batch_number, self.batch = epoch, step, batch_number, batch


class Trainer:
    """The training loop: batches, steps, validation, early stopping, checkpoints, and a record of it all.

    Parameters
    ----------
    model, optimizer : what is trained, and what trains it.
    loss : function of (output, target) that returns a tensor holding one number. A batch is (input, ..., target).
    metrics : table from names to functions of (output, target) that return a number, averaged over validation.
    scheduler : steps after each "epoch" or each "batch", as `schedule` says.
    max_norm : length to which gradients are clipped.
    patience : stop after so many epochs without a lower validation loss.
    folder : where last.safetensors, to resume from, and best.safetensors, the best model's state_dict, are written
        after each epoch. Without a folder both are kept in memory.
    progress : function such as tqdm, called with each epoch's batches and `desc`; it returns what to iterate over.
    on_step, on_epoch : functions of the trainer, called after each step and each epoch.

    Attributes: `history`, `epoch` and `step` (both count what is done), `best_epoch`, `best_loss`, `stopped_early`.
    """

    def __init__(self, model, optimizer, loss=cross_entropy, *, metrics=None, scheduler=None, schedule="epoch",
                 max_norm=None, patience=None, folder=None, progress=None, on_step=None, on_epoch=None):
        if schedule not in ("epoch", "batch"):
            raise ValueError(f"Trainer: schedule is 'epoch' or 'batch', got {schedule!r}")
        self.model, self.optimizer, self.loss, self.metrics = model, optimizer, loss, dict(metrics or {})
        self.scheduler, self.schedule, self.max_norm, self.patience = scheduler, schedule, max_norm, patience
        self.folder = None if folder is None else Path(folder)
        self.progress, self.on_step, self.on_epoch = progress, on_step, on_epoch
        self.history, self.epoch, self.step = History(), 0, 0
        self.best_epoch, self.best_loss, self.stopped_early = None, float("inf"), False
        self._last = self._best = self._order = None

    def fit(self, train, validation=None, *, epochs):
        """Train until `epochs` epochs are done in all, earlier calls and resumed runs included; returns the history.

        `train` and `validation` give batches each time they are iterated over: a DataLoader, or a list. The model keeps
        its last parameters; `restore_best` fetches the best ones.
        Raises TrainingDiverged where the loss or a parameter stops being finite: the model then has the parameters of the
        last good epoch back.
        Raises ValueError where there are no batches, or an early stop has no validation to judge by.
        """
        if self.patience is not None and validation is None:
            raise ValueError("Trainer: patience needs validation data")
        self._restore_order(train)
        if self._last is None and (self.folder is None or self.epoch == 0):
            self._last = self._snapshot(train)  # in memory, also where the first epoch's file is still to come
        while self.epoch < epochs and not self.stopped_early:
            try:
                record = self._train_epoch(train)
                if validation is not None:
                    record.update({f"val_{name}": value for name, value in self.evaluate(validation).items()})
                self._check_finite(record)
            except TrainingDiverged:
                self._return_to_last()
                raise
            self._finish_epoch(record, train)
        return self.history

    def _last_good(self):
        """In words, what is left after a failure."""
        kept = "the start" if self.epoch == 0 else f"epoch {self.epoch}"
        return f"the parameters are those of {kept}, the last good ones"

    def _train_epoch(self, train):
        """One pass over the training batches; returns the epoch's record."""
        self.model.train()
        total = count = 0
        batches = train if self.progress is None else self.progress(train, desc=f"epoch {self.epoch + 1}")
        for number, batch in enumerate(batches):
            value, target = self._gradients(batch), batch[-1]
            if not isfinite(value):
                raise TrainingDiverged(
                    f"the loss is {value} at step {self.step}, batch {number} of epoch {self.epoch + 1}; "
                    f"{self._last_good()}",
                    self.epoch + 1, self.step, number, batch)
            if self.max_norm is not None:
                self.history.norms.append(clip_grad_norm_(self.model.parameters(), self.max_norm))
            self.optimizer.step()
            self.step += 1
            self.history.losses.append(value)
            total, count = total + value * len(target), count + len(target)
            if self.on_step:
                self.on_step(self)
            if self.scheduler and self.schedule == "batch":
                self.scheduler.step()
        if not count:
            raise ValueError("Trainer: the training data gave no batches")
        return {"train_loss": total / count}

    def _gradients(self, batch):
        """Put the gradients of a batch into the parameters; returns the batch's loss."""
        *inputs, target = batch
        loss = self.loss(self.model(*inputs), target)
        self.optimizer.zero_grad()
        loss.backward()
        return loss.item()

    def evaluate(self, batches):
        """The loss and the metrics, averaged over all examples, in evaluation mode and without a graph: a table.

        Raises ValueError where there are no batches.
        """
        training, sums, count = self.model.training, {}, 0
        self.model.eval()
        try:
            with no_grad():
                for *inputs, target in batches:
                    output = self.model(*inputs)
                    found = {"loss": self.loss(output, target).item()}
                    found.update({name: metric(output, target) for name, metric in self.metrics.items()})
                    for name, value in found.items():
                        sums[name] = sums.get(name, 0.0) + float(value) * len(target)
                    count += len(target)
        finally:
            self.model.train(training)
        if not count:
            raise ValueError("Trainer: the validation data gave no batches")
        return {name: total / count for name, total in sums.items()}

    def _check_finite(self, record):
        """Raises TrainingDiverged where the epoch's last step has spoilt the parameters, so that they are not kept."""
        spoilt = [name for name, p in self.model.named_parameters() if not np.isfinite(p.data).all()]
        if spoilt or not isfinite(record.get("val_loss", 0.0)):
            what = f"{spoilt[0]} is no longer finite" if spoilt else f"the validation loss is {record['val_loss']}"
            raise TrainingDiverged(f"{what} after epoch {self.epoch + 1}, step {self.step}; {self._last_good()}",
                                   self.epoch + 1, self.step)

    def _finish_epoch(self, record, train):
        """Write the record, keep what is to be kept, and decide whether to stop."""
        self.epoch += 1
        self.history.epochs.append(
            {"epoch": self.epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"], **record})
        if self.scheduler and self.schedule == "epoch":
            self.scheduler.step()
        better = record.get("val_loss", float("-inf")) < self.best_loss
        if better:
            self.best_epoch, self.best_loss = self.epoch, record.get("val_loss", float("inf"))
        if self.patience is not None:
            self.stopped_early = self.epoch - (self.best_epoch or 0) >= self.patience
        if self.folder is None:
            self._last = self._snapshot(train)
            self._best = self._last["model"] if better else self._best
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            if better:
                save(self.model.state_dict(), self.folder / "best.safetensors", {"epoch": str(self.epoch)})
            arrays = {}
            run = json.dumps(_pack(self._snapshot(train), "run", arrays))
            save(arrays, self.folder / "last.safetensors", {"run": run})
            self._last = None  # the file takes its place
        if self.on_epoch:
            self.on_epoch(self)

    def _snapshot(self, train):
        """Copies of everything that the rest of the run depends on."""
        order = getattr(train, "generator", None)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "history": self.history.state_dict(),
            "random": default_generator().bit_generator.state,
            "order": order.bit_generator.state if order is not None else None,
            "counts": [self.epoch, self.step, self.best_epoch, self.best_loss, self.stopped_early],
        }

    def _restore(self, run):
        """Go back to a snapshot."""
        self.model.load_state_dict(run["model"])
        self.optimizer.load_state_dict(run["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(run["scheduler"])
        self.history.load_state_dict(run["history"])
        default_generator().bit_generator.state = run["random"]
        self._order = run["order"]
        self.epoch, self.step, self.best_epoch, self.best_loss, self.stopped_early = run["counts"]

    def _restore_order(self, train):
        """Let the next epoch draw the order that it would have drawn without an interruption."""
        if self._order is not None and getattr(train, "generator", None) is not None:
            train.generator.bit_generator.state = self._order
        self._order = None

    def resume(self):
        """Go back to the end of the last whole epoch: parameters, optimiser, schedule, random numbers and record.

        A run that is interrupted and resumed ends with the same parameters as one that is not. Returns whether there was
        anything to go back to. Raises CheckpointError where the file is damaged.
        """
        if self._last is not None:
            self._restore(self._last)
            return True
        if self.folder is None:
            return False
        path = self.folder / "last.safetensors"
        if not path.exists():
            return False
        text = load_metadata(path).get("run")
        if text is None:
            raise CheckpointError(f"{path}: it holds arrays, but no run to resume")
        self._restore(_unpack(json.loads(text), load(path)))
        return True

    def _return_to_last(self):
        """After a failure: back to the last whole epoch, but keep the record of the losses that led there."""
        losses, norms = self.history.losses, self.history.norms
        if self.resume():
            self.history.losses, self.history.norms = losses, norms

    def restore_best(self):
        """Give the model the parameters of its best epoch, by validation loss. Raises ValueError where there is none."""
        if self.folder is not None and (self.folder / "best.safetensors").exists():
            best = load(self.folder / "best.safetensors")
        else:
            best = self._best
        if best is None:
            raise ValueError("Trainer: no epoch has been finished, so none is the best")
        self.model.load_state_dict(best)


def lr_range_test(model, optimizer, batches, loss=cross_entropy, *, low=1e-5, high=10.0, steps=100):
    """The loss while the learning rate grows from `low` to `high` by a constant factor a step:
    (rates, losses), (T,) each.

    Ends early where the loss is not finite or four times the lowest one. Model and optimiser are left as they were.
    Raises ValueError where there are no batches. Smith (2017), Cyclical learning rates.
    """
    kept, kept_optimizer, rates, losses = model.state_dict(), optimizer.state_dict(), [], []
    model.train()
    try:
        while len(losses) < steps:
            before = len(losses)
            for *inputs, target in batches:
                rates.append(low * (high / low) ** (len(losses) / (steps - 1)))
                for group in optimizer.param_groups:
                    group["lr"] = rates[-1]
                value = loss(model(*inputs), target)
                losses.append(value.item())
                if len(losses) == steps or not losses[-1] <= 4 * min(losses):
                    return np.array(rates), np.array(losses)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            if len(losses) == before:
                raise ValueError("lr_range_test: the data gave no batches")
    finally:
        model.load_state_dict(kept)
        optimizer.load_state_dict(kept_optimizer)
        optimizer.zero_grad()
