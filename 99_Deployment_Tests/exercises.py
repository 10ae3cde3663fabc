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
    "hand a model to another runtime and prove that it is the same",
    "give a model the inputs that it was trained on",
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


# --- 99.2 Whole numbers with a step for each row ----------------------------------------------------------------------


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
    "99.2",
    "whole numbers with a step for each row",
    2,
    20,
    OBJECTIVES[3],
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


# --- 99.3 Predict, then run -------------------------------------------------------------------------------------------

TAIL = Exercise(
    "99.3",
    "predict, then run",
    1,
    10,
    OBJECTIVES[4],
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


# --- 99.4 Find the bug ------------------------------------------------------------------------------------------------


def percentile(seconds, q):
    """Nearest rank."""
    return sorted(seconds)[max(ceil(q * len(seconds) / 100), 1) - 1]


def many_percentiles(answer, seconds):
    """Percentiles of one list; it comes unsorted."""
    values = [answer(list(seconds), q) for q in (1, 25, 50, 90, 99, 100)]
    return None if all(value is None for value in values) else np.array(values, dtype=float)


PERCENTILE = Exercise(
    "99.4",
    "find the bug",
    2,
    15,
    OBJECTIVES[4],
    expected=percentile,
    cases=lambda rng: [(rng.exponential(size=60),), (rng.exponential(size=7),), (rng.exponential(size=100),)],
    observe=many_percentiles,
    mistakes=[
        Mistake("this is still the colleague's: int() rounds down, so the value lies too low",
                lambda s, q: sorted(s)[int(q / 100 * (len(s) - 1))]),
        Mistake("it runs over the end of the list, or one place too far: Python counts from 0",
                lambda s, q: sorted(s)[min(ceil(q * len(s) / 100), len(s) - 1)]),
        Mistake("the times have to be sorted first", lambda s, q: s[max(ceil(q * len(s) / 100), 1) - 1]),
        Mistake("this lies between two measured times; return one that was measured", lambda s, q: float(np.percentile(s, q))),
        Mistake("sorted the wrong way round", lambda s, q: sorted(s, reverse=True)[max(ceil(q * len(s) / 100), 1) - 1]),
    ],
)


# --- 99.5 Open: a tenth of the size -----------------------------------------------------------------------------------

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
    "99.5",
    "open: a tenth of the size",
    3,
    60,
    OBJECTIVES[3],
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

EXERCISES = [ARRAY, ROUNDED, TAIL, PERCENTILE, PACKING]
