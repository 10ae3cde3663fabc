"""Chapter 06 against plain loops, PyTorch, its unfused twins, bad input, and what its stored networks promise."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shared
from shared import cnn, datasets, threads
from shared.cnn import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout2d,
    Flatten,
    Identity,
    LeNet,
    MaxPool2d,
    Muon,
    ResNet,
    Together,
    WhitenedNet,
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    conv2d_loops,
    conv_output_size,
    conv_transpose2d,
    cutout,
    dropout2d,
    max_pool2d,
    orthogonalise,
    random_crop,
    random_flip,
    vgg,
    whitening_filters,
)
from shared.scalar_mlp import SGD
from shared.tensor import OPERATIONS, Tensor, einsum, gradcheck, manual_seed, no_grad, pad, stack
from shared.tensor_mlp import (
    AdamW,
    DataLoader,
    LambdaLR,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    Trainer,
    cross_entropy,
    load,
)

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this chapter")
F = torch.nn.functional
ROOT = Path(shared.__file__).resolve().parent.parent
CHAPTER = ROOT / "06_CNN_Vectorised"

drawn = settings(derandomize=True, deadline=None, database=None, max_examples=100,
                 suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
seeds = st.integers(0, 2**31)
batches = st.sampled_from([0, 1, 2, 3, 5])
LAYOUTS = ("plain", "channels last", "sliced", "reversed")


def numbers(seed, *shape, dtype=np.float64):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def laid_out(array, layout):
    """The same numbers, otherwise in memory."""
    if layout == "channels last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "sliced":
        wide = np.full(tuple(2 * n + 1 for n in array.shape), np.nan, array.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    every = (slice(None, None, -1),) * array.ndim
    return array[every].copy()[every] if layout == "reversed" else array


def close(ours, theirs, tolerance, what=""):
    """Two arrays are equal up to a share of the largest number in them."""
    theirs = np.asarray(theirs)
    finite = np.abs(theirs[np.isfinite(theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * finite.max(initial=0), err_msg=what)


def compare(ours, theirs, *arrays, layout="plain", tolerance=None):
    """Ours and PyTorch's function of the same arrays have the same value, and the same gradient of each array."""
    tolerance = tolerance or (1e-10 if arrays[0].dtype == np.float64 else 1e-5)
    leaves = [Tensor(laid_out(a, layout), requires_grad=True, copy=False) for a in arrays]
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, t = ours(*leaves), theirs(*others)
    assert y.shape == tuple(t.shape) and y.dtype == arrays[0].dtype
    upstream = numbers(len(arrays), *y.shape, dtype=y.dtype)
    y.backward(laid_out(upstream, layout))
    t.backward(torch.tensor(upstream))
    close(y.data, t.detach(), tolerance, "value")
    for i, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
        assert leaf.grad.dtype == leaf.dtype
        close(leaf.grad, other.grad, tolerance, f"gradient of input {i}")


# ---- convolution and pooling: plain loops, PyTorch ----


@st.composite
def pairs(draw, low, high):
    """Two whole numbers."""
    return draw(st.integers(low, high)), draw(st.integers(low, high))


@st.composite
def convolutions(draw, channels_in_weight=True):
    """Arrays (pictures, weight, bias or none) and settings of a convolution whose windows fit, drawn apart."""
    groups, kernel = draw(st.sampled_from([1, 1, 2, 3])), draw(pairs(1, 4))
    stride, padding, dilation = draw(pairs(1, 3)), draw(pairs(0, 4)), draw(pairs(1, 3))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [n + draw(st.integers(0, 5)) for n in least]
    c, o = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = [(draw(batches), groups * c, *size), (groups * o, c, *kernel), (groups * o,)][: draw(st.integers(2, 3))]
    seed, dtype = draw(seeds), draw(st.sampled_from(["float64", "float64", "float32"]))
    arrays = [numbers(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
    return arrays, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


@settings(drawn, max_examples=150)
@given(convolutions(), st.sampled_from(LAYOUTS))
def test_conv2d_equals_pytorch(case, layout):
    arrays, options = case
    compare(lambda *inputs: conv2d(*inputs, **options), lambda *inputs: F.conv2d(*inputs, **options), *arrays, layout=layout)


@settings(drawn, max_examples=30)
@given(convolutions())
def test_conv2d_equals_plain_loops(case):
    arrays, options = case
    y = conv2d(*map(Tensor, arrays), **options)
    tolerance = 1e-12 if y.dtype == np.float64 else 1e-5
    close(y.data, conv2d_loops(*arrays, **options), tolerance)
    size = zip(arrays[0].shape[2:], arrays[1].shape[2:], *[options[name] for name in ("stride", "padding", "dilation")],
               strict=True)
    assert y.shape[2:] == tuple(conv_output_size(*along) for along in size)


@pytest.mark.parametrize(("padding", "kernel", "dilation"), [("valid", (3, 2), (1, 2)), ("same", (3, 5), (2, 1)), ("same", 1, 1)])
def test_conv2d_takes_the_paddings_that_have_names(padding, kernel, dilation):
    size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    options = {"padding": padding, "dilation": dilation}
    compare(lambda *inputs: conv2d(*inputs, **options), lambda *inputs: F.conv2d(*inputs, **options),
            numbers(0, 2, 3, 9, 8), numbers(1, 4, 3, *size), numbers(2, 4))
    layer = Conv2d(3, 4, kernel, padding=padding, dilation=dilation)
    expected = (9, 8) if padding == "same" else (7, 6)
    assert layer(Tensor(numbers(0, 2, 3, 9, 8, dtype=np.float32))).shape == (2, 4, *expected)


@settings(drawn, max_examples=80)
@given(convolutions(), st.sampled_from(LAYOUTS), pairs(0, 2))
def test_conv_transpose2d_equals_pytorch(case, layout, extra):
    """The drawn pictures are its output here, so that they always fit; its input has the size of the convolution's output."""
    (pictures, weight, *bias), options = case
    size = conv2d(pictures, weight, **options).shape
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, options["stride"], options["dilation"], strict=True))
    options |= {"output_padding": extra}
    reach = [(m - 1) * s - 2 * p + d * (k - 1) + e + 1 for m, s, p, d, k, e in zip(
        size[2:], options["stride"], options["padding"], options["dilation"], weight.shape[2:], extra, strict=True)]
    if min(reach) < 1:
        return
    arrays = [numbers(7, *size, dtype=weight.dtype), weight]
    if bias:
        arrays.append(numbers(8, weight.shape[1] * options["groups"], dtype=weight.dtype))
    compare(lambda *inputs: conv_transpose2d(*inputs, **options),
            lambda *inputs: F.conv_transpose2d(*inputs, **options), *arrays, layout=layout)


def test_conv_transpose2d_is_the_transpose_of_conv2d():
    """<conv2d(x), y> = <x, conv_transpose2d(y)> for all x and y, which is what the word means."""
    options = {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2}
    x, weight = numbers(0, 3, 4, 9, 11), numbers(1, 6, 2, 3, 4)
    y = numbers(2, *conv2d(x, weight, **options).shape)
    sizes = conv_transpose2d(y, weight, **options).shape[2:]
    back = conv_transpose2d(y, weight, **options, output_padding=tuple(a - b for a, b in zip((9, 11), sizes, strict=True)))
    assert np.vdot(conv2d(x, weight, **options).data, y) == pytest.approx(np.vdot(x, back.data), rel=1e-12)


def pool_loops(x, kernel, stride, padding, dilation, take):
    """`take` of the list of numbers that each window sees; the padding, which is no number, is left out."""
    (n, c, height, width), count = x.shape, [conv_output_size(*along) for along in zip(
        x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    y = np.empty((n, c, *count), x.dtype)
    for b, k, i, j in np.ndindex(*y.shape):
        rows = [i * stride[0] - padding[0] + u * dilation[0] for u in range(kernel[0])]
        columns = [j * stride[1] - padding[1] + v * dilation[1] for v in range(kernel[1])]
        y[b, k, i, j] = take([x[b, k, r, q] for r in rows if 0 <= r < height for q in columns if 0 <= q < width])
    return y


@st.composite
def poolings(draw, ties=False):
    """Pictures and settings of a pooling whose windows fit; with `ties` most windows hold several equal numbers."""
    kernel, stride = draw(pairs(1, 4)), draw(pairs(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = draw(pairs(1, 2)) if padding == (0, 0) else (1, 1)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    shape = (draw(batches), draw(st.integers(1, 3)), *[n + draw(st.integers(0, 5)) for n in least])
    x = numbers(draw(seeds), *shape, dtype=draw(st.sampled_from(["float64", "float32"])))
    return np.round(x) if ties else x, kernel, stride, padding, dilation


@drawn
@given(poolings(), st.sampled_from(LAYOUTS), st.booleans())
def test_pooling_equals_pytorch(case, layout, count_include_pad):
    x, kernel, stride, padding, dilation = case
    compare(lambda x: max_pool2d(x, kernel, stride, padding, dilation),
            lambda x: F.max_pool2d(x, kernel, stride, padding, dilation), x, layout=layout)
    if dilation == (1, 1):
        compare(lambda x: avg_pool2d(x, kernel, stride, padding, count_include_pad),
                lambda x: F.avg_pool2d(x, kernel, stride, padding, False, count_include_pad), x, layout=layout)


@settings(drawn, max_examples=30)
@given(poolings())
def test_pooling_equals_plain_loops(case):
    x, kernel, stride, padding, dilation = case
    close(max_pool2d(x, kernel, stride, padding, dilation).data,
          pool_loops(x, kernel, stride, padding, dilation, functools.partial(max, default=-np.inf)), 0)
    if dilation == (1, 1):
        many = kernel[0] * kernel[1]
        for include, take in ((True, lambda seen: sum(seen) / many), (False, np.mean)):
            close(avg_pool2d(x, kernel, stride, padding, include).data, pool_loops(x, *case[1:], take), 1e-6)


@settings(drawn, max_examples=60)
@given(poolings(ties=True))
def test_equal_numbers_in_a_window_send_the_gradient_where_pytorch_does(case):
    x, *options = case
    compare(lambda x: max_pool2d(x, *options), lambda x: F.max_pool2d(x, *options), x)


def test_the_first_of_equal_numbers_gets_the_whole_gradient():
    x = Tensor(np.zeros((1, 1, 4, 4)), requires_grad=True)
    max_pool2d(x, 2).backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    np.testing.assert_array_equal(x.grad[0, 0], [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_pooling_passes_strange_numbers_on(strange):
    x = numbers(0, 2, 3, 6, 6)
    x[0, 1, 2, 3] = x[1, 2, 5, 5] = strange
    for ours, theirs in ((lambda x: max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1)),
                         (lambda x: avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2))):
        np.testing.assert_allclose(ours(Tensor(x)).data, theirs(torch.tensor(x)).numpy(), rtol=1e-12)
    assert max_pool2d(np.full((1, 1, 2, 2), -np.inf), 2).item() == -np.inf


@settings(drawn, max_examples=40)
@given(batches, st.integers(1, 3), pairs(1, 7), pairs(1, 9), st.sampled_from(LAYOUTS), seeds)
def test_adaptive_pooling_equals_pytorch(n, c, size, output, layout, seed):
    compare(lambda x: adaptive_avg_pool2d(x, output), lambda x: F.adaptive_avg_pool2d(x, output),
            numbers(seed, n, c, *size), layout=layout)


@pytest.fixture(params=[(1, 1), (1, 5000), (2, 5000), (3, 1), (2, 1 << 30)], ids=lambda p: f"{p[0]} threads, {p[1]} bytes")
def divided(request, monkeypatch):
    """The batch goes through a number of threads, in blocks of a number of bytes: 1 is a picture, 1 << 30 everything."""
    count, cache, slices = *request.param, []
    blocks = cnn._blocks

    def watched(start, stop, bytes_each):
        found = blocks(start, stop, bytes_each)
        slices.append((start, stop, found))
        return found

    monkeypatch.setattr(threads, "thread_count", lambda: count)
    monkeypatch.setattr(threads, "_workers", functools.cache(threads._workers.__wrapped__))
    monkeypatch.setattr(cnn, "_CACHE", cache)
    monkeypatch.setattr(cnn, "_least", lambda *sizes: 1)
    monkeypatch.setattr(cnn, "_blocks", watched)
    yield count, cache
    assert {start for start, _, _ in slices} - {0} or count == 1  # several threads had a share
    assert cache == 1 << 30 or any(len(found) > 1 for _, _, found in slices)
    if count > 1:
        threads._workers()[0].shutdown()


def test_blocks_and_threads_change_nothing(divided):
    """A batch of seven, so that both the threads' shares and the blocks are uneven; no picture may be lost or come twice."""
    x = numbers(0, 7, 4, 9, 8)
    for options in ({"padding": 1}, {"stride": (2, 1), "padding": (0, 3)}, {"groups": 2, "dilation": 2}, {"padding": 4}):
        weight = numbers(1, 6, 4 // options.get("groups", 1), 3, 2)
        compare(lambda *i, o=options: conv2d(*i, **o), lambda *i, o=options: F.conv2d(*i, **o), x, weight, numbers(2, 6))
    for options in ({"stride": 2, "output_padding": 1}, {"groups": 2}):
        compare(lambda *i, o=options: conv_transpose2d(*i, **o), lambda *i, o=options: F.conv_transpose2d(*i, **o),
                x, numbers(3, 4, 3, 3, 2))
    for ours, theirs in ((max_pool2d, F.max_pool2d), (avg_pool2d, F.avg_pool2d)):
        compare(lambda x, f=ours: f(x, 3, 2, 1), lambda x, f=theirs: f(x, 3, 2, 1), np.round(x))
    for training in (True, False):
        compare(lambda x, w, b, t=training: batch_norm(x, np.zeros(4), np.ones(4), w, b, t),
                lambda x, w, b, t=training: F.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double(), w, b, t),
                x, numbers(4, 4), numbers(5, 4))


def test_convolving_needs_little_more_memory_than_its_result():
    """The column matrix of the whole batch, 38 MB here, is never made; nor is it kept for the way back."""
    x, weight = Tensor(numbers(0, 64, 16, 32, 32, dtype=np.float32), requires_grad=True), numbers(1, 16, 16, 3, 3, dtype=np.float32)
    weight, size = Tensor(weight, requires_grad=True), x.data.nbytes
    conv2d(x, weight, padding=1)
    tracemalloc.start()
    try:
        y = conv2d(x, weight, padding=1)
        kept, peak = tracemalloc.get_traced_memory()
        assert peak < 2.5 * size and kept < 2.2 * size  # the pictures in another order, and the result
        tracemalloc.reset_peak()
        y.backward(y.data)
        assert tracemalloc.get_traced_memory()[1] - kept < 4 * size
    finally:
        tracemalloc.stop()


# ---- gradients: difference quotients, one input at a time, unfused twins ----


def distinct(seed, *shape):
    """Numbers of which no two are closer than a difference quotient's step, so that no maximum changes hands."""
    return np.random.default_rng(seed).permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)


CASES = {  # name: [(function of the inputs, inputs), ...]
    "conv2d": [(functools.partial(conv2d, **options), [numbers(0, 3, 4, *size), numbers(1, 6, 4 // groups, 3, 2), numbers(2, 6)])
               for size, groups, options in (
                   ((5, 4), 1, {"padding": 1}), ((4, 3), 1, {}), ((4, 3), 1, {"padding": (3, 1)}),
                   ((7, 6), 2, {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 3), "groups": 2}),
                   ((4, 3), 1, {"stride": 3}))],
    "conv_transpose2d": [(functools.partial(conv_transpose2d, **options),
                          [numbers(0, 2, 4, 3, 4), numbers(1, 4, 3, 3, 2), numbers(2, 3 * options.get("groups", 1))])
                         for options in ({}, {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)},
                                         {"groups": 2, "dilation": (1, 2), "padding": 1})],
    "max_pool2d": [(functools.partial(max_pool2d, **options), [distinct(0, 2, 3, 5, 6)]) for options in (
        {"kernel_size": 2}, {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1},
        {"kernel_size": 2, "stride": 1, "dilation": 2})],
    "avg_pool2d": [(functools.partial(avg_pool2d, **options), [numbers(0, 2, 3, 5, 6)]) for options in (
        {"kernel_size": 2}, {"kernel_size": 3, "stride": (1, 2), "padding": 1},
        {"kernel_size": (2, 3), "stride": 2, "padding": 1, "count_include_pad": False})],
    "adaptive_avg_pool2d": [(functools.partial(adaptive_avg_pool2d, output_size=size), [numbers(0, 2, 3, 5, 6)])
                            for size in (1, (2, 4), (7, 3))],
    "batch_norm": [(lambda x, w, b, training=training: batch_norm(x, np.full(3, 0.5), np.full(3, 2.0), w, b, training),
                    [numbers(0, *shape), numbers(1, 3), numbers(2, 3)]) for shape in ((5, 3), (2, 3, 3, 2)) for training in (True, False)],
    "dropout2d": [(lambda x: dropout2d(x, 0.4, generator=np.random.default_rng(1)), [numbers(0, 3, 4, 2, 2)])],
}
EVERY = [pytest.param(*case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def gradients(function, arrays, wanted, upstream=None):
    """The result of a function, and the gradients of its inputs; None for those that are not wanted."""
    leaves = [Tensor(a, requires_grad=i in wanted) for i, a in enumerate(arrays)]
    y = function(*leaves)
    y.backward(numbers(9, *y.shape, dtype=y.dtype) if upstream is None else upstream)
    return y, [leaf.grad for leaf in leaves]


def test_every_operation_of_the_chapter_has_cases():
    assert set(CASES) == {name for name, operation in OPERATIONS.items() if operation.__module__ == "shared.cnn"}


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_gradients_equal_difference_quotients(function, arrays):
    assert gradcheck(function, tuple(Tensor(a, requires_grad=True) for a in arrays))


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_some_inputs_alone_get_the_gradients_they_get_in_company(function, arrays):
    everyone = range(len(arrays))
    _, company = gradients(function, arrays, everyone)
    for wanted in [[i] for i in everyone] + [[i for i in everyone if i != left] for left in everyone if len(arrays) > 1]:
        _, found = gradients(function, arrays, wanted)
        for i in everyone:
            assert (found[i] is None) == (i not in wanted)
            if i in wanted:
                np.testing.assert_allclose(found[i], company[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_float32_stays_float32_and_agrees_with_float64(function, arrays):
    y, found = gradients(function, [a.astype(np.float32) for a in arrays], range(len(arrays)))
    value, expected = gradients(function, arrays, range(len(arrays)), numbers(9, *y.shape, dtype=np.float32).astype(float))
    assert {y.dtype, *(g.dtype for g in found)} == {np.dtype("float32")}
    for ours, theirs in zip((y.data, *found), (value.data, *expected), strict=True):
        close(ours, theirs, 2e-5)


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_nothing_given_is_changed_and_a_second_way_back_adds_the_same(function, arrays):
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y = function(*leaves)
    value, upstream = y.data.copy(), numbers(9, *y.shape)
    given = upstream.copy()
    y.backward(given, retain_graph=True)
    first = [leaf.grad.copy() for leaf in leaves]
    y.backward(given)
    np.testing.assert_array_equal(y.data, value)
    np.testing.assert_array_equal(given, upstream)
    for leaf, array, gradient in zip(leaves, arrays, first, strict=True):
        np.testing.assert_array_equal(leaf.data, array)
        np.testing.assert_array_equal(leaf.grad, 2 * gradient)
        assert not np.shares_memory(leaf.grad, leaf.data) and not np.shares_memory(leaf.grad, y.data)


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_a_batch_without_pictures_gives_gradients_of_zero(function, arrays):
    if getattr(function, "__defaults__", None) == (True,):
        return  # batch norm in training, which refuses it
    none = arrays[0][:0]
    y, found = gradients(function, [none, *arrays[1:]], range(len(arrays)))
    assert len(y.data) == 0 and found[0].shape == none.shape
    for gradient, array in zip(found[1:], arrays[1:], strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(array.shape))


@pytest.mark.parametrize(("name", "case", "wanted", "work"), [
    ("conv2d", 0, [0, 1, 2], ["_turned_gradients"]), ("conv2d", 0, [0], ["_input_gradient"]),
    ("conv2d", 0, [1, 2], ["_weight_gradient"]), ("conv2d", 0, [2], []), ("conv2d", 4, [0, 1], ["_input_gradient", "_weight_gradient"]),
    ("conv_transpose2d", 0, [0], ["_convolve"]), ("conv_transpose2d", 0, [1], ["_weight_gradient"]),
    ("conv_transpose2d", 0, [2], []), ("conv_transpose2d", 0, [0, 1, 2], ["_convolve", "_weight_gradient"]),
])
def test_gradients_that_nobody_wants_are_not_computed(name, case, wanted, work, monkeypatch):
    """The pictures of the first layer need none, fixed filters neither: that is half of the work on the way back."""
    function, arrays = CASES[name][case]
    leaves, done = [Tensor(a, requires_grad=i in wanted) for i, a in enumerate(arrays)], []
    y = function(*leaves)
    for helper in ("_convolve", "_input_gradient", "_weight_gradient", "_turned_gradients"):
        def noted(*inputs, rule=getattr(cnn, helper), helper=helper):
            done.append(helper)
            return rule(*inputs)
        monkeypatch.setattr(cnn, helper, noted)
    y.backward(y.data)
    assert sorted(done) == work


def taps(x, kernel, stride, padding, dilation, fill=0.0):
    """What the windows see at each of their places, by padding and slices: a list of (N, C, rows, columns) tensors."""
    (top, left), (down, right), (across, along) = padding, stride, dilation
    rows, columns = (conv_output_size(*each) for each in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True))
    x = pad(x, (left, left, top, top), value=fill)
    return [x[:, :, i * across : i * across + down * (rows - 1) + 1 : down, j * along : j * along + right * (columns - 1) + 1 : right]
            for i in range(kernel[0]) for j in range(kernel[1])]


def twin_of_conv2d(x, weight, bias, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """`conv2d` by padding, slices and einsum."""
    windows = stack(taps(x, weight.shape[2:], stride, padding, dilation), dim=2)  # (N, C, kh kw, rows, columns)
    return einsum("nckij,ock->noij", windows, weight.reshape(*weight.shape[:2], -1)) + bias.reshape(1, -1, 1, 1)


def twin_of_batch_norm(x, weight, bias, eps=1e-5):
    """`batch_norm` in training by mean and variance."""
    dims, shape = ((0,), (1, -1)) if x.ndim == 2 else ((0, 2, 3), (1, -1, 1, 1))
    normal = (x - x.mean(dim=dims, keepdim=True)) / (x.var(dim=dims, keepdim=True, correction=0) + eps).sqrt()
    return normal * weight.reshape(shape) + bias.reshape(shape)


FOUR = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
POOL = ((3, 2), (2, 1), (1, 1), (1, 1))
TWINS = {
    "conv2d": (functools.partial(conv2d, **FOUR), functools.partial(twin_of_conv2d, **FOUR),
               [numbers(0, 3, 4, 6, 7), numbers(1, 5, 4, 3, 2), numbers(2, 5)]),
    "conv2d, stride 1": (functools.partial(conv2d, padding=(1, 0)), functools.partial(twin_of_conv2d, padding=(1, 0)),
                         [numbers(0, 3, 4, 6, 7), numbers(1, 5, 4, 3, 2), numbers(2, 5)]),
    "batch_norm of pictures": (lambda x, w, b: batch_norm(x, None, None, w, b, True), twin_of_batch_norm,
                               [numbers(0, 5, 3, 4, 2), numbers(1, 3), numbers(2, 3)]),
    "batch_norm of rows": (lambda x, w, b: batch_norm(x, None, None, w, b, True), twin_of_batch_norm,
                           [numbers(0, 7, 3), numbers(1, 3), numbers(2, 3)]),
    "max_pool2d": (lambda x: max_pool2d(x, *POOL), lambda x: stack(taps(x, *POOL, fill=-np.inf)).max(dim=0)[0],
                   [numbers(0, 3, 2, 7, 6)]),
    "max_pool2d with ties": (lambda x: max_pool2d(x, *POOL), lambda x: stack(taps(x, *POOL, fill=-np.inf)).max(dim=0)[0],
                             [np.round(numbers(0, 3, 2, 7, 6))]),
    "avg_pool2d": (lambda x: avg_pool2d(x, *POOL[:3]), lambda x: stack(taps(x, *POOL)).mean(dim=0), [numbers(0, 3, 2, 7, 6)]),
    "adaptive_avg_pool2d": (lambda x: adaptive_avg_pool2d(x, (2, 3)), lambda x: x.reshape(3, 2, 2, 4, 3, 2).mean(dim=(3, 5)),
                            [numbers(0, 3, 2, 8, 6)]),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_fused_operation_equals_its_unfused_twin(name):
    fused, unfused, arrays = TWINS[name]
    (y, found), (value, expected) = (gradients(f, arrays, range(len(arrays))) for f in (fused, unfused))
    for ours, theirs in zip((y.data, *found), (value.data, *expected), strict=True):
        close(ours, theirs, 1e-11)
