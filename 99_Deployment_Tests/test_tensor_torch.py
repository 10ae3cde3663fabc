"""The engine beside PyTorch on randomly drawn shapes and arguments: values, gradients, types, and what raises an error.

Both get the same numbers and the same call. Either both raise, or both agree.
"""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import tensor as engine

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of the tensor engine")

drawn = settings(
    derandomize=True, deadline=None, database=None, max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

sizes = st.sampled_from([0, 1, 1, 2, 3, 4])
shapes = st.lists(sizes, max_size=4).map(tuple)
full_shapes = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4).map(tuple)
dims = st.integers(-5, 4)
seeds = st.integers(0, 2**31)
floats = st.sampled_from(["float32", "float64"])
types = st.sampled_from(["float32", "float32", "float64", "int64", "int32", "bool", "float16"])
common_types = st.sampled_from(["float32", "float32", "float64", "int64", "int32", "bool"])
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


@st.composite
def broadcastable(draw):
    """Two shapes that mostly broadcast, and sometimes do not."""
    whole = draw(st.lists(sizes, max_size=4))
    shrink = lambda: tuple(n if draw(st.integers(0, 3)) else 1 for n in whole)[draw(st.integers(0,
        len(whole))) if draw(st.booleans()) else 0 :]
    return (shrink(), shrink()) if draw(st.integers(0, 9)) else (draw(shapes), draw(shapes))


def numbers(seed, shape, dtype, ties=False):
    """Random numbers of a type, in -3 to 3; halves only where equal ones are wanted."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.startswith("int"):
        return np.asarray(rng.integers(-4, 5, shape), dtype)
    values = rng.uniform(-3, 3, shape)
    return np.asarray(np.round(values * 2) / 2 if ties else values, dtype)


def attempt(function, library, inputs, gradients):
    """What a library makes of a call: (results, gradients of its inputs), or the error it raises."""
    ours = library is engine
    leaves = []
    for array in inputs:
        if isinstance(array, np.ndarray):
            wanted = gradients and array.dtype.kind == "f"
            leaves.append(engine.tensor(array, requires_grad=wanted) if ours else torch.tensor(array, requires_grad=wanted))
        else:
            leaves.append(array)
    with warnings.catch_warnings():
        if not ours:
            warnings.simplefilter("ignore")  # PyTorch's advice; a warning of ours fails the test
        try:
            results = function(library, *leaves)
        except ERRORS as error:
            return error
        results = tuple(results) if isinstance(results, tuple | list) else (results,)
        values = [np.asarray(y.data if ours else y.detach().numpy()) if hasattr(y, "dtype") else y for y in results]
        wanted = [bool(getattr(y, "requires_grad", False)) for y in results]
        rng = np.random.default_rng(0)
        for i, y in enumerate(results):
            if wanted[i]:
                g = np.asarray(rng.normal(size=tuple(y.shape)), values[i].dtype)
                y.backward(g if ours else torch.tensor(g), retain_graph=True)
    found = [None if getattr(x, "grad", None) is None else np.asarray(x.grad) for x in leaves]
    return values, wanted, found


def agree(function, *inputs, gradients=True):
    """Call a function of a library and of its inputs with both libraries, and hold one against the other."""
    mine, theirs = attempt(function, engine, inputs, gradients), attempt(function, torch, inputs, gradients)
    shown = [f"{x.dtype}{x.shape}" if isinstance(x, np.ndarray) else x for x in inputs]
    if isinstance(mine, Exception) or isinstance(theirs, Exception):
        assert isinstance(mine, Exception) and isinstance(theirs, Exception), f"{shown}\nours: {mine!r}\nPyTorch: {theirs!r}"
        assert str(mine).split(":")[0].isidentifier(), f"the message does not begin with the operation: {mine!r}"
        return
    for what, ours, reference in zip(("value", "requires_grad", "gradient"), mine, theirs, strict=True):
        assert len(ours) == len(reference)
        for a, b in zip(ours, reference, strict=True):
            if not isinstance(b, np.ndarray):
                assert a == b, f"{what} of {shown}: {a}, PyTorch {b}"
                continue
            assert a is not None and a.dtype == b.dtype, f"{what} of {shown}: {a if a is None else a.dtype}, PyTorch {b.dtype}"
            digits = {"float16": 3e-3, "float32": 3e-5}.get(str(a.dtype), 1e-10)
            scale = np.abs(b[np.isfinite(b)]).max(initial=1.0) if b.dtype.kind == "f" else 1.0
            np.testing.assert_allclose(a, b, rtol=digits, atol=digits * scale / 10, err_msg=f"{what} of {shown}")


UNARY = ["exp", "log", "sqrt", "abs", "sin", "cos", "tanh", "sigmoid", "relu", "neg", "clone"]


@pytest.mark.parametrize("name", UNARY)
@settings(drawn, max_examples=25)
@given(shape=shapes, dtype=types, seed=seeds)
def test_functions_of_one_number(name, shape, dtype, seed):
    if dtype == "bool" and name in ("abs", "relu"):
        return  # PyTorch refuses, NumPy does not
    agree(lambda lib, x: getattr(x, name)(), numbers(seed, shape, dtype))
    if name != "neg":
        agree(lambda lib, x: getattr(lib, name)(x), numbers(seed, shape, dtype))


BINARY = {
    "add": lambda lib, a, b: a + b,
    "sub": lambda lib, a, b: a - b,
    "mul": lambda lib, a, b: a * b,
    "div": lambda lib, a, b: a / b,
    "maximum": lambda lib, a, b: lib.maximum(a, b),
    "minimum": lambda lib, a, b: lib.minimum(a, b),
    "eq": lambda lib, a, b: a == b,
    "ne": lambda lib, a, b: a != b,
    "lt": lambda lib, a, b: a < b,
    "le": lambda lib, a, b: a <= b,
    "gt": lambda lib, a, b: a > b,
    "ge": lambda lib, a, b: a >= b,
}


@pytest.mark.parametrize("name", BINARY)
@settings(drawn, max_examples=40)
@given(pair=broadcastable(), left=common_types, right=common_types, seed=seeds, ties=st.booleans())
def test_functions_of_two_tensors(name, pair, left, right, seed, ties):
    if {left, right} == {"int32", "int64"} and () in pair:
        return  # to PyTorch the integer without axes counts as a number, and the result stays int32; here it is int64
    agree(BINARY[name], numbers(seed, pair[0], left, ties), numbers(seed + 1, pair[1], right, ties))


@settings(drawn, max_examples=120)
@given(pair=broadcastable(), dtype=floats, seed=seeds)
def test_powers_and_remainders(pair, dtype, seed):
    a, b = np.abs(numbers(seed, pair[0], dtype)) + np.asarray(0.2, dtype), numbers(seed + 1, pair[1], dtype)
    agree(lambda lib, a, b: a**b, np.asarray(a), b)
    agree(lambda lib, a, b: b % a, np.asarray(a), b)


def test_the_divisor_of_a_remainder_feels_the_quotient_that_was_taken():
    """1 / 0.1 rounds to 10, but 1 % 0.1 is 0.1, so the quotient was 9."""
    agree(lambda lib, a, b: a % b, np.array([1.0, 3.0, -1.0], np.float32), np.full(3, 0.1, np.float32))


@settings(drawn, max_examples=80)
@given(shape=shapes, dtype=types, seed=seeds, number=st.sampled_from([0, 1, 2, 3, -1, 0.5, 2.0, -1.5, True, 7]),
    i=st.integers(0, 11))
def test_numbers_on_either_side(shape, dtype, seed, number, i):
    operation = [
        lambda lib, x: x + number, lambda lib, x: number + x, lambda lib, x: x - number, lambda lib, x: number - x,
        lambda lib, x: x * number,
        lambda lib, x: number * x, lambda lib, x: x / number, lambda lib, x: number / x, lambda lib, x: x > number,
        lambda lib, x: number >= x,
        lambda lib, x: x == number, lambda lib, x: x**number,
    ][i]  # fmt: skip
    if (i in (2, 3) and number is True) or (i == 11 and (dtype in ("int64", "int32", "bool") or number == -1.5)):
        return  # True counts as 1, which PyTorch refuses to subtract; powers of integers are left to NumPy's rules
    agree(operation, numbers(seed, shape, dtype))


@settings(drawn, max_examples=60)
@given(shape=shapes, dtype=st.sampled_from(["int64", "bool", "int32"]), seed=seeds)
def test_logic_and_whole_numbers(shape, dtype, seed):
    a, b = numbers(seed, shape, dtype), numbers(seed + 1, shape, dtype)
    for operation in (lambda lib, a, b: a & b, lambda lib, a, b: a | b, lambda lib, a, b: a ^ b, lambda lib, a, b: ~a):
        agree(operation, a, b)
    if dtype != "bool":
        for operation in (lambda lib, a: a // 3, lambda lib, a: a % 3, lambda lib, a: a // -2, lambda lib, a: a % -2):
            agree(operation, a)


@settings(drawn, max_examples=120)
@given(
    front=st.lists(st.sampled_from([1, 2, 3]), max_size=2), m=sizes, k=sizes, n=sizes,
    cut=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    wrong=st.integers(0, 7), dtype=floats, seed=seeds, turned=st.booleans(),
)  # fmt: skip
def test_matmul(front, m, k, n, cut, wrong, dtype, seed, turned):
    a, b = [*front, m, k], [*front, k + (wrong == 0), n]
    a, b = a[min(cut[0], len(a)) :], b[min(cut[1], len(b) - 1) :]
    if cut[1] >= 3:
        b = [k]
    x, y = numbers(seed, tuple(a), dtype), numbers(seed + 1, tuple(b), dtype)
    agree(lambda lib, x, y: x @ y, x, y)
    if turned and x.ndim > 1:
        agree(lambda lib, x, y: lib.matmul(x.transpose(-1, -2).transpose(-2, -1), y), x, y)


def test_matmul_refuses_what_pytorch_refuses():
    for a, b in [((), (3,)), ((3,), ()), ((2, 3), (2, 3)), ((2, 2, 3), (3, 3, 4)), ((3,), (4, 3)), ((0,), (1,))]:
        agree(lambda lib, a, b: a @ b, numbers(0, a, "float32"), numbers(1, b, "float32"))


REDUCTIONS = ["sum", "mean", "amax", "amin", "logsumexp", "var", "std"]
some_dims = st.one_of(dims, st.lists(dims, min_size=1, max_size=3).map(tuple))


@pytest.mark.parametrize("name", REDUCTIONS)
@settings(drawn, max_examples=80)
@given(shape=full_shapes, dim=some_dims, keepdim=st.booleans(), dtype=floats, seed=seeds, ties=st.booleans())
def test_reductions(name, shape, dim, keepdim, dtype, seed, ties):
    if ties and name in ("std", "var"):
        ties = False  # the slope of a deviation that is 0 in one library and 1e-8 in the other has no meaning
    agree(lambda lib, x: getattr(x, name)(dim=dim, keepdim=keepdim), numbers(seed, shape, dtype, ties))


@settings(drawn, max_examples=80)
@given(shape=shapes, dtype=types, seed=seeds, keepdim=st.booleans())
def test_reductions_of_everything(shape, dtype, seed, keepdim):
    x = numbers(seed, shape, dtype, ties=True)
    agree(lambda lib, x: x.sum(), x)
    agree(lambda lib, x: x.mean(), x)
    for name in ("max", "min", "argmax", "argmin", "any", "all"):
        if dtype == "bool" and name.startswith("arg"):
            continue
        agree(lambda lib, x, name=name: getattr(x, name)(), x, gradients=dtype != "float16")


@settings(drawn, max_examples=80)
@given(shape=full_shapes, dim=dims, keepdim=st.booleans(), correction=st.integers(0, 3), dtype=floats, seed=seeds)
def test_variance_with_corrections(shape, dim, keepdim, correction, dtype, seed):
    x = numbers(seed, shape, dtype)
    defined = not -len(shape) <= dim < len(shape) or shape[dim] > correction  # else the slope has no meaning
    for name in ("var", "std"):
        agree(lambda lib, x, name=name: getattr(x, name)(dim=dim, correction=correction, keepdim=keepdim), x, gradients=defined)
        agree(lambda lib, x, name=name: getattr(x, name)(dim=dim, unbiased=bool(correction)), x, gradients=defined)


@settings(drawn, max_examples=120)
@given(shape=full_shapes, dim=dims, keepdim=st.booleans(), dtype=floats, seed=seeds, ties=st.booleans())
def test_extremes_and_their_places(shape, dim, keepdim, dtype, seed, ties):
    x = numbers(seed, shape, dtype, ties)
    for name in ("max", "min"):
        agree(lambda lib, x, name=name: getattr(x, name)(dim=dim, keepdim=keepdim)[0], x)
        agree(lambda lib, x, name=name: getattr(lib, name)(x, dim, keepdim)[0], x)
        agree(lambda lib, x, name=name: getattr(x, "arg" + name)(dim=dim, keepdim=keepdim), numbers(seed, shape, dtype))
        agree(lambda lib, x, name=name: getattr(x, name)(dim=dim, keepdim=keepdim)[1], numbers(seed, shape, dtype))


@settings(drawn, max_examples=60)
@given(shape=shapes, dim=dims, dtype=types, seed=seeds, scale=st.sampled_from([1, 100, 3000]))
def test_softmax_and_running_sums(shape, dim, dtype, seed, scale):
    x = numbers(seed, shape, dtype)
    x = np.asarray(x * np.asarray(scale, dtype)) if dtype.startswith("float") else x
    agree(lambda lib, x: x.cumsum(dim=dim), numbers(seed, shape, dtype))
    if dtype in ("float32", "float64"):
        for name in ("softmax", "log_softmax", "logsumexp"):
            if not x.size and name == "logsumexp":
                continue
            agree(lambda lib, x, name=name: getattr(x, name)(dim=dim), x)


@settings(drawn, max_examples=80)
@given(shape=shapes, data=st.data(), dtype=floats, seed=seeds)
def test_shapes(shape, data, dtype, seed):
    x, n = numbers(seed, shape, dtype), len(shape)
    dim0, dim1 = data.draw(dims), data.draw(dims)
    order = data.draw(st.permutations(range(n)))
    signed = [d - n * data.draw(st.booleans()) for d in order]
    agree(lambda lib, x: x.transpose(dim0, dim1), x)
    agree(lambda lib, x: x.permute(*signed) if signed else x.permute(()), x)
    agree(lambda lib, x: lib.permute(x, dims=tuple(signed)), x)
    agree(lambda lib, x: x.permute(*signed, 0), x)
    agree(lambda lib, x: x.squeeze(), x)
    agree(lambda lib, x: x.squeeze(dim0), x)
    agree(lambda lib, x: x.unsqueeze(dim0), x)
    agree(lambda lib, x: x.flatten(dim0, dim1), x)
    agree(lambda lib, x: x.flatten(), x)
    agree(lambda lib, x: x.flip(dim0), x)
    agree(lambda lib, x: x.flip((dim0, dim1)), x)
    agree(lambda lib, x: x.permute(tuple(signed)).reshape(-1), x)
    agree(lambda lib, x: lib.flip(x, dims=(dim0,)), x)


@settings(drawn, max_examples=80)
@given(shape=full_shapes, new=st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6, 8, 12]), max_size=3), data=st.data(), seed=seeds)
def test_reshape_view_and_expand(shape, new, data, seed):
    x = numbers(seed, shape, "float32")
    agree(lambda lib, x: x.reshape(*new) if new else x.reshape(()), x)
    agree(lambda lib, x: x.reshape(tuple(new)), x)
    agree(lambda lib, x: lib.reshape(x, tuple(new)), x)
    if x.ndim > 1:
        agree(lambda lib, x: x.transpose(0, 1).reshape(tuple(new)), x)
    rest = [n if data.draw(st.integers(0,
        3)) else -1 for n in (m if m > 1 else data.draw(st.sampled_from([1, 3])) for m in shape)]
    agree(lambda lib, x: x.expand(*data.draw(st.just(new)), *rest), x)
    agree(lambda lib, x: x.expand(2, *rest), x)
    agree(lambda lib, x: x.expand(tuple(new)), x)


def test_view_refuses_what_pytorch_refuses():
    x = numbers(0, (2, 3, 4), "float32")
    for call in (
        lambda lib, x: x.transpose(0, 1).view(6, 4), lambda lib, x: x.transpose(0, 1).view(3, 2, 2, 2), lambda lib,
        x: x.view(6, -1),
        lambda lib, x: x.transpose(1, 2).view(2, 12), lambda lib, x: x[:, 1:].view(-1), lambda lib, x: x[1:].view(-1),
        lambda lib, x: x.view(5, 5),
    ):  # fmt: skip
        agree(call, x)


@st.composite
def indices(draw, shape):
    """An index that NumPy and PyTorch share: integers, slices, None, ..., and at most one array, or two beside each other."""
    parts, arrays = [], 0
    for n in shape[: draw(st.integers(0, len(shape)))]:
        kind = draw(st.sampled_from(["integer", "slice", "all", "array", "mask", "none"]))
        if kind == "none":
            parts.append(None)
        elif kind == "integer":
            parts.append(draw(st.integers(-n - (not draw(st.integers(0, 9))), n - 1 + (not draw(st.integers(0, 9))))))
        elif kind == "slice":
            parts.append(slice(draw(st.one_of(st.none(), st.integers(-5, 5))),
                draw(st.one_of(st.none(), st.integers(-5, 5))), draw(st.sampled_from([None, 1, 2]))))
        elif kind == "all" or arrays:
            parts.append(slice(None))
        elif kind == "mask":
            arrays += 1
            parts.append(np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))))
        else:
            arrays += 1
            length = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
            parts.append(np.array(draw(st.lists(st.integers(-n, n - 1), min_size=int(np.prod(length)),
                max_size=int(np.prod(length))))).reshape(length))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
    return tuple(parts)


def lifted(lib, index):
    """An index whose arrays are the library's tensors."""
    as_tensor = (lambda a: engine.tensor(a)) if lib is engine else torch.tensor
    return tuple(as_tensor(i) if isinstance(i, np.ndarray) else i for i in index)


@settings(drawn, max_examples=80)
@given(data=st.data(), shape=full_shapes, seed=seeds)
def test_indexing(data, shape, seed):
    index = data.draw(indices(shape))
    x = numbers(seed, shape, "float32")
    agree(lambda lib, x: x[lifted(lib, index)], x)
    if len(index) == 1:
        agree(lambda lib, x: x[lifted(lib, index)[0]], x)

    def assign(lib, x):
        y = x * 1.0
        y[lifted(lib, index)] = 7.0
        return y

    agree(assign, x)


@settings(drawn, max_examples=60)
@given(shape=full_shapes, seed=seeds, count=st.integers(0, 200))
def test_indexing_with_arrays_beside_each_other(shape, seed, count):
    rng = np.random.default_rng(seed)
    x = numbers(seed, shape, "float64")
    index = tuple(rng.integers(-n, n, count) for n in shape[: rng.integers(1, len(shape) + 1)])
    agree(lambda lib, x: x[lifted(lib, index)], x)
    agree(lambda lib, x: x[lifted(lib, (numbers(seed, shape, "bool"),))], x)
    agree(lambda lib, x: x[[0, -1, 0]], x)
    agree(lambda lib, x: x[..., [0, 0]], x)

    def put(lib, x, value):
        y = x * 2.0
        y[lifted(lib, (numbers(seed, shape, "bool"),))] = value
        return y

    agree(put, x, np.array(1.5))


@settings(drawn, max_examples=60)
@given(shape=full_shapes, dim=dims, count=st.integers(1, 3), dtype=types, other=types, seed=seeds, odd=st.integers(0, 4))
def test_joining_and_splitting(shape, dim, count, dtype, other, seed, odd):
    parts = [numbers(seed + i, shape, other if i else dtype) for i in range(count)]
    if odd == 0:
        parts.append(numbers(seed, (*shape, 2), dtype))
    elif odd == 1 and -len(shape) <= dim < len(shape):
        longer = list(shape)
        longer[dim] += 2
        parts.append(numbers(seed, tuple(longer), dtype))
    agree(lambda lib, *parts: lib.cat(list(parts), dim=dim), *parts)
    agree(lambda lib, *parts: lib.stack(parts, dim=dim), *parts)
    for size in (1, 2, 3, [1] * 3, [2, 1], [0, shape[0]]):
        agree(lambda lib, x, size=size: x.split(size, dim), parts[0])
    for chunks in (0, 1, 2, 3, 5):
        agree(lambda lib, x, chunks=chunks: x.chunk(chunks, dim), parts[0])


@settings(drawn, max_examples=60)
@given(shape=full_shapes, data=st.data(), seed=seeds, dtype=floats)
def test_padding(shape, data, seed, dtype):
    width = 2 * data.draw(st.integers(0, min(3, len(shape) + 1)))
    widths = tuple(data.draw(st.lists(st.integers(-2, 3), min_size=width, max_size=width)))
    value = data.draw(st.sampled_from([0.0, 1.5, -1.0]))
    if any(n + a + b < 1 or n + min(a, 0) + min(b, 0) < 0 for n, a,
        b in zip(shape[::-1], widths[::2], widths[1::2], strict=False)):
        return  # PyTorch asks for at least one number, and cuts before it pads
    call = lambda lib, x: (engine if lib is engine else torch.nn.functional).pad(x, widths, mode="constant", value=value)
    agree(call, numbers(seed, shape, dtype))


@settings(drawn, max_examples=60)
@given(pair=broadcastable(), mask=shapes, dtype=common_types, other=common_types, seed=seeds, same=st.booleans())
def test_choosing(pair, mask, dtype, other, seed, same):
    a, b = numbers(seed, pair[0], dtype), numbers(seed + 1, pair[1], dtype if same else other)
    mask = numbers(seed + 2, pair[seed % 2] if same else mask, "bool")
    agree(lambda lib, m, a, b: lib.where(m, a, b), mask, a, b)
    agree(lambda lib, m, a: lib.where(m, a, 2.5 if "float" in dtype else 3), mask, a)
    grows = mask.ndim > a.ndim or any(m != 1 == n for m, n in zip(mask.shape[::-1], a.shape[::-1], strict=False))
    if dtype != "bool" and not grows:  # PyTorch would also stretch the tensor to its mask
        agree(lambda lib, m, a: a.masked_fill(m, 2), mask, a)


@settings(drawn, max_examples=80)
@given(shape=shapes, dtype=types, seed=seeds, low=st.sampled_from([None, -1, 0.5, 0]), high=st.sampled_from([None, 1, 0.5, -2.0]))
def test_clamp(shape, dtype, seed, low, high):
    if dtype == "bool":
        return
    agree(lambda lib, x: x.clamp(min=low, max=high), numbers(seed, shape, dtype, ties=True), gradients=dtype != "float16")
    agree(lambda lib, x: lib.clamp(x, low, high), numbers(seed, shape, dtype, ties=True), gradients=dtype != "float16")


@settings(drawn, max_examples=80)
@given(shape=full_shapes, dim=dims, seed=seeds, length=st.integers(0, 5))
def test_gather(shape, dim, seed, length):
    if -len(shape) <= dim < len(shape):
        chosen = list(shape)
        chosen[dim] = length
        index = np.random.default_rng(seed).integers(0, shape[dim], chosen)
    else:
        index = np.zeros(shape, np.int64)
    agree(lambda lib, x, i: x.gather(dim, i), numbers(seed, shape, "float64"), index)
    agree(lambda lib, x, i: lib.gather(x, dim, i + 9), numbers(seed, shape, "float64"), index)


@settings(drawn, max_examples=80)
@given(shape=shapes, diagonal=st.integers(-3, 3), dtype=floats, seed=seeds)
def test_triangles(shape, diagonal, dtype, seed):
    agree(lambda lib, x: lib.tril(x, diagonal=diagonal), numbers(seed, shape, dtype))
    agree(lambda lib, x: x.triu(diagonal), numbers(seed, shape, dtype))


EQUATIONS = [
    ("ij,jk->ik", "ij", "jk"), ("ij,jk", "ij", "jk"), ("bij,bjk->bik", "bij", "bjk"), ("ii", "ii"), ("ii->i", "ii"),
    ("ij->j", "ij"), ("i,j->ij", "i", "j"),
    ("bhqd,bhkd->bhqk", "bhqd", "bhkd"), ("ij,ij->", "ij", "ij"), ("ij,kj,k->i", "ij", "kj", "k"), ("ij->ji", "ij"),
    ("abc,cd,de->abe", "abc", "cd", "de"),
    ("...i,...i->...", "abi", "bi"), ("...ij,jk->...ik", "aij", "jk"), ("iij->ij", "iij"), ("ij,k->ik", "ij", "k"),
    ("i,i,i->i", "i", "i", "i"),
    ("ij,jk->il", "ij", "jk"), ("ij->ii", "ij"), ("ijk->ij", "ij"), ("b...->b", "bij"),
]  # fmt: skip


@settings(drawn, max_examples=80)
@given(case=st.sampled_from(EQUATIONS), seed=seeds, dtype=floats, wrong=st.integers(0, 9))
def test_einsum(case, seed, dtype, wrong):
    rng = np.random.default_rng(seed)
    size = {letter: int(rng.integers(1, 5)) for letter in "abcdefhijklqr"}
    shapes = [tuple(size[letter] for letter in term) for term in case[1:]]
    if wrong == 0:
        shapes[-1] = (*shapes[-1][:-1], shapes[-1][-1] + 5)
    agree(lambda lib, *x: lib.einsum(case[0], *x), *(numbers(seed + i, shape, dtype) for i, shape in enumerate(shapes)))


FACTORIES = {
    "zeros": lambda lib: lib.zeros(2, 3), "ones": lambda lib: lib.ones((2, 0)), "full": lambda lib: lib.full((2,), 3),
    "full real": lambda lib: lib.full((2,), 2.5),
    "full boolean": lambda lib: lib.full((1,), True), "eye": lambda lib: lib.eye(3), "eye 2": lambda lib: lib.eye(2, 4),
    "arange": lambda lib: lib.arange(5),
    "arange 2": lambda lib: lib.arange(2, 9, 3), "arange real": lambda lib: lib.arange(0, 1, 0.25),
    "arange down": lambda lib: lib.arange(5, 0, -2),
    "arange empty": lambda lib: lib.arange(0), "linspace": lambda lib: lib.linspace(-1, 2, 7),
    "linspace 1": lambda lib: lib.linspace(3, 4, 1),
    "zeros_like": lambda lib: lib.zeros_like(lib.arange(3)), "ones_like": lambda lib: lib.ones_like(lib.ones(2, 2)),
    "full_like": lambda lib: lib.full_like(lib.ones(2), 3),
    "tensor": lambda lib: lib.tensor([[1, 2], [3, 4]]), "tensor real": lambda lib: lib.tensor([1, 2.5]),
    "tensor boolean": lambda lib: lib.tensor([True]),
    "tensor number": lambda lib: lib.tensor(3), "tensor empty": lambda lib: lib.tensor([]),
    "ragged": lambda lib: lib.tensor([[1], [1, 2]]),
    "negative size": lambda lib: lib.zeros(-1), "words": lambda lib: lib.tensor("a"),
    "zero step": lambda lib: lib.arange(0, 3, 0),
    "wrong way": lambda lib: lib.arange(3, 0), "grad of integers": lambda lib: lib.tensor([1], requires_grad=True),
    "negative steps": lambda lib: lib.linspace(0, 1, -1),
    "randint shape": lambda lib: lib.randint(3, 4, (2, 2)), "randint": lambda lib: lib.randint(1, (3,)),
    "randint empty": lambda lib: lib.randint(3, 3, (1,)),
    "item": lambda lib: lib.ones(2).item(), "one": lambda lib: lib.ones(1, 1).item(),
    "bool": lambda lib: bool(lib.ones(2)), "numel": lambda lib: lib.ones(2, 3).numel(),
    "size": lambda lib: lib.ones(2, 3).size(-1), "int": lambda lib: int(lib.tensor(2.7)),
    "len": lambda lib: len(lib.tensor(1.0)), "tolist": lambda lib: lib.ones(2).tolist(),
    "numpy": lambda lib: lib.ones(2, requires_grad=True).numpy(), "iterate": lambda lib: list(lib.tensor(2.0)),
    "index 0-d": lambda lib: lib.tensor(2.0)[0],
    "float index": lambda lib: lib.ones(3)[1.0], "too many": lambda lib: lib.ones(3)[0, 0],
    "equal": lambda lib: lib.equal(lib.ones(2), lib.ones(2)),
    "allclose": lambda lib: lib.allclose(lib.ones(2), lib.ones(2) + 1e-9),
    "no requires": lambda lib: lib.ones(1).backward(), "len 2": lambda lib: len(lib.ones(2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_and_small_talk(name):
    agree(FACTORIES[name])


@settings(drawn, max_examples=60)
@given(shape=shapes, dtype=types, to=st.sampled_from(["float", "double", "long", "int", "bool", "half"]), seed=seeds)
def test_conversions(shape, dtype, to, seed):
    agree(lambda lib, x: getattr(x, to)(), numbers(seed, shape, dtype))


@pytest.mark.parametrize("name",
    ["sigmoid", "tanh", "exp", "log", "sqrt", "relu", "abs", "softmax", "log_softmax", "logsumexp", "cumsum", "max",
        "min", "var", "std"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strange_numbers(name, dtype):
    strange = [
        [-1e4, 1e4, 0.0, -0.0, 1.0], [np.inf, 1.0, 2.0, 3.0, 4.0], [-np.inf, 1.0, 2.0, 3.0, 4.0],
        [np.nan, 1.0, 2.0, 3.0, 4.0], [1e-30, 1e30, 5.0, 5.0, 5.0],
        [0.0] * 5, [-np.inf] * 5,
    ]  # fmt: skip
    options = {"dim": 0} if name in ("softmax", "log_softmax", "logsumexp", "cumsum") else {}
    for row in strange:
        if name in ("var", "std", "cumsum") and np.abs(row).max() == 1e30:
            continue  # beyond the type's range, where the order of the sum decides
        smooth = not np.isnan(row).any() and not np.isneginf(row).all()  # else the slope has no meaning
        agree(lambda lib, x: getattr(x, name)(**options), np.array(row, dtype), gradients=smooth)


@settings(drawn, max_examples=40)
@given(seed=seeds, dtype=floats, depth=st.integers(1, 12))
def test_random_graphs(seed, dtype, depth):
    def program(lib, a, b, w):
        rng, pool = np.random.default_rng(seed), [a, b]
        for _ in range(depth):
            x, y = (pool[i] for i in rng.integers(0, len(pool), 2))
            step = [
                lambda x, y: x + y, lambda x, y: x * y * 0.3, lambda x, y: (x - y).tanh(), lambda x,
                y: x.sigmoid() / (1.0 + y * y),
                lambda x, y: x @ w, lambda x, y: x.softmax(dim=-1) + y.mean(dim=0), lambda x, y: lib.cat([x, y], dim=0)[1:4],
                lambda x, y: lib.where(x > y, x, y * 0.5), lambda x, y: lib.stack([x, y]).sum(dim=0), lambda x,
                y: (x.transpose(0, 1) @ y).relu() @ w * 0.1,
                lambda x, y: lib.maximum(x, y) - x.max(dim=1, keepdim=True)[0], lambda x, y: x[[0, 0, 2]] * 0.5,
                lambda x, y: (x * x + 1.0).log() + y.flip((0,)),
            ][rng.integers(0, 13)]  # fmt: skip
            pool.append(step(x, y)[:3])
        return sum(p.sum() for p in pool[2:]) if depth % 2 else pool[-1]

    agree(program, numbers(seed, (3, 3), dtype), numbers(seed + 1, (3, 3), dtype), numbers(seed + 2, (3, 3), dtype))


def test_relu_sends_a_gradient_back_through_nan():
    values = np.array([np.nan, -np.inf, -1, -0.0, 0, 2, np.inf], np.float32)
    ours, theirs = engine.Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    upstream = np.arange(1, 8, dtype=np.float32)
    engine.relu(ours).backward(upstream)
    torch.relu(theirs).backward(torch.from_numpy(upstream))
    np.testing.assert_array_equal(ours.grad, theirs.grad.numpy())
