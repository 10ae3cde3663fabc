"""How fast is chapter 04's `Tensor`? ``python 99_Deployment_Tests/benchmarks/tensor_engine.py [--json PATH]``

Each operation on 1, 1,000 and 1,000,000 float32 numbers, forward alone and forward with backward, as ratios of our time
to that of PyTorch eager, of HIPS autograd and of nptensor: below 1 we take less time. All run in turns in one process
on two threads. A line is the median of the ratios pair by pair, with the 10th and 90th percentile. Then the peak of
memory of a forward and backward pass, each library in a process of its own.
Needs ``pip install torch autograd nptensor``; what is missing is left out.
"""

import argparse
import gc
import json
import os
import subprocess
import sys

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a pool that spins would slow down the next contestant

import numpy as np  # noqa: E402  (after the number of threads is set)
from compare import in_turns, ratios, shown  # noqa: E402

from shared import tensor as engine  # noqa: E402

SIZES = (1, 1_000, 1_000_000)
LIBRARIES = ("ours", "PyTorch", "autograd", "nptensor")
CHAIN = 10  # operations between one leaf and the sum that backward() starts from, so that the sum weighs little

ELEMENTWISE = {
    "a + b": lambda lib, a, b: a + b,
    "a * b": lambda lib, a, b: a * b,
    "a / b": lambda lib, a, b: a / b,
    "a * 2.0": lambda lib, a, b: a * 2.0,
    "exp(-a / 2)": lambda lib, a, b: lib.exp(a * -0.5),
    "tanh": lambda lib, a, b: lib.tanh(a),
    "relu": lambda lib, a, b: lib.relu(a),
    "a + row": lambda lib, a, b: a + b[:1],
    "softmax": lambda lib, a, b: lib.softmax(a),
    "sum, expand": lambda lib, a, b: a + lib.total(a) * 0.0,
    "a @ b": lambda lib, a, b: a @ b,
    "reshape": lambda lib, a, b: lib.turned(a),
    "a[0]": lambda lib, a, b: a + a[0],
}


class Ours:
    """The names that ELEMENTWISE uses, for the course's engine."""

    exp, tanh, relu = staticmethod(engine.exp), staticmethod(engine.tanh), staticmethod(engine.relu)
    softmax = staticmethod(lambda a: a.softmax(1))
    total = staticmethod(lambda a: a.sum())
    turned = staticmethod(lambda a: a.reshape(a.shape[::-1]).reshape(a.shape))
    leaf = staticmethod(lambda array: engine.tensor(array, requires_grad=True))
    forward = staticmethod(lambda program, a, b: program(a, b))

    @staticmethod
    def backward(program, a, b):
        a.grad = b.grad = None
        program(a, b).backward()
        return a.grad


class PyTorch:
    """The same for PyTorch."""

    def __init__(self):
        import torch

        torch.set_num_threads(2)
        self.exp, self.tanh, self.relu = torch.exp, torch.tanh, torch.relu
        self.softmax = lambda a: a.softmax(1)
        self.total, self.turned = Ours.total, Ours.turned
        self.leaf = lambda array: torch.tensor(array, requires_grad=True)
        self.forward, self.backward = Ours.forward, Ours.backward


class Autograd:
    """The same for HIPS autograd, whose tensors are arrays and whose programs are functions."""

    def __init__(self):
        import autograd.numpy as anp
        from autograd import make_vjp

        self.exp, self.tanh = anp.exp, anp.tanh
        self.relu = lambda a: anp.maximum(a, 0.0)
        self.total = anp.sum
        self.turned = lambda a: anp.reshape(anp.reshape(a, a.shape[::-1]), a.shape)
        self.leaf = lambda array: array

        def softmax(a):
            e = anp.exp(a - anp.max(a, axis=1, keepdims=True))
            return e / anp.sum(e, axis=1, keepdims=True)

        def backward(program, a, b):
            pull, value = make_vjp(program, (0, 1))(a, b)
            return pull(np.ones_like(value))[0]

        self.softmax, self.backward = softmax, backward
        self.forward = lambda program, a, b: make_vjp(program, (0, 1))(a, b)[1]  # recorded, as the others do


class NpTensor:
    """The same for nptensor; its `sum` has two axes, and reshape takes a tuple."""

    def __init__(self):
        from npTensor.Tensorlib import Tensor

        self.exp, self.tanh, self.relu = Tensor.exp, Tensor.tanh, Tensor.ReLU
        self.softmax, self.total = Tensor.softmax, Tensor.sum
        self.turned = lambda a: a.reshape(a.shape[::-1]).reshape(a.shape)
        self.leaf = Tensor

        self.forward, self.backward = Ours.forward, Ours.backward


def contestants():
    """The libraries that are installed, by name; None for the others."""
    found = {}
    for name, make in zip(LIBRARIES, (Ours, PyTorch, Autograd, NpTensor), strict=True):
        try:
            found[name] = make()
        except ImportError:
            found[name] = None
            print(f"{name} is not installed", file=sys.stderr)
    return found


def programs(library, operation, arrays):
    """Two functions of a library: CHAIN operations on leaves, and the same with the sum and its backward pass."""
    a, b = map(library.leaf, arrays)

    def chain(a, b):
        y = a
        for _ in range(CHAIN):
            y = operation(library, y, b)
        return y

    return lambda: library.forward(chain, a, b), lambda: library.backward(lambda a, b: library.total(chain(a, b)), a, b)


def measure(operation, size, libraries, rounds):
    """{pass: {library: (median, low, high)}} of an operation, or "wrong gradient" where a peer disagrees with ours."""
    rng = np.random.default_rng(0)
    n = round(size**0.5)
    shape = (n, size // n)  # (1, 1), (32, 31), (1000, 1000)
    shape = (n, n) if operation is ELEMENTWISE["a @ b"] else shape
    arrays = [rng.uniform(0.5, 1.5, shape).astype("f4"), rng.uniform(0.9, 1.1, shape).astype("f4")]
    if operation is ELEMENTWISE["a @ b"]:
        arrays[1] /= np.float32(n)
    runs, wrong, expected = {}, [], None
    for name, library in libraries.items():
        if library is None:
            continue
        try:
            forward, both = programs(library, operation, arrays)
            gradient = np.asarray(both())
        except (TypeError, AttributeError, ValueError, IndexError, AssertionError):
            if name == "ours":
                raise
            continue  # a peer without this operation
        expected = gradient if expected is None else expected
        if gradient.shape == expected.shape and np.allclose(gradient, expected, rtol=1e-2, atol=1e-4):
            runs[name] = (forward, both)
        else:
            wrong.append(name)
    found = {}
    for i, stage in enumerate(("forward", "forward and backward")):
        repeat = {1: 30, 1_000: 20}.get(size, 1)
        seconds = in_turns([pair[i] for pair in runs.values()], rounds, repeat, rest=0.0 if size < 10_000 else 0.005)
        found[stage] = dict(zip(list(runs)[1:], ratios(seconds), strict=True)) | dict.fromkeys(wrong, "wrong gradient")
    return found


PEAK = """
import resource, sys
import numpy as np
def highest():
    try:  # on Linux getrusage would also count the process that started this one
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
x, *weights = (rng.normal(size=s).astype("f4") * 0.05 for s in ((4096, 512), (512, 1024), (1024, 1024), (1024, 10)))
if sys.argv[1] == "PyTorch":
    import torch as lib
    lib.set_num_threads(2)
else:
    from shared import tensor as lib
x, weights = lib.tensor(x), [lib.tensor(w, requires_grad=True) for w in weights]
def step(rows):
    h = x[:rows]
    for w in weights[:-1]:
        h = (h @ w).tanh()
    (h @ weights[-1]).log_softmax(dim=1)[:, 0].mean().backward()
    for w in weights:
        w.grad = None
step(8)  # what the libraries load at the first call does not count
before = highest()
step(4096)
print(highest() - before)
"""


def peak(library):
    """Megabytes by which a forward and backward pass raises the peak of a fresh process."""
    kilobytes = subprocess.run([sys.executable, "-c", PEAK, library], capture_output=True, text=True, check=True).stdout
    return int(kilobytes) / (2**20 if sys.platform == "darwin" else 2**10)


def main(arguments=None):
    """Print the table, and store it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="runs of each contestant per line (default 30)")
    parser.add_argument("--only", nargs="*", default=list(ELEMENTWISE), help="operations to measure")
    parser.add_argument("--json", help="also write the ratios to this file")
    options = parser.parse_args(arguments)
    libraries, results = contestants(), []
    gc.collect()
    gc.freeze()  # the libraries' own objects: the collector need not look at them before each turn
    rivals = [name for name in LIBRARIES[1:] if libraries[name] is not None]
    print(f"{'operation':12} {'numbers':>9} {'pass':20} | " + " | ".join(f"ours / {name:14}" for name in rivals))
    for name in options.only:
        for size in SIZES:
            rounds = options.rounds if size < 10_000 else max(5, options.rounds // 4)
            for stage, found in measure(ELEMENTWISE[name], size, libraries, rounds).items():
                results.append({"operation": name, "numbers": size, "pass": stage, "ratios": found})
                cells = " | ".join(f"{shown(found.get(rival)):21}" for rival in rivals)
                print(f"{name:12} {size:9,} {stage:20} | {cells}", flush=True)
    for rival in rivals:
        for size in SIZES:
            found = [result["ratios"].get(rival) for result in results if result["numbers"] == size]
            medians = [ratio[0] for ratio in found if isinstance(ratio, tuple)]
            if medians:
                mean = np.exp(np.mean(np.log(medians)))
                print(f"ours / {rival}, {size:,} numbers: geometric mean {mean:.2f}, worst {max(medians):.2f}")
    summary = {"speed": results}
    if libraries["PyTorch"] is not None:
        summary["peak_megabytes"] = {name: peak(name) for name in ("ours", "PyTorch")}
        peaks = ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in summary["peak_megabytes"].items())
        print(f"peak memory of a forward and backward pass: {peaks}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(summary, file, indent=1)


if __name__ == "__main__":
    main()
