"""The exercises of chapter 99, their oracles, and the mistakes that learners make."""

import io
import json
import pickle
import tempfile
import zlib
from math import ceil
from pathlib import Path

import numpy as np

from shared import datasets
from shared.checks import Exercise, Mistake
from shared.deployment import dequantise, load_model, quantise
from shared.tensor import Tensor, no_grad
from shared.tensor_mlp import load, save

OBJECTIVES = (
    "read and write a file of weights, and say why it is no pickle",
    "hand a model on with the inputs that it was trained on, and prove that it is the same",
    "shrink weights to whole numbers and bound the error",
    "measure latency and reason about queues",
    "choose tests that can fail",
)


# --- 99.1 One array out of a file -------------------------------------------------------------------------------------


def saved_bytes(arrays):
    """What `save` writes, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        save(arrays, Path(folder) / "file.safetensors")
        return (Path(folder) / "file.safetensors").read_bytes()


def read_array(content, name, *, header=8, numbers=True, kind="<f4", order="C"):
    """One array; the last four arguments make the mistakes below."""
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])[name]
    base = header + length if numbers else 0
    start, stop = entry["data_offsets"]
    return np.frombuffer(content[base + start : base + stop], kind).reshape(entry["shape"], order=order)


def array_files(rng):
    """Files with several arrays, so that every array but one begins somewhere else than at 0."""
    arrays = {name: rng.normal(size=shape).astype(np.float32)
              for name, shape in {"b": (3,), "conv.weight": (2, 3, 4), "w": (5, 2)}.items()}
    return [(np.frombuffer(saved_bytes(arrays), np.uint8), name) for name in ("conv.weight", "w", "b")]


def read_from_bytes(answer, content, name):
    """The answer gets bytes; the case holds an array, which the checker can compare."""
    return answer(content.tobytes(), name)


ARRAY = Exercise(
    "99.1",
    "one array out of a file",
    2,
    20,
    OBJECTIVES[0],
    expected=lambda content, name: read_array(content, name),
    cases=array_files,
    observe=read_from_bytes,
    mistakes=[
        Mistake("data_offsets count from the end of the header, not from the start of the file",
                lambda c, n: read_array(c, n, numbers=False)),
        Mistake("you are eight bytes short: the header itself begins after its length", lambda c, n: read_array(c, n, header=0)),
        Mistake("the bytes are little-endian: the least significant first", lambda c, n: read_array(c, n, kind=">f4")),
        Mistake("the shape is missing: frombuffer gives one flat row of numbers", lambda c, n: read_array(c, n).ravel()),
        Mistake("the last index runs fastest, as in NumPy and PyTorch, not the first", lambda c, n: read_array(c, n, order="F")),
    ],
)


# --- 99.2 Pixels in the right order -----------------------------------------------------------------------------------


def batch_of(pictures, mean, std, *, order=(0, 3, 1, 2), full=255.0):
    """Photographs as a network's input; the last two arguments make the mistakes below."""
    return (pictures.transpose(order) / full - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


def photographs(rng):
    """Bytes (N, H, W, 3), one set of them square, with means and deviations that differ between the channels."""
    return [(rng.integers(0, 256, (n, h, w, 3), np.uint8), rng.uniform(0.3, 0.6, 3), rng.uniform(0.1, 0.3, 3))
            for n, h, w in ((2, 4, 6), (3, 5, 5))]


def reshaped(pictures, mean, std):
    """The shape is right, the pixels are not."""
    n, h, w, _ = pictures.shape
    return batch_of(pictures.reshape(n, 3, h, w), mean, std, order=(0, 1, 2, 3))


def reshaped_last(pictures, mean, std):
    """Each pixel is standardised as it should be, and only then the row of numbers is cut anew."""
    n, h, w, _ = pictures.shape
    return batch_of(pictures, mean, std).transpose(0, 2, 3, 1).reshape(n, 3, h, w)


def as_array(answer, *case):
    """What the answer returns, as an array: a list of pictures counts as one."""
    result = answer(*case)
    return result if result is None or result is ... else np.asarray(result)


PIXELS = Exercise(
    "99.2",
    "pixels in the right order",
    1,
    15,
    OBJECTIVES[1],
    expected=lambda pictures, mean, std: batch_of(pictures, mean, std),
    cases=photographs,
    observe=as_array,
    mistakes=[
        Mistake("reshape cuts the row of numbers anew: each channel is now a mixture of all three. Move the axis instead",
                reshaped),
        Mistake("the numbers are right and in the wrong places: reshape cuts their row anew, it does not move the axis",
                reshaped_last),
        Mistake("height and width have changed places: the pictures lie on their side",
                lambda p, m, s: batch_of(p, m, s, order=(0, 3, 2, 1))),
        Mistake("the channels still come last", lambda p, m, s: batch_of(p, m, s).transpose(0, 2, 3, 1)),
        Mistake("mean and std belong to pixels from 0 to 1, and yours go to 255", lambda p, m, s: batch_of(p, m, s, full=1.0)),
        Mistake("255 divides the pixels alone, before the mean is taken off",
                lambda p, m, s: batch_of(p, m, s, full=1.0) / 255),
        Mistake("// leaves whole numbers only, so nearly every pixel is 0; divide with /",
                lambda p, m, s: batch_of(p // 255, m, s, full=1.0)),
        Mistake("the brightest byte is 255, and it becomes 1", lambda p, m, s: batch_of(p, m, s, full=256.0)),
        Mistake("these pixels go from -1 to 1; the network wants them from 0 to 1, less the mean",
                lambda p, m, s: batch_of(p * 2.0 - 255, m, s)),
        Mistake("red and blue have changed places", lambda p, m, s: batch_of(p[..., ::-1], m, s)),
        Mistake("each channel is right, but red and blue have changed places", lambda p, m, s: batch_of(p, m, s)[:, ::-1]),
        Mistake("std is a deviation already; do not square it", lambda p, m, s: batch_of(p, m, s) / np.reshape(s, (3, 1, 1))),
        Mistake("divide by std; you multiply by it", lambda p, m, s: batch_of(p, m, 1 / s)),
        Mistake("the deviations are missing", lambda p, m, s: batch_of(p, m, np.ones(3))),
        Mistake("the means are missing", lambda p, m, s: batch_of(p, np.zeros(3), s)),
        Mistake("the mean is taken off, not added", lambda p, m, s: batch_of(p, -m, s)),
        Mistake("first less the mean, then divided by std", lambda p, m, s: batch_of(p, m * s, s)),
        Mistake("these are the pictures' own mean and deviation; the network was trained with those that you are given",
                lambda p, m, s: batch_of(p, p.mean((0, 1, 2)) / 255, p.std((0, 1, 2)) / 255)),
        Mistake("each picture is standardised by its own mean and deviation; use those that you are given",
                lambda p, m, s: np.concatenate([batch_of(q[None], q.mean((0, 1)) / 255, q.std((0, 1)) / 255) for q in p])),
        Mistake("the pixels are from 0 to 1, but not yet standardised", lambda p, m, s: batch_of(p, np.zeros(3), np.ones(3))),
        Mistake("the axes are in order; now the numbers: from 0 to 1, then standardised",
                lambda p, m, s: batch_of(p, np.zeros(3), np.ones(3), full=1.0)),
    ],
    rtol=1e-4,
    atol=1e-5,
)


# --- 99.3 Whole numbers with a step for each row ----------------------------------------------------------------------


def rounded(w, bits, *, axis=1, top=lambda bits: 2 ** (bits - 1) - 1, to_whole=np.rint):
    """Rounding; the last three arguments make the mistakes below."""
    largest = np.abs(w).max(axis=axis, keepdims=True)
    step = np.where(largest > 0, largest / top(bits), 1)
    return to_whole(w / step) * step


def zero_by_zero(w, bits):
    """A row of zeros becomes NaN."""
    with np.errstate(invalid="ignore"):
        step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        return np.rint(w / step) * step


def matrices(rng):
    """Matrices whose rows and columns differ in size, one of them with a row of zeros."""
    one, two = rng.normal(size=(3, 7)) * [[1], [10], [0.1]], rng.normal(size=(4, 5))
    two[2] = 0
    return [(one, 8), (two, 4), (one, 2)]


ROUNDED = Exercise(
    "99.3",
    "whole numbers with a step for each row",
    2,
    20,
    OBJECTIVES[2],
    expected=lambda w, bits: rounded(w, bits),
    cases=matrices,
    mistakes=[
        Mistake("one step serves the whole matrix; each row wants its own", lambda w, b: rounded(w, b, axis=None)),
        Mistake("the steps belong to the columns; a row is what makes one output", lambda w, b: rounded(w, b, axis=0)),
        Mistake("the largest whole number is 2^(bits - 1) - 1: one bit is the sign",
                lambda w, b: rounded(w, b, top=lambda bits: 2**bits - 1)),
        Mistake("2^(bits - 1) itself does not fit: 128 is no int8", lambda w, b: rounded(w, b, top=lambda bits: 2 ** (bits - 1))),
        Mistake("this cuts off towards zero; round to the nearest", lambda w, b: rounded(w, b, to_whole=np.trunc)),
        Mistake("a row of zeros has become NaN: 0 / 0", zero_by_zero),
    ],
)


# --- 99.4 Predict, then run -------------------------------------------------------------------------------------------

TAIL = Exercise(
    "99.4",
    "predict, then run",
    1,
    10,
    OBJECTIVES[3],
    expected=1 - 0.99**60,
    rtol=0.01,
    mistakes=[
        Mistake("60 times 1 % counts pages with two slow services twice", 0.6),
        Mistake("that is the share of pages that are fast", 0.99**60),
        Mistake("that is one service; the page waits for the slowest of 60", 0.01),
        Mistake("that all 60 are slow at once: one is enough", 0.01**60),
        Mistake("exactly one slow service; two or more also make the page slow", 60 * 0.01 * 0.99**59),
    ],
)


# --- 99.5 Find the bug ------------------------------------------------------------------------------------------------


def percentile(seconds, q):
    """Nearest rank."""
    return sorted(seconds)[max(ceil(q * len(seconds) / 100), 1) - 1]


def many_percentiles(answer, seconds):
    """Percentiles of one list; it comes unsorted."""
    values = [answer(list(seconds), q) for q in (1, 7, 25, 50, 90, 99, 100)]
    return None if all(value is None for value in values) else np.array(values, dtype=float)


PERCENTILE = Exercise(
    "99.5",
    "find the bug",
    2,
    15,
    OBJECTIVES[3],
    expected=percentile,
    cases=lambda rng: [(rng.exponential(size=60),), (rng.exponential(size=7),), (rng.exponential(size=100),)],
    observe=many_percentiles,
    mistakes=[
        Mistake("this is still the colleague's: int() rounds down, so the value lies too low",
                lambda s, q: sorted(s)[int(q / 100 * (len(s) - 1))]),
        Mistake("q / 100 * n may come out as 7.000000000000001, which ceil makes 8: compute q * n / 100",
                lambda s, q: sorted(s)[max(ceil(q / 100 * len(s)), 1) - 1]),
        Mistake("it runs over the end of the list, or one place too far: Python counts from 0",
                lambda s, q: sorted(s)[min(ceil(q * len(s) / 100), len(s) - 1)]),
        Mistake("the times have to be sorted first", lambda s, q: s[max(ceil(q * len(s) / 100), 1) - 1]),
        Mistake("this lies between two measured times; return one that was measured", lambda s, q: float(np.percentile(s, q))),
        Mistake("sorted the wrong way round", lambda s, q: sorted(s, reverse=True)[max(ceil(q * len(s) / 100), 1) - 1]),
    ],
)


# --- 99.6 Write the test ----------------------------------------------------------------------------------------------


def layer_norm(x, weight, bias, eps, *, axis=1, correction=0, variance=None, root=lambda var, eps: np.sqrt(var + eps)):
    """Rows of mean 0 and variance 1, times weight, plus bias; the last four arguments make the wrong ones below."""
    centred = x - x.mean(axis, keepdims=True)
    var = variance(x) if variance else (centred**2).sum(axis, keepdims=True) / (x.shape[axis] - correction)
    return centred / root(var, eps) * weight + bias


def in_another_order(x, weight, bias, eps):
    """A right one, whose last digits differ."""
    mean, scale = x.mean(1), 1 / np.sqrt(np.var(x, axis=1) + eps)
    return x * (scale[:, None] * weight) - (mean * scale)[:, None] * weight + bias


def in_place(x, weight, bias, eps):
    """Right, but the caller's x is gone."""
    x -= x.mean(1, keepdims=True)
    return layer_norm(x, weight, bias, eps)


# the one that changes x comes last, since it may spoil what a test keeps outside of itself
WRONG = {
    "works down the columns": lambda x, w, b, eps: layer_norm(x, w, b, eps, axis=0),
    "takes one mean and one variance for the whole matrix":
        lambda x, w, b, eps: layer_norm(x.reshape(1, -1), 1, 0, eps).reshape(x.shape) * w + b,
    "forgets the bias": lambda x, w, b, eps: layer_norm(x, w, np.zeros_like(b), eps),
    "forgets the weight": lambda x, w, b, eps: layer_norm(x, np.ones_like(w), b, eps),
    "divides the sum of squares by one less than the row's length":
        lambda x, w, b, eps: layer_norm(x, w, b, eps, correction=1),
    "adds eps outside of the root": lambda x, w, b, eps: layer_norm(x, w, b, eps, root=lambda var, eps: np.sqrt(var) + eps),
    "takes the variance as mean(x^2) - mean(x)^2, of which only about four digits are right for numbers around a million "
    "that are not whole": lambda x, w, b, eps: layer_norm(
        x, w, b, eps, variance=lambda x: np.maximum((x**2).mean(1, keepdims=True) - x.mean(1, keepdims=True) ** 2, 0)),
    "changes its argument x": in_place,
}
# what else a learner's own formula may do, where the test rejects a right one
OWN_SLIPS = {
    "leaves eps out": lambda x, w, b, eps: layer_norm(x, w, b, 0),
    "divides by the variance, not by its root": lambda x, w, b, eps: layer_norm(x, w, b, eps, root=lambda var, eps: var + eps),
    "knows neither weight nor bias nor eps": lambda x, w, b, eps: layer_norm(x, 1, 0, 0),
}


def verdict_on(function, answer):
    """What the learner's test says of a function, which always has the same name and arguments; a failed assert is a no."""

    def layer_norm(x, weight, bias, eps):
        return function(x, weight, bias, eps)

    try:
        with np.errstate(all="ignore"):  # what a wrong one divides by zero is no news to the learner
            return answer(layer_norm)
    except AssertionError:
        return False


def passes(wrong, answer):
    """Whether a wrong one gets through; one that breaks the test is found out, too."""
    try:
        return bool(verdict_on(wrong, answer))
    except Exception:
        return False


def rejects(answer):
    """Why the test rejects a right one: what it lets pass instead tells."""
    taken = [what for what, wrong in (WRONG | OWN_SLIPS).items() if passes(wrong, answer) and wrong is not in_place]
    if len(taken) > len(WRONG) / 2:
        return "it is the wrong way round: False for a right one, and True for most wrong ones"
    if taken:
        return f"it rejects a right one and takes one that {taken[0]}; look at what your own test expects"
    return ("it rejects a right one: either it expects something wrong, or it is too strict. Two ways to compute the same "
            "differ in the last digits, and in more of them where the numbers are large")


def judge_test(answer):
    """Run the learner's test on right and on wrong functions."""
    for right in (layer_norm, in_another_order):
        word = verdict_on(right, answer)
        if word is None or word is ...:
            raise NotImplementedError
        if not isinstance(word, bool | np.bool_ | int):
            return f"it returns a value of type {type(word).__name__}, where a test says True or False"
        if not word:
            return rejects(answer)
    through = [what for what, wrong in WRONG.items() if passes(wrong, answer)]
    if through:
        return f"a wrong one passes: it {through[0]}. Wrong ones that pass: {len(through)} of {len(WRONG)}"
    return None


def written_test(rows, *, far=True, kept=True, equal=np.allclose, eps=0.5, weight=None, bias=None):
    """A test of layer_norm as a learner might write it: against the formula on `rows`; the options leave something out."""
    weight = np.linspace(1, 2, rows.shape[1]) if weight is None else weight
    bias = np.linspace(-1, 1, rows.shape[1]) if bias is None else bias

    def sound(function):
        x = rows.copy()
        y = function(x, weight, bias, eps)
        wanted = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + eps) * weight + bias
        return bool(equal(y, wanted) and (not kept or np.array_equal(x, rows))
                    and (not far or np.allclose(function(rows + 1e6, weight, bias, eps), wanted, atol=1e-6)))

    return sound


ROWS = np.random.default_rng(0).normal(size=(4, 5)) * [[1], [2], [0.5], [3]]
GOOD = written_test(ROWS)


def one_less(function):
    """A test whose own formula takes the variance that np.var(ddof=1) returns."""
    wanted = (ROWS - ROWS.mean(1, keepdims=True)) / np.sqrt(ROWS.var(1, ddof=1, keepdims=True) + 0.5)
    return np.allclose(function(ROWS.copy(), np.ones(5), np.zeros(5), 0.5), wanted)


def eps_forgotten(function):
    """A test whose own formula has no eps."""
    wanted = (ROWS - ROWS.mean(1, keepdims=True)) / ROWS.std(1, keepdims=True)
    return np.allclose(function(ROWS.copy(), np.ones(5), np.zeros(5), 0.5), wanted)


SOUND = Exercise(
    "99.6",
    "write the test",
    2,
    25,
    OBJECTIVES[4],
    judge=judge_test,
    mistakes=[
        Mistake("a wrong one passes: it works down the columns", written_test(np.zeros((3, 3)))),
        Mistake("or it is too strict", written_test(ROWS, equal=np.array_equal)),
        Mistake("for the whole matrix", written_test(ROWS[:1])),
        Mistake("it forgets the bias", written_test(ROWS, bias=np.zeros(5))),
        Mistake("it forgets the weight", written_test(ROWS, weight=np.ones(5))),
        Mistake("one less than the row's length",
                written_test(ROWS, equal=lambda a, b: np.allclose(a, b, rtol=0.2, atol=0.2), far=False)),
        Mistake("it adds eps outside of the root", written_test(ROWS, eps=1e-9)),
        Mistake("it changes its argument x", written_test(ROWS, kept=False)),
        Mistake("numbers around a million", written_test(ROWS, far=False)),
        Mistake("it returns a value of type tuple", lambda function: (GOOD(function), True)),
        Mistake("it is the wrong way round", lambda function: not GOOD(function)),
        Mistake("by one less than the row's length; look at what your own test expects", one_less),
        Mistake("leaves eps out; look at what your own test expects", eps_forgotten),
    ],
)


# --- 99.7 Open: a tenth of the size -----------------------------------------------------------------------------------

LIMIT, TARGET = 200_000, 0.985


def judge_packing(answer):
    """Pack, unpack and read the test digits, and say what is missing."""
    pack, unpack = answer
    stored = load_model("mnist_mlp")
    content = pack(stored.model.state_dict())
    if content is None or content is ...:
        raise NotImplementedError
    if not isinstance(content, bytes | bytearray):
        return f"pack should return bytes, it returned a {type(content).__name__}"
    if content[:1] == b"\x80" or (content[:1] == b"x" and zlib.decompress(content)[:1] == b"\x80"):
        return "this is a pickle: whoever opens it runs what its sender likes"
    stored.model.load_state_dict(unpack(bytes(content)))
    digits = datasets.mnist_embedded()
    with no_grad():
        guess = stored.model(Tensor(digits.x_test.reshape(-1, 784) / np.float32(255))).data.argmax(1)
    right = float(np.mean(guess == digits.y_test))
    if len(content) > LIMIT:
        return f"{len(content):,} bytes; the target is {LIMIT:,}. It reads {right:.2%}"
    if right < TARGET:
        return f"small enough, but it reads only {right:.2%} of the test digits; the target is {TARGET:.1%}"
    return None


def with_save(change, squeeze=lambda b: b, stretch=lambda b: b):
    """(pack, unpack) by way of `save`: the table is changed first, the bytes are squeezed after."""

    def unpack(content):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "f.safetensors").write_bytes(stretch(content))
            return dequantise(load(Path(folder) / "f.safetensors"))

    return (lambda state: squeeze(saved_bytes(change(state)))), unpack


def through_npz(state):
    """A table as NumPy's own archive, in float16."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value.astype(np.float16) for name, value in state.items()})
    return buffer.getvalue()


PACKING = Exercise(
    "99.7",
    "open: a tenth of the size",
    3,
    60,
    OBJECTIVES[2],
    judge=judge_packing,
    mistakes=[
        Mistake("2,143,776 bytes; the target is 200,000", with_save(lambda state: state)),
        Mistake("this is a pickle", (pickle.dumps, pickle.loads)),
        Mistake("small enough, but it reads only",
                with_save(lambda state: quantise(state, 2), lambda b: zlib.compress(b, 9), zlib.decompress)),
        Mistake("does not fit this Sequential",
                with_save(lambda state: {name: v for name, v in state.items() if "bias" not in name})),
        Mistake("pack should return bytes, it returned a dict", (quantise, dequantise)),
        Mistake("It reads 99.06%", (through_npz, lambda content: dict(np.load(io.BytesIO(content))))),
    ],
)

EXERCISES = [ARRAY, PIXELS, ROUNDED, TAIL, PERCENTILE, SOUND, PACKING]
