"""Chapter 06 against plain loops, PyTorch, its unfused twins, bad input, and what its stored networks promise."""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shared
from shared import cnn, datasets, threads
from shared.cnn import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout2d,
    Flatten,
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


@st.composite
def convolutions_by_tiles(draw):
    """Arrays and settings of a convolution with kernels of 3 x 3 at stride 1."""
    groups, padding = draw(st.sampled_from([1, 1, 2])), draw(pairs(0, 4))
    size = [max(1, 3 - 2 * p) + draw(st.integers(0, 10)) for p in padding]
    c, o, seed = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(seeds)
    dtype = draw(st.sampled_from(["float64", "float32"]))
    shapes = [(draw(batches), groups * c, *size), (groups * o, c, 3, 3), (groups * o,)][: draw(st.integers(2, 3))]
    return [numbers(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)], {"padding": padding, "groups": groups}


@settings(drawn, max_examples=60)
@given(convolutions_by_tiles(), st.sampled_from(LAYOUTS))
def test_convolution_by_tiles_equals_pytorch_and_plain_loops(case, layout):
    """Few channels do not take this way by themselves: here they have to."""
    arrays, options = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnn, "_tiles_pay", lambda weight, windows, dtype: True)
        for direct in ("_convolve", "_turned_gradients", "_input_gradient", "_weight_gradient"):
            patch.delattr(cnn, direct)
        compare(lambda *inputs: conv2d(*inputs, **options), lambda *inputs: F.conv2d(*inputs, **options), *arrays, layout=layout)
        if arrays[0].size < 200:
            tolerance = 1e-5 if arrays[0].dtype == np.float32 else 1e-12
            close(conv2d(*arrays, **options).data, conv2d_loops(*arrays, **options), tolerance)


@pytest.mark.parametrize(("channels", "outputs", "size", "options", "dtype", "expected"), [
    (24, 24, (3, 3), {"padding": 1}, "float32", True), (256, 64, (7, 9), {}, "float64", True),
    (23, 24, (8, 8), {}, "float32", False), (24, 23, (8, 8), {}, "float32", False),
    (24, 24, (4, 4), {}, "float32", False), (24, 24, (5, 5), {}, "float32", True),  # 2 x 2 results fill a quarter of their tile
    (24, 24, (9, 9), {"stride": 2}, "float32", False), (24, 24, (9, 9), {"stride": (1, 2)}, "float32", False),
    (24, 24, (9, 9), {"dilation": 2}, "float32", False), (24, 24, (9, 9), {}, "float16", False),
])
def test_tiles_are_taken_where_they_pay(channels, outputs, size, options, dtype, expected, monkeypatch):
    taken, way = [], cnn._convolve_tiles
    monkeypatch.setattr(cnn, "_convolve_tiles", lambda *inputs: taken.append(1) or way(*inputs))
    x, weight = numbers(0, 2, channels, *size), numbers(1, outputs, channels, 3, 3)
    y = conv2d(x.astype(dtype), weight.astype(dtype), **options)
    assert bool(taken) == expected
    close(y.data, F.conv2d(torch.tensor(x), torch.tensor(weight), **options), 1e-2 if dtype == "float16" else 1e-5)
    conv2d(x.astype(dtype), numbers(2, outputs, channels, 3, 2).astype(dtype), **options)
    assert len(taken) == expected  # never for another kernel


@pytest.mark.parametrize(("channels", "size"), [(32, 32), (256, 7), (128, 15)])
def test_tiles_lose_few_digits(channels, size):
    """Value and gradients of a layer as wide as they come in single precision, beside double precision."""
    x, weight = numbers(0, 4, channels, size, size), numbers(1, channels, channels, 3, 3)
    function = functools.partial(conv2d, padding=1)
    y, exact = gradients(function, [x, weight], [0, 1])
    single = [array.astype(np.float32) for array in (x, weight)]
    value, found = gradients(function, single, [0, 1], numbers(9, *y.shape, dtype=np.float32))
    for ours, theirs in zip((value.data, *found), (y.data, *exact), strict=True):
        assert np.abs(ours - theirs).max() < 4e-6 * np.abs(theirs).max()


@pytest.mark.parametrize(("padding", "kernel", "dilation"), [("valid", (3, 2), (1, 2)), ("same", (3, 5), (1, 2)), ("same", 1, 1)])
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


@pytest.mark.parametrize(("size", "kernel", "stride"), [(6, 1, 2), (6, 2, 2), (7, 2, 2), (6, 2, 3)])
def test_a_pixel_that_no_window_sees_gets_no_gradient(monkeypatch, size, kernel, stride):
    x = torch.randn(2, 3, size, size, requires_grad=True)
    F.max_pool2d(x, kernel, stride).sum().backward()
    ours = Tensor(x.detach().numpy(), requires_grad=True)
    y = max_pool2d(ours, kernel, stride)
    monkeypatch.setattr(np, "empty_like", lambda a: np.full(a.shape, np.nan, a.dtype))  # memory is not zero by chance
    y.sum().backward()
    np.testing.assert_array_equal(ours.grad, x.grad.numpy())


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
    monkeypatch.setattr(cnn, "_TILES", cache // 200)
    monkeypatch.setattr(cnn, "_least", lambda *sizes: 1)
    monkeypatch.setattr(cnn, "_blocks", watched)
    yield count, cache
    assert {start for start, _, _ in slices} - {0} or count == 1  # several threads had a share
    assert cache == 1 << 30 or any(len(found) > 1 for _, _, found in slices)
    if count > 1:
        for worker in threads._workers()[0]:
            worker.start(None)


def test_blocks_and_threads_change_nothing(divided, monkeypatch):
    """A batch of seven, so that both the threads' shares and the blocks are uneven; no picture may be lost or come twice."""
    x = numbers(0, 7, 4, 9, 8)
    for options in ({"padding": 1}, {"stride": (2, 1), "padding": (0, 3)}, {"groups": 2, "dilation": 2}, {"padding": 4}):
        weight = numbers(1, 6, 4 // options.get("groups", 1), 3, 2)
        compare(lambda *i, o=options: conv2d(*i, **o), lambda *i, o=options: F.conv2d(*i, **o), x, weight, numbers(2, 6))
    monkeypatch.setattr(cnn, "_CHANNELS", 4)
    compare(lambda *i: conv2d(*i, padding=1), lambda *i: F.conv2d(*i, padding=1), x, numbers(6, 6, 4, 3, 3), numbers(2, 6))
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
    x, weight = (Tensor(numbers(0, *shape, dtype=np.float32), requires_grad=True) for shape in ((64, 16, 32, 32), (16, 16, 3, 3)))
    size = x.data.nbytes
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
                   ((4, 3), 1, {"stride": 3}))] + [
        (functools.partial(conv2d, padding=1), [numbers(0, 2, 25, 5, 3), numbers(1, 24, 25, 3, 3), numbers(2, 24)])],  # by tiles
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
                    [numbers(0, *shape), numbers(1, 3), numbers(2, 3)])
                   for shape in ((5, 3), (2, 3, 3, 2)) for training in (True, False)],
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
    ("conv2d", 0, [1, 2], ["_weight_gradient"]), ("conv2d", 0, [2], []),
    ("conv2d", 4, [0, 1], ["_input_gradient", "_weight_gradient"]),
    ("conv2d", 5, [0, 1, 2], ["_overlapped", "_tile_gradients", "_tile_values"]),
    ("conv2d", 5, [0], ["_overlapped", "_tile_gradients"]), ("conv2d", 5, [1], ["_tile_gradients", "_tile_values"]),
    ("conv_transpose2d", 0, [0], ["_convolve"]), ("conv_transpose2d", 0, [1], ["_weight_gradient"]),
    ("conv_transpose2d", 0, [2], []), ("conv_transpose2d", 0, [0, 1, 2], ["_convolve", "_weight_gradient"]),
])
def test_gradients_that_nobody_wants_are_not_computed(name, case, wanted, work, monkeypatch):
    """The pictures of the first layer need none, fixed filters neither: that is half of the work on the way back."""
    function, arrays = CASES[name][case]
    leaves, done = [Tensor(a, requires_grad=i in wanted) for i, a in enumerate(arrays)], []
    y = function(*leaves)

    def noted(rule, *inputs):
        done.append(rule.__name__)
        return rule(*inputs)

    for helper in ("_convolve", "_input_gradient", "_weight_gradient", "_turned_gradients", "_tile_gradients", "_tile_values",
                   "_overlapped"):
        monkeypatch.setattr(cnn, helper, functools.partial(noted, getattr(cnn, helper)))
    y.backward(y.data)
    assert sorted(done) == work


def taps(x, kernel, stride, padding, dilation, fill=0.0):
    """What the windows see at each of their places, by padding and slices: a list of (N, C, rows, columns) tensors."""
    (top, left), (down, right), (across, along) = padding, stride, dilation
    rows, columns = (conv_output_size(*each) for each in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True))
    x = pad(x, (left, left, top, top), value=fill)
    steps = [[slice(d * u, d * u + s * (n - 1) + 1, s) for u in range(k)]
             for k, s, d, n in ((kernel[0], down, across, rows), (kernel[1], right, along, columns))]
    return [x[:, :, i, j] for i in steps[0] for j in steps[1]]


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


# ---- batch normalisation and dropout ----


def norm_layers(dim, dtype=np.float32, **options):
    """A layer of batch norm for four channels with random weight and bias, ours and PyTorch's."""
    ours, theirs = {2: BatchNorm1d, 4: BatchNorm2d}[dim](4, **options), getattr(torch.nn, f"BatchNorm{dim // 2}d")(4, **options)
    if ours.weight is not None:
        ours.weight.data[...], ours.bias.data[...] = numbers(20, 4), numbers(21, 4)
    theirs.load_state_dict(to_torch(ours.state_dict()))
    return ours, theirs


def to_torch(state):
    """A state_dict for PyTorch."""
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5, 2)])
@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.3, "eps": 1e-2}, {"momentum": None}, {"momentum": 0.0}, {"affine": False}, {"track_running_stats": False},
], ids=str)
def test_batch_norm_over_twenty_steps_equals_pytorch(shape, options):
    """Outputs, gradients and running statistics, then evaluation, then training again."""
    ours, theirs = norm_layers(len(shape), **options)
    for step in range(24):
        for layer in (ours, theirs):
            layer.train(step not in (20, 21))
        x = 3 * numbers(step, *shape, dtype=np.float32) + np.float32(step)
        leaf, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, t = ours(leaf), theirs(other)
        y.backward(numbers(99, *shape, dtype=np.float32))
        t.backward(torch.from_numpy(numbers(99, *shape, dtype=np.float32)))
        close(y.data, t.detach(), 2e-5)
        close(leaf.grad, other.grad, 1e-4)
        state, expected = ours.state_dict(), theirs.state_dict()
        assert list(state) == list(expected)
        for name in expected:
            assert np.asarray(state[name]).dtype == expected[name].numpy().dtype
            close(state[name], expected[name], 2e-6, name)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad, 1e-4)


def test_batch_norm_makes_mean_zero_and_variance_one_and_evaluation_does_not():
    x = Tensor(5 + 3 * numbers(0, 8, 4, 6, 6, dtype=np.float32))
    layer = BatchNorm2d(4)
    y = layer(x).data
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, atol=1e-4)
    before = layer.running_mean.copy()
    still = layer.eval()(x).data
    assert abs(still.mean()) > 1  # one step of 0.1 has not brought the running mean from 0 to 5
    np.testing.assert_array_equal(layer.running_mean, before)
    assert layer.num_batches_tracked == 1


def test_batch_norm_keeps_its_digits_where_the_mean_is_large():
    """A mean of 1,000 times the deviation costs E(x^2) - E(x)^2 six digits of seven."""
    x = (1000 + numbers(0, 40, 3, 16, 16)).astype(np.float32)
    y = batch_norm(Tensor(x), None, None, training=True).data
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((0, 2, 3), keepdims=True)) / np.sqrt(exact.var((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-4)
    constant = Tensor(np.full((4, 3, 2, 2), 7.7, np.float32), requires_grad=True)
    y = batch_norm(constant, None, None, training=True)
    y.backward(numbers(1, 4, 3, 2, 2))
    assert not y.data.any() and np.isfinite(constant.grad).all()


def test_batch_norm_without_running_statistics_normalises_each_batch():
    layer = BatchNorm2d(4, track_running_stats=False, affine=False).eval()
    assert layer.state_dict() == {} and not list(layer.parameters())
    np.testing.assert_allclose(layer(Tensor(9 + numbers(0, 8, 4, 3, 3))).data.mean((0, 2, 3)), 0, atol=1e-9)


def test_dropout2d_drops_whole_channels_and_keeps_the_mean():
    x = Tensor(np.ones((200, 100, 2, 3), np.float32), requires_grad=True)
    y = dropout2d(x, 0.3, generator=np.random.default_rng(0))
    channel = y.data.reshape(200, 100, 6)
    assert (channel == channel[:, :, :1]).all() and set(np.unique(channel)) == {np.float32(0), np.float32(1 / 0.7)}
    assert np.mean(channel == 0) == pytest.approx(0.3, abs=0.01) and y.data.mean() == pytest.approx(1, abs=0.015)
    assert (channel[:, :, 0] == 0).any(0).all() and (channel[:, :, 0] == 0).any(1).all()  # not the same ones in every picture
    y.backward(np.full(y.shape, 2, np.float32))
    np.testing.assert_array_equal(x.grad, 2 * y.data)
    assert dropout2d(x, 0.0) is x and dropout2d(x, 0.9, training=False) is x and not dropout2d(x, 1.0).data.any()
    layer = Dropout2d(0.5)
    assert (layer(x).data == 0).any() and layer.eval()(x) is x
    manual_seed(4)
    first = layer.train()(x).data
    manual_seed(4)
    np.testing.assert_array_equal(first, layer(x).data)


# ---- layers and whole networks beside PyTorch's ----


def test_layers_start_as_in_pytorch_and_are_seeded():
    for build in (lambda lib, **g: lib.Conv2d(64, 48, (5, 3), groups=2, **g),
                  lambda lib, **g: lib.ConvTranspose2d(64, 48, (5, 3), groups=2, **g)):
        manual_seed(1)
        torch.manual_seed(1)
        ours, theirs = build(cnn), build(torch.nn)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert p.shape == tuple(q.shape) and p.dtype == np.float32
            assert p.data.std() == pytest.approx(q.std().item(), rel=0.1 if p.ndim > 1 else 0.35)
            assert np.abs(p.data).max() == pytest.approx(q.abs().max().item(), rel=0.01 if p.ndim > 1 else 0.1)
        again = build(cnn, generator=np.random.default_rng(5))
        np.testing.assert_array_equal(again.weight.data, build(cnn, generator=np.random.default_rng(5)).weight.data)
        manual_seed(1)
        np.testing.assert_array_equal(ours.weight.data, build(cnn).weight.data)
        assert not np.array_equal(ours.weight.data, again.weight.data)


@pytest.mark.parametrize(("name", "sizes", "options"), [
    *((name, *arguments) for name in ("Conv2d", "ConvTranspose2d") for arguments in (
        ((4, 8, 3), {}), ((4, 8, (3, 2)), {"stride": 2, "padding": (1, 0), "dilation": 2, "groups": 2, "bias": False}))),
    ("Conv2d", (4, 8, 3), {"padding": "same"}),
    ("ConvTranspose2d", (4, 8, 3), {"stride": 3, "output_padding": (1, 2)}),
], ids=str)
def test_a_convolution_is_printed_as_by_pytorch(name, sizes, options):
    assert repr(getattr(cnn, name)(*sizes, **options)) == repr(getattr(torch.nn, name)(*sizes, **options))


@pytest.mark.parametrize("arguments", [
    {}, {"momentum": None, "affine": False}, {"eps": 1e-12, "track_running_stats": False}], ids=str)
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d"])
def test_batch_norm_is_printed_as_by_pytorch(name, arguments):
    assert repr(getattr(cnn, name)(8, **arguments)) == repr(getattr(torch.nn, name)(8, **arguments))


def everything(lib, sequential, relu, linear):
    """A network with every layer of the chapter, of either library."""
    return sequential(
        lib.Conv2d(2, 8, 3, padding=1), relu(), lib.BatchNorm2d(8), lib.MaxPool2d(3, 2, 1), lib.Identity(),
        lib.Conv2d(8, 12, (3, 2), (1, 2), (0, 1), 2, 2, bias=False), lib.BatchNorm2d(12, affine=False, momentum=None), relu(),
        lib.ConvTranspose2d(12, 6, 3, 2, 1, 1, 3), relu(), lib.AvgPool2d(2, padding=1, count_include_pad=False),
        lib.Dropout2d(0.0), lib.AdaptiveAvgPool2d((3, 2)), lib.Flatten(),
        linear(36, 10), relu(), lib.BatchNorm1d(10), linear(10, 10))


class TorchLeNet(torch.nn.Module):
    """LeNet-5, with PyTorch's layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = torch.nn.Linear(400, 120), torch.nn.Linear(120, 84), torch.nn.Linear(84, 10)

    def forward(self, x):
        """Logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class TorchBlock(torch.nn.Module):
    """The basic block of He et al., with PyTorch's layers and torchvision's names."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(after)
        self.conv2 = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            shortcut = torch.nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = torch.nn.Sequential(shortcut, torch.nn.BatchNorm2d(after))

    def forward(self, x):
        """relu(f(x) + x)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):
    """A residual network for small pictures, with PyTorch's layers and torchvision's names."""

    def __init__(self, layers, width):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        before = width
        for i, blocks in enumerate(layers):
            stage = []
            for j in range(blocks):
                stage.append(TorchBlock(before, width << i, 2 if i and not j else 1))
                before = width << i
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*stage))
        self.fc = torch.nn.Linear(before, 10)

    def forward(self, x):
        """Logits."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def torch_vgg(plan, batch_norm, channels=3, size=32):
    """The stack of 3 x 3 convolutions, with PyTorch's layers."""
    layers = []
    for entry in plan:
        if entry == "pool":
            layers.append(torch.nn.MaxPool2d(2))
            size //= 2
        else:
            layers += [torch.nn.Conv2d(channels, entry, 3, padding=1, bias=not batch_norm)]
            layers += [torch.nn.BatchNorm2d(entry)] * batch_norm + [torch.nn.ReLU()]
            channels = entry
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(channels * size * size, 10))


class TorchWhitenedNet(torch.nn.Module):
    """The network for CIFAR-10, with PyTorch's layers."""

    def __init__(self, widths):
        super().__init__()
        self.whiten = torch.nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        layers, before = [], 24
        for width in widths:
            for after in (True, False):
                norm = torch.nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
                norm.weight.requires_grad = False
                layers += [torch.nn.Conv2d(before, width, 3, padding=1, bias=False), *[torch.nn.MaxPool2d(2)] * after, norm,
                           torch.nn.GELU()]
                before = width
        self.layers = torch.nn.Sequential(*layers, torch.nn.MaxPool2d(3), torch.nn.Flatten())
        self.head = torch.nn.Linear(before, 10, bias=False)

    def forward(self, x):
        """Logits."""
        return self.head(self.layers(F.gelu(self.whiten(x)))) / self.head.in_features


PLAN = (8, 8, "pool", 16, "pool")
NETWORKS = {  # name: (ours, PyTorch's, shape of the pictures)
    "every layer": (lambda: everything(cnn, Sequential, ReLU, Linear),
                    lambda: everything(torch.nn, torch.nn.Sequential, torch.nn.ReLU, torch.nn.Linear), (5, 2, 12, 15)),
    "LeNet": (LeNet, TorchLeNet, (8, 1, 28, 28)),
    "vgg": (lambda: vgg(PLAN), lambda: torch_vgg(PLAN, True), (8, 3, 32, 32)),
    "vgg without norm": (lambda: vgg(PLAN, 1, 28, batch_norm=False), lambda: torch_vgg(PLAN, False, 1, 28), (8, 1, 28, 28)),
    "ResNet": (lambda: ResNet((2, 1, 2), width=8), lambda: TorchResNet((2, 1, 2), 8), (8, 3, 32, 32)),
    "WhitenedNet": (lambda: WhitenedNet((16, 24, 32)), lambda: TorchWhitenedNet((16, 24, 32)), (8, 3, 32, 32)),
}


def twins(name):
    """A network of the chapter and PyTorch's own with the same parameters, pictures and labels for both."""
    ours, theirs, shape = NETWORKS[name]
    manual_seed(3)
    ours, theirs = ours(), theirs()
    state, expected = ours.state_dict(), theirs.state_dict()
    assert {key: np.shape(a) for key, a in state.items()} == {key: tuple(a.shape) for key, a in expected.items()}
    assert list(state) == list(expected)
    theirs.load_state_dict(to_torch(state))
    return ours, theirs, numbers(0, *shape, dtype=np.float32), np.arange(shape[0]) % 10


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_pytorchs_names_loss_and_gradients(name):
    """Loss, every gradient and the running statistics in float32; then evaluation.

    Of three batches, and of each gradient's three errors the middle one: a number within rounding of a ReLU's kink may
    fall on either side of it, and does about once in ten batches.
    """
    ours, theirs, x, y = twins(name)
    errors = {key: [] for key, p in ours.named_parameters() if p.requires_grad}
    for batch in range(3):
        x = numbers(batch, *x.shape, dtype=np.float32)
        loss, expected = cross_entropy(ours(Tensor(x)), y), F.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        for model, value in ((ours, loss), (theirs, expected)):
            model.zero_grad()
            value.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
            if p.requires_grad:
                errors[key].append(np.linalg.norm(p.grad - q.grad.numpy()) / q.grad.norm().item())
    assert {key: three for key, three in errors.items() if not np.median(three) <= 1e-4} == {}
    state = theirs.state_dict()
    for key, array in ours.state_dict().items():
        close(array, state[key], 1e-5, key)
    with no_grad():
        close(ours.eval()(Tensor(x)).data, theirs.eval()(torch.from_numpy(x)).detach(), 1e-4)


@pytest.mark.parametrize("name", ["every layer", "ResNet"])
def test_a_network_trains_as_in_pytorch(name):
    ours, theirs, x, y = twins(name)
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    steps = SGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    for _ in range(6):
        losses = cross_entropy(ours(Tensor(x)), y), F.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        for optimizer, loss in zip(steps, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=2e-3)


@pytest.mark.parametrize("name", ["every layer", "ResNet", "WhitenedNet"])
def test_nothing_in_a_training_step_is_float64(name):
    ours, _, x, y = twins(name)
    matrices = [p for p in ours.parameters() if p.requires_grad and p.ndim == 4]
    others = [p for p in ours.parameters() if p.requires_grad and p.ndim != 4]
    optimizer = Together(Muon(matrices, lr=np.float64(0.1), weight_decay=0.1), SGD(others, lr=0.1, momentum=0.9))
    loss = cross_entropy(ours(Tensor(x)), y, label_smoothing=0.1)
    nodes, found = [loss._node], set()
    while nodes:
        node = nodes.pop()
        found.add(node.dtype)
        nodes += node.parents
    loss.backward()
    optimizer.step()
    found |= {a.dtype for key, a in ours.state_dict().items() if not key.endswith("tracked")}
    for part in optimizer.optimizers:
        for p, memory in part.state.items():
            found |= {p.grad.dtype, *(a.dtype for a in memory.values() if isinstance(a, np.ndarray))}
    assert found == {np.dtype("float32")}


def test_networks_are_what_their_papers_say():
    count = lambda model: sum(p.data.size for p in model.parameters())
    assert count(LeNet()) == 61_706 and count(ResNet()) / 1e6 == pytest.approx(0.27, abs=0.005)  # table 6 of the paper
    x = Tensor(numbers(0, 2, 3, 32, 32, dtype=np.float32))
    with no_grad():
        assert ResNet((1, 1, 1), num_classes=7, width=4)(x).shape == (2, 7)
        assert WhitenedNet((8, 8, 8), classes=4)(x).shape == (2, 4)
        assert vgg((4, "pool"), classes=3)(x).shape == (2, 3)
        shallow = [m for m in ResNet((5, 5, 5)).modules() if isinstance(m, Conv2d) and m.kernel_size == (3, 3)]
        assert len(shallow) == 1 + 6 * 5  # with the linear layer, 6 n + 2
    bn = [m for m in WhitenedNet().modules() if isinstance(m, BatchNorm2d)]
    assert bn and not any(m.weight.requires_grad for m in bn) and all(m.bias.requires_grad for m in bn)


def test_a_convolution_that_starts_as_a_dirac_passes_its_input_on():
    net = WhitenedNet((30, 20, 20))
    first, second = net.layers[0], net.layers[4]
    x = Tensor(numbers(0, 2, 24, 7, 7, dtype=np.float32))
    np.testing.assert_allclose(first(x).data[:, :24], x.data, atol=1e-6)
    x = Tensor(numbers(0, 2, 30, 7, 7, dtype=np.float32))
    np.testing.assert_allclose(second(x).data, x.data, atol=1e-6)
    assert first.weight.data[24:].any()


def test_inference_over_many_pictures_is_bounded_by_one_batch():
    """Without a graph nothing of one batch is left when the next one comes, and no step needs a column matrix."""
    model, pictures = vgg((16, 16, "pool", 32, "pool")).eval(), numbers(0, 1600, 3, 32, 32, dtype=np.float32)

    def peak(count):
        tracemalloc.start()
        try:
            with no_grad():
                out = np.concatenate([model(Tensor(pictures[i : i + 100], copy=False)).data for i in range(0, count, 100)])
            return tracemalloc.get_traced_memory()[1], out
        finally:
            tracemalloc.stop()

    peak(100)
    (one, first), (many, every) = peak(100), peak(1600)
    np.testing.assert_array_equal(every[:100], first)
    assert many < 1.1 * one + every.nbytes
    assert one < 4 * 100 * 16 * 32 * 32 * 4  # at most four arrays of the largest layer's size at a time


# ---- augmentation ----


def marked(n, c=2, height=6, width=7):
    """Pictures whose pixels are all different, so that each tells where it came from."""
    return np.arange(1, n * c * height * width + 1, dtype=np.float32).reshape(n, c, height, width)


def test_about_half_of_the_pictures_are_flipped_and_the_others_are_themselves():
    x = marked(600)
    y = random_flip(x, np.random.default_rng(0))
    same, mirrored = (y == x).all((1, 2, 3)), (y == x[..., ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 240 < mirrored.sum() < 360


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("padding", [0, 2, 3])
def test_a_crop_is_a_window_of_the_padded_picture(mode, padding):
    x = marked(300)
    y = random_crop(x, np.random.default_rng(0), padding, mode)
    padded, places = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode=mode), set()
    for picture, whole in zip(y, padded, strict=True):
        found = [(i, j) for i, j in np.ndindex(2 * padding + 1, 2 * padding + 1)
                 if np.array_equal(whole[:, i : i + 6, j : j + 7], picture)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == (2 * padding + 1) ** 2  # every place comes up


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_leaves_a_square_of_zeros_around_a_pixel_of_the_picture(size):
    x = marked(500, height=9, width=8)
    y = cutout(x, np.random.default_rng(0), size)
    assert (y[y != 0] == x[y != 0]).all() and ((y == 0).all(1) == (y == 0).any(1)).all()
    whole = 0
    for hole in (y == 0).any(1):
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
        assert all(size // 2 <= len(side) <= size and (len(side) == size or 0 in side or end in side) and len(side) > 0
                   for side, end in ((rows, 8), (columns, 7)))
        whole += hole.sum() == size * size
    assert whole > 100 and len(np.unique(np.argwhere((y == 0).any(1))[:, 1:], axis=0)) == 72  # each pixel goes sometimes


@pytest.mark.parametrize("change", [random_flip, random_crop, lambda x, rng: random_crop(x, rng, mode="constant"), cutout])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augmentation_can_be_repeated_and_leaves_its_input_alone(change, dtype):
    x = np.random.default_rng(1).integers(1, 200, (50, 3, 12, 10)).astype(dtype)
    before = x.copy()
    y = change(x, np.random.default_rng(3))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, change(x, np.random.default_rng(3)))
    assert y.dtype == dtype and y.shape == x.shape and not np.array_equal(y, x)
    assert not np.array_equal(y, change(x, np.random.default_rng(4))) and not np.shares_memory(x, y)


# ---- Muon, optimisers together, whitening ----


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16), (1, 5)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(shape):
    """The polynomial's fixed range is about 0.7 to 1.2, not exactly 1 (Jordan 2024); the singular vectors stay."""
    left, _, right = np.linalg.svd(numbers(0, *shape, dtype=np.float32), full_matrices=False)
    x = left * np.linspace(2, 0.2, min(shape), dtype=np.float32) @ right
    y = orthogonalise(x)
    core = left.T @ y @ right.T
    assert y.dtype == np.float32
    assert np.diag(core).min() > 0.67 and np.diag(core).max() < 1.23
    np.testing.assert_allclose(core - np.diag(np.diag(core)), 0, atol=1e-4)
    np.testing.assert_allclose(orthogonalise(np.float32(1000) * x), y, atol=1e-4)
    np.testing.assert_allclose(orthogonalise(x.T), y.T, atol=1e-5)
    assert not orthogonalise(np.zeros(shape, np.float32)).any()


def torch_muon(p, g, memory, lr, momentum, nesterov, weight_decay):
    """The rule of torch.optim.Muon, in float32 throughout; theirs multiplies matrices in bfloat16, three digits."""
    memory.lerp_(g, 1 - momentum)
    update = g.lerp(memory, momentum) if nesterov else memory.clone()
    x = update.T if len(update) > update.shape[1] else update
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.T if len(update) > update.shape[1] else x
    p.mul_(1 - lr * weight_decay).add_(x, alpha=-lr * max(1, len(update) / update.shape[1]) ** 0.5)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_follows_the_rule_of_pytorchs(shape, nesterov):
    options = {"lr": 0.03, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.2}
    start = numbers(0, *shape, dtype=np.float32)
    ours, exact, theirs = Parameter(start.copy()), torch.tensor(start), torch.nn.Parameter(torch.tensor(start))
    optimizer, other, memory = Muon([ours], **options), torch.optim.Muon([theirs], **options), torch.zeros(shape)
    for step in range(20):
        g = numbers(step + 1, *shape, dtype=np.float32)
        ours.grad, theirs.grad = g, torch.from_numpy(g.copy())
        optimizer.step()
        other.step()
        torch_muon(exact, torch.from_numpy(g), memory, **options)
    np.testing.assert_allclose(ours.data, exact.numpy(), atol=2e-5)
    moved, expected = ours.data - start, theirs.detach().numpy() - start
    assert np.linalg.norm(moved - expected) < 0.03 * np.linalg.norm(expected)  # bfloat16 has a step of 1/128


def test_muon_moves_each_of_many_matrices_as_if_it_were_alone():
    """They are dealt out to the threads by size, each with the settings of its group."""
    shapes = ((96, 64), (64, 200), (128, 128), (30, 7), (256, 96), (90, 2, 5, 5), (200, 200))
    start, slopes = ([numbers(seed + i, *shape, dtype="float32") for i, shape in enumerate(shapes)] for seed in (0, 10))
    many, single = ([Parameter(w.copy()) for w in start] for _ in range(2))
    optimizers = [Muon([{"params": many[::2], "lr": 0.3}, {"params": many[1::2]}], lr=0.1, weight_decay=0.1)]
    optimizers += [Muon([p], lr=0.1 if i % 2 else 0.3, weight_decay=0.1) for i, p in enumerate(single)]
    for _ in range(2):
        for p, g in zip(many + single, slopes + slopes, strict=True):
            p.grad = g.copy()
        for optimizer in optimizers:
            optimizer.step()
    for ours, alone, w in zip(many, single, start, strict=True):
        assert not np.allclose(ours.data, w, atol=1e-3)
        np.testing.assert_allclose(ours.data, alone.data, rtol=1e-4, atol=1e-5)


def test_muon_takes_a_filter_as_a_row_and_leaves_alone_what_has_no_gradient():
    start = numbers(0, 6, 4, 3, 2, dtype=np.float32)
    filters, flat = Parameter(start.copy()), Parameter(start.reshape(6, -1).copy())
    unused = Parameter(np.ones((2, 2), np.float32))
    optimizer = Muon([filters, flat, unused], lr=0.1)
    for step in range(3):
        filters.grad = numbers(step, 6, 4, 3, 2, dtype=np.float32)
        flat.grad = filters.grad.reshape(6, -1).copy()
        given = filters.grad.copy()
        optimizer.step()
        np.testing.assert_array_equal(filters.grad, given)
    np.testing.assert_array_equal(filters.data.reshape(6, -1), flat.data)
    assert (unused.data == 1).all() and unused not in optimizer.state and not np.array_equal(filters.data, start)
    for bad in (np.ones(3), np.ones(())):
        with pytest.raises(ValueError, match="Muon: expected matrices"):
            Muon([filters, Parameter(bad.astype(np.float32))])
    with pytest.raises(ValueError, match="lr must be at least 0"):
        Muon([filters], lr=-1.0)


def pair_of_optimisers(model):
    """Muon for the filters, SGD for the rest."""
    biases, matrices, filters = ([p for p in model.parameters() if p.ndim == ndim] for ndim in (1, 2, 4))
    groups = [{"params": matrices, "lr": 0.2}, {"params": biases, "weight_decay": 0.1}]
    return Together(Muon(filters, lr=0.05, momentum=0.6), SGD(groups, lr=0.05, momentum=0.8, nesterov=True))


def test_optimisers_together_step_as_they_do_alone():
    models = []
    for together in (True, False):
        manual_seed(0)
        model = vgg((4, "pool"), 1, 8)
        both = pair_of_optimisers(model)
        steps = [both] if together else both.optimizers
        for step in range(3):
            x = Tensor(numbers(step, 6, 1, 8, 8, dtype=np.float32))
            both.zero_grad()
            assert all(p.grad is None for p in model.parameters())
            cross_entropy(model(x), np.arange(6)).backward()
            for optimizer in steps:
                optimizer.step()
        models.append(model.state_dict())
    for name, array in models[0].items():
        np.testing.assert_array_equal(array, models[1][name])


def test_one_schedule_serves_optimisers_together():
    both = pair_of_optimisers(vgg((4, "pool"), 1, 8))
    scheduler = LambdaLR(both, lambda count: 1 - count / 4)
    assert [group["lr"] for group in both.param_groups] == [0.05, 0.2, 0.05]
    scheduler.step()
    assert [group["lr"] for part in both.optimizers for group in part.param_groups] == pytest.approx([0.0375, 0.15, 0.0375])
    assert scheduler.get_last_lr() == pytest.approx([0.0375, 0.15, 0.0375])


def test_the_state_of_optimisers_together_moves_to_others():
    states, models = [], [vgg((4, "pool"), 1, 8, batch_norm=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = Tensor(numbers(0, 6, 1, 8, 8, dtype=np.float32))
    first, second = map(pair_of_optimisers, models)

    def go(model, optimizer):
        optimizer.zero_grad()
        cross_entropy(model(x), np.arange(6)).backward()
        optimizer.step()

    for _ in range(2):
        go(models[0], first)
    first.param_groups[1]["lr"] = 0.7
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(first.state_dict())
    assert second.optimizers[1].param_groups[0]["lr"] == 0.7 and second.param_groups[1]["lr"] == 0.7
    for model, optimizer in zip(models, (first, second), strict=True):
        go(model, optimizer)
        states.append(model.state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_optimisers_together_refuse_what_does_not_belong_together():
    p, q = Parameter(np.ones((2, 3), np.float32)), Parameter(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="Together: a parameter was given twice"):
        Together(Muon([p]), SGD([q, p]))
    with pytest.raises(ValueError, match="Together: got no parameters"):
        Together()
    both = Together(Muon([p]), SGD([q]))
    with pytest.raises(ValueError, match=r"load_state_dict: .*1 optimisers?.* 2"):
        both.load_state_dict({"optimizers": [Muon([p]).state_dict()]})
    with pytest.raises(ValueError, match="load_state_dict"):
        both.load_state_dict({"optimizers": [Muon([p]).state_dict(), SGD([p, q]).state_dict()]})


def new_run(folder, seed=0):
    """A network with batch norm and dropout, two optimisers, a schedule, and pictures that are moved at random."""
    manual_seed(seed)
    model = Sequential(Conv2d(1, 6, 3), BatchNorm2d(6), ReLU(), MaxPool2d(2), Dropout2d(0.2), Flatten(), Linear(54, 10))
    optimizer, order = pair_of_optimisers(model), np.random.default_rng(seed)
    train = DataLoader((numbers(0, 40, 1, 8, 8, dtype=np.float32), np.arange(40) % 10), 8, shuffle=True, generator=order,
                       transform=lambda x, y: (cutout(random_crop(random_flip(x, order), order, 1), order, 2), y))
    return Trainer(model, optimizer, folder=folder, schedule="batch", scheduler=LambdaLR(optimizer, lambda n: 1 - n / 15)), train


def test_an_interrupted_training_resumes_to_the_same_parameters(tmp_path):
    whole, train = new_run(tmp_path / "whole")
    whole.fit(train, epochs=3)
    broken, train = new_run(tmp_path / "broken")
    broken.fit(train, epochs=1)
    again, train = new_run(tmp_path / "broken", seed=7)
    assert again.resume() and again.epoch == 1
    again.fit(train, epochs=3)
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(array, again.model.state_dict()[name], err_msg=name)
    assert again.history.losses == whole.history.losses


def test_whitening_filters_make_patches_uncorrelated_with_variance_one():
    mix = np.array([[1.0, 0.6, 0.3], [0.0, 0.5, 0.2], [0.0, 0.0, 0.3]])
    smooth = numbers(0, 60, 3, 18, 18)
    smooth = sum(smooth[:, :, i : i + 16, j : j + 16] for i in range(3) for j in range(3)) / 4
    x = np.einsum("ab,nbij->naij", mix, smooth).astype(np.float32)
    filters = whitening_filters(x)
    assert filters.shape == (24, 3, 2, 2) and filters.dtype == np.float32
    np.testing.assert_array_equal(filters[12:], -filters[:12])
    rows = conv2d(Tensor(x), filters[:12]).data.transpose(0, 2, 3, 1).reshape(-1, 12).astype(np.float64)
    second = rows.T @ rows / len(rows)
    np.testing.assert_allclose(second - np.diag(np.diag(second)), 0, atol=1e-3)
    values = np.linalg.norm(filters[:12].reshape(12, -1), axis=1) ** -2.0  # of the covariance, plus eps
    assert (np.diff(values) <= 1e-9).all()  # the strongest direction comes first
    np.testing.assert_allclose(np.diag(second), 1 - 5e-4 / values, rtol=2e-3)
    assert whitening_filters(x[:, :2], kernel_size=3).shape == (36, 2, 3, 3)


# ---- bad input ----

PICTURES, WEIGHT = np.zeros((2, 3, 8, 9), np.float32), np.zeros((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: conv2d(PICTURES, np.zeros((4, 3, 9, 3))), ValueError,
     r"conv2d: .*\(9, 3\).*larger than the pictures \(8, 9\).*more padding"),
    (lambda: conv2d(PICTURES, WEIGHT, dilation=4), ValueError, r"dilation \(4, 4\)"),
    (lambda: conv2d(PICTURES, np.zeros((4, 5, 3, 3))), ValueError,
     r"conv2d: pictures \(2, 3, 8, 9\) have 3 channels, the weight expects 5$"),
    (lambda: conv2d(PICTURES.transpose(0, 2, 3, 1), WEIGHT), ValueError, r"\(N, H, W, C\)\? .*x\.transpose\(0, 3, 1, 2\)"),
    (lambda: conv2d(PICTURES.astype(np.uint8), WEIGHT), TypeError, r"conv2d: .*uint8.*x\.astype\(np\.float32\) / 255"),
    (lambda: conv2d(PICTURES[0], WEIGHT), ValueError, r"\(N, C, H, W\), got shape \(3, 8, 9\).*x\[None\]"),
    (lambda: conv2d(PICTURES[:, 0], WEIGHT), ValueError, r"grey pictures .*x\[:, None\]"),
    (lambda: conv2d(PICTURES[0, 0], WEIGHT), ValueError, r"got shape \(8, 9\)$"),
    (lambda: conv2d(PICTURES, WEIGHT[0]), ValueError, r"conv2d: expected a weight \(O, C, kh, kw\).*\(3, 3, 3\)"),
    (lambda: conv2d(PICTURES, WEIGHT[:, :, :0]), ValueError, "without empty axes"),
    (lambda: conv2d(PICTURES, WEIGHT, np.zeros(3)), ValueError, r"conv2d: expected a bias of shape \(4,\), got \(3,\)"),
    (lambda: conv2d(PICTURES, WEIGHT, groups=3), ValueError, "conv2d: groups must divide the 4 outputs, got 3"),
    (lambda: conv2d(PICTURES, WEIGHT, groups=0), ValueError, "groups"),
    (lambda: conv2d(PICTURES, WEIGHT, groups=2), ValueError, "have 3 channels, the weight expects 6"),
    (lambda: conv2d(PICTURES, WEIGHT, stride=0), ValueError, "conv2d: stride is a whole number of at least 1.*got 0"),
    (lambda: conv2d(PICTURES, WEIGHT, stride=(1, 2, 3)), ValueError, "stride"),
    (lambda: conv2d(PICTURES, WEIGHT, padding=-1), ValueError, "conv2d: padding is a whole number of at least 0"),
    (lambda: conv2d(PICTURES, WEIGHT, padding=0.5), ValueError, r"padding.*0\.5"),
    (lambda: conv2d(PICTURES, WEIGHT, padding="full"), ValueError, "padding.*'full'"),
    (lambda: conv2d(PICTURES, WEIGHT, padding="same", stride=2), ValueError, "'same' needs stride 1"),
    (lambda: conv2d(PICTURES, np.zeros((4, 3, 2, 3)), padding="same"), ValueError, "odd kernel"),
    (lambda: conv2d(PICTURES, WEIGHT, dilation=0), ValueError, "dilation"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT), ValueError, "conv_transpose2d: .*3 channels, the weight expects 4"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT[0]), ValueError, r"conv_transpose2d: expected a weight \(C, O, kh, kw\)"),
    (lambda: conv_transpose2d(PICTURES.astype(int), WEIGHT[:3]), TypeError, "conv_transpose2d: .*int64"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT[:3], groups=2), ValueError, "groups must divide the 3 inputs"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT[:3], stride=2, output_padding=2), ValueError,
     "output_padding.*smaller than the stride"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT[:3], padding=6), ValueError, "leaves nothing"),
    (lambda: conv_transpose2d(PICTURES, WEIGHT[:3], np.zeros(4)), ValueError, r"bias of shape \(3,\)"),
    (lambda: max_pool2d(PICTURES, 10), ValueError, r"max_pool2d: a window \(10, 10\) is larger than the pictures \(8, 9\)"),
    (lambda: max_pool2d(PICTURES, 2, padding=2), ValueError, "max_pool2d: padding .* more than half of the kernel"),
    (lambda: max_pool2d(PICTURES, 0), ValueError, "max_pool2d: kernel_size is a whole number of at least 1"),
    (lambda: max_pool2d(PICTURES, 2, 0), ValueError, "max_pool2d: stride"),
    (lambda: max_pool2d(PICTURES.astype(np.uint8), 2), TypeError, "max_pool2d: .*uint8"),
    (lambda: avg_pool2d(PICTURES, 3, padding=2), ValueError, "avg_pool2d: padding"),
    (lambda: avg_pool2d(PICTURES[0], 3), ValueError, "avg_pool2d: .*batch axis"),
    (lambda: adaptive_avg_pool2d(PICTURES, 0), ValueError, "adaptive_avg_pool2d: output_size"),
    (lambda: adaptive_avg_pool2d(PICTURES[0], 1), ValueError, "adaptive_avg_pool2d: .*batch axis"),
    (lambda: batch_norm(np.zeros((1, 3)), None, None, training=True), ValueError,
     r"batch_norm: one number per channel.*\(1, 3\).*eval"),
    (lambda: batch_norm(np.zeros((1, 3, 1, 1)), None, None, training=True), ValueError, "larger batch"),
    (lambda: batch_norm(np.zeros((4, 3, 2)), None, None, training=True), ValueError, r"batch_norm: .*\(N, C\) or \(N, C, H, W\)"),
    (lambda: batch_norm(np.zeros((4, 3), int), None, None, training=True), TypeError, "batch_norm: .*int64"),
    (lambda: batch_norm(np.zeros((4, 3)), None, None), ValueError, "evaluation needs running_mean and running_var"),
    (lambda: batch_norm(np.zeros((4, 3)), np.zeros(4), np.ones(3)), ValueError, r"running_mean of shape \(3,\), got \(4,\)"),
    (lambda: batch_norm(np.zeros((4, 3)), None, None, np.ones(2), training=True), ValueError, "batch_norm: expected weight"),
    (lambda: BatchNorm2d(3)(Tensor(np.zeros((4, 3)))), ValueError, "BatchNorm2d: expected 4 axes and 3 channels"),
    (lambda: BatchNorm2d(3)(Tensor(np.zeros((4, 8, 8, 3)))), ValueError, r"BatchNorm2d: .*\(4, 8, 8, 3\)"),
    (lambda: BatchNorm1d(3)(Tensor(np.zeros((4, 3, 2, 2)))), ValueError, "BatchNorm1d: expected 2 axes"),
    (lambda: dropout2d(PICTURES, 1.5), ValueError, r"dropout2d: p is a probability.*1\.5"),
    (lambda: dropout2d(PICTURES[0]), ValueError, "dropout2d: .*batch axis"),
    (lambda: Dropout2d(-0.1), ValueError, "Dropout2d: p is a probability"),
    (lambda: Conv2d(0, 4, 3), ValueError, "Conv2d: .*at least 1"),
    (lambda: Conv2d(3, 4, 3, groups=2), ValueError, "Conv2d: groups 2 must divide the channels 3 and 4"),
    (lambda: Conv2d(3, 4, 0), ValueError, "Conv2d: kernel_size"),
    (lambda: Conv2d(3, 4, 3, padding="sam"), ValueError, "Conv2d: padding is 'same', 'valid', or whole numbers"),
    (lambda: Conv2d(3, 4, 3, padding=-1), ValueError, "Conv2d: padding is a whole number of at least 0"),
    (lambda: conv2d(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 1, 1)), padding="full"), ValueError, "conv2d: padding is 'same'"),
    (lambda: ConvTranspose2d(4, 3, 3, groups=2), ValueError, "ConvTranspose2d: groups 2 must divide"),
    (lambda: vgg((4, "pool", "pool"), 1, 3), ValueError, "vgg: .*pools more often"),
], ids=itertools.count())
def test_bad_input_is_explained(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- stored networks and the scripts that train them ----


def stored(name):
    """The record beside stored weights."""
    return json.loads((CHAPTER / "checkpoints" / f"{name}.json").read_text())


def training_script():
    """The chapter's train.py as a module."""
    pytest.importorskip("tqdm", reason="the training script shows its progress")
    spec = importlib.util.spec_from_file_location("train_06", CHAPTER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stored_mnist_network_reaches_its_figure():
    """Measured anew on the official test set, which is embedded."""
    script, data, path = training_script(), datasets.mnist_embedded(), CHAPTER / "checkpoints" / "mnist_cnn.safetensors"
    model = script.mnist_cnn().eval()
    model.load_state_dict(load(path))
    with no_grad():
        guess = [model(Tensor(script.digits(data.x_test[i : i + 500], data.y_test[i : i + 500])[0])).data.argmax(1)
                 for i in range(0, len(data.x_test), 500)]
    reached = np.mean(np.concatenate(guess) == data.y_test)
    assert reached >= 0.995 and reached == pytest.approx(stored("mnist_cnn")["figure"]["test_accuracy"], abs=2e-4)
    assert path.stat().st_size < 1_000_000
    assert {"data", "seed", "steps", "minutes", "curve", "figure"} <= set(stored("mnist_cnn"))


def test_the_cifar10_network_reads_nine_of_ten():
    assert stored("cifar10_cnn")["figure"]["test_accuracy"] >= 0.9


def test_the_record_of_the_cifar10_network_says_what_was_promised():
    record = stored("cifar10_cnn")
    assert {"data", "crc32_of_test_pixels", "seed", "steps", "minutes", "images_per_second", "curve"} <= set(record)
    assert len(record["curve"]["train_loss"]) == record["epochs"]


@pytest.mark.skipif(not datasets.is_cached("cifar10"), reason="needs CIFAR-10 in the cache")
def test_the_stored_cifar10_network_reaches_its_figure():
    """On the first 300 test pictures: the figure, give or take three standard deviations of a share of 300."""
    script, record = training_script(), stored("cifar10_cnn")
    model, data = script.WhitenedNet(), datasets.cifar10()
    model.load_state_dict(load(CHAPTER / "checkpoints" / "cifar10_cnn.safetensors"))
    figure = record["figure"]["test_accuracy"]
    reached = np.mean(script.cifar_predict(model, data.x_test[:300]).argmax(1) == data.y_test[:300])
    assert reached == pytest.approx(figure, abs=3 * (figure * (1 - figure) / 300) ** 0.5)


SMALL = """
import runpy, sys
import numpy as np
from shared import datasets
from shared.tensor_mlp import Trainer

def stand_in(*shape):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (36, *shape)).astype(np.uint8), np.arange(36).astype(np.uint8) % 10
    return lambda: datasets.ImageData(x[:24], y[:24], x[24:], y[24:])

datasets.mnist, datasets.cifar10 = stand_in(28, 28), stand_in(3, 32, 32)
whole, stop = Trainer._train_epoch, int(sys.argv[1])

def some(self, train):
    if self.epoch == stop:
        raise KeyboardInterrupt
    return whole(self, train)

Trainer._train_epoch = some
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("name", "model"), [("mnist", "mnist_cnn"), ("cifar10", "cifar10_cnn")])
def test_the_script_trains_is_interrupted_resumes_and_writes(tmp_path, name, model):
    """On 24 pictures of noise; what an interrupted run writes is what one that is left in peace writes."""
    pytest.importorskip("tqdm", reason="the training script shows its progress")

    def run(cache, out, stop=-1, *more):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COURSE_DATA": str(tmp_path / cache)}
        (tmp_path / cache).mkdir(exist_ok=True)
        return subprocess.run([sys.executable, "-c", SMALL, str(stop), str(CHAPTER / "train.py"), name, "--epochs", "3",
                               "--seed", "5", "--out", str(tmp_path / out), *more],
                              capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)

    whole, broken = run("one", "whole"), run("two", "broken", 2)
    assert whole.returncode == 0, whole.stderr
    assert broken.returncode != 0 and "KeyboardInterrupt" in broken.stderr and not (tmp_path / "broken").exists()
    again = run("two", "broken")
    assert again.returncode == 0 and "resumed after epoch 2" in again.stdout, again.stderr
    assert "resumed" not in whole.stdout and "test_accuracy" in whole.stdout
    records = [json.loads((tmp_path / out / f"{model}.json").read_text()) for out in ("whole", "broken")]
    assert records[0]["seed"] == 5 and records[0]["steps"] == 3 and len(records[0]["curve"]["train_loss"]) == 3
    assert records[0]["figure"] == records[1]["figure"] and records[0]["curve"] == records[1]["curve"]
    weights = [load(tmp_path / out / f"{model}.safetensors") for out in ("whole", "broken")]
    for key, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][key], err_msg=key)
    assert not list((tmp_path / "one" / "runs").iterdir())  # nothing is left to resume
