"""How fast is chapter 04's `Tensor`? ``python 99_Deployment_Tests/benchmarks/tensor_engine.py [--json PATH]``

Each operation on 1, 1,000 and 1,000,000 float32 numbers, forward alone and forward with backward, as ratios of our time
to that of PyTorch eager, of HIPS autograd and of nptensor: below 1 we take less time. Each library lives in a process of
its own, on two threads, and they run in turns. A line is the median of the ratios pair by pair, with the 10th and 90th
percentile. Then the memory by which a forward and backward pass of an MLP raises the peak of a fresh process.
Needs ``pip install torch autograd nptensor``; what is missing is left out.
"""

import argparse
import gc
import json

import numpy as np
from compare import Failed, contest, peak_memory, serve, shown, started

SIZES = (1, 1_000, 1_000_000)
LIBRARIES = ("ours", "PyTorch", "HIPS autograd", "npTensor")
STAGES = ("forward", "forward and backward")
CHAIN = 10  # operations between one leaf and the sum that backward() starts from, so that the sum weighs little
TOLERANCE = 1e-2  # of the gradients' fingerprints: one that differs by more is wrong

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


class Recorded:
    """What the libraries share whose tensors have methods and a `grad`."""

    total = staticmethod(lambda a: a.sum())
    turned = staticmethod(lambda a: a.reshape(a.shape[::-1]).reshape(a.shape))
    forward = staticmethod(lambda program, a, b: program(a, b))

    @staticmethod
    def backward(program, a, b):
        a.grad = b.grad = None
        program(a, b).backward()
        return a.grad


class Ours(Recorded):
    """The names that ELEMENTWISE uses, for the course's engine."""

    def __init__(self):
        from shared import tensor as engine

        self.exp, self.tanh, self.relu = engine.exp, engine.tanh, engine.relu
        self.softmax = lambda a: a.softmax(1)
        self.leaf = lambda array: engine.tensor(array, requires_grad=True)


class PyTorch(Recorded):
    """The same for PyTorch."""

    def __init__(self):
        import torch

        torch.set_num_threads(2)
        self.exp, self.tanh, self.relu = torch.exp, torch.tanh, torch.relu
        self.softmax = lambda a: a.softmax(1)
        self.leaf = lambda array: torch.tensor(array, requires_grad=True)


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


class NpTensor(Recorded):
    """The same for nptensor; its `sum` has two axes, and reshape takes a tuple."""

    def __init__(self):
        from npTensor.Tensorlib import Tensor

        self.exp, self.tanh, self.relu = Tensor.exp, Tensor.tanh, Tensor.ReLU
        self.softmax, self.total, self.leaf = Tensor.softmax, Tensor.sum, Tensor


def programs(library, operation, a, b):
    """Two functions of a library: CHAIN operations on leaves, and the same with the sum and its backward pass."""

    def chain(a, b):
        y = a
        for _ in range(CHAIN):
            y = operation(library, y, b)
        return y

    def forward():
        library.forward(chain, a, b)  # what it returns is dropped at once

    return {"forward": forward, "forward and backward": lambda: library.backward(lambda a, b: library.total(chain(a, b)), a, b)}


def numbers(size, square):
    """What operations work on, the same for everyone: two arrays (1, 1), (32, 31) or (1000, 1000), or two squares."""
    rng, n = np.random.default_rng(0), round(size**0.5)
    shape = (n, n) if square else (n, size // n)
    a, b = rng.uniform(0.5, 1.5, shape).astype("f4"), rng.uniform(0.9, 1.1, shape).astype("f4")
    return a, b / np.float32(n) if square else b


class Steps(dict):
    """The steps of a library, by the names that `part` gives them, each made when it is first asked for."""

    def __init__(self, library):
        self.engine, self.leaves = library, {}

    def __missing__(self, name):
        operation, size, stage = name.split(" | ")
        key = int(size), operation == "a @ b"
        if key not in self.leaves:
            self.leaves[key] = [self.engine.leaf(array) for array in numbers(*key)]
        self[name] = programs(self.engine, ELEMENTWISE[operation], *self.leaves[key])[stage]
        return self[name]


def part(operation, size, stage):
    """The name of a step."""
    return f"{operation} | {size} | {stage}"


def fingerprint(gradient):
    """One number for a gradient, by which peers are compared with ours; 0 for a forward pass."""
    if gradient is None:
        return 0.0
    gradient = np.asarray(gradient)
    return float(np.vdot(np.random.default_rng(1).uniform(0.5, 1.5, gradient.shape), gradient) / gradient.size)


MAKE = dict(zip(LIBRARIES, (Ours, PyTorch, Autograd, NpTensor), strict=True))


def mlp_pass(library):
    """MB by which a forward and backward pass of an MLP raises the peak of this process."""
    if library == "PyTorch":
        import torch as lib

        lib.set_num_threads(2)
    else:
        from shared import tensor as lib
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=s).astype("f4") * 0.05 for s in ((4096, 512), (512, 1024), (1024, 1024), (1024, 10)))
    x, weights = lib.tensor(x), [lib.tensor(w, requires_grad=True) for w in weights]

    def step(rows):
        h = x[:rows]
        for w in weights[:-1]:
            h = (h @ w).tanh()
        (h @ weights[-1]).log_softmax(dim=1)[:, 0].mean().backward()
        for w in weights:
            w.grad = None

    step(8)  # what the libraries load at the first call does not count
    before = peak_memory()
    step(4096)
    return peak_memory() - before


def measured(contestants, operation, size, rounds, length):
    """The lines of an operation at one size: for each pass the ratios to the others, and the reasons where there is none."""
    parts = [part(operation, size, stage) for stage in STAGES]
    found = contest(contestants, rounds, length, 3, parts, TOLERANCE)
    return [{"operation": operation, "numbers": size, "pass": stage,
             "ratios": {name: found[name]["parts"][step]["ratio"] for name in LIBRARIES[1:] if step in found[name]["parts"]},
             "reasons": {name: found[name]["reasons"][step] for name in LIBRARIES[1:] if step in found[name]["reasons"]}}
            for stage, step in zip(STAGES, parts, strict=True)]


def main(arguments=None):
    """Print the table, and store it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="pairs of runs for each line (default 30)")
    parser.add_argument("--length", type=float, default=0.003, help="seconds in a run (default 0.003)")
    parser.add_argument("--only", nargs="*", choices=ELEMENTWISE, default=list(ELEMENTWISE), help="operations to measure")
    parser.add_argument("--json", help="also write the ratios to this file")
    parser.add_argument("--engine", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=LIBRARIES[:2], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak:
        serve(lambda: mlp_pass(options.peak))
        return
    if options.engine:
        steps = Steps(MAKE[options.engine]())
        gc.collect()
        gc.freeze()  # the library's own objects: the collector need not look at them
        serve(steps, fingerprint)
        return
    results, rivals = [], LIBRARIES[1:]
    print(f"{'operation':12} {'numbers':>9} {'pass':20} | " + " | ".join(f"ours / {name:14}" for name in rivals))
    with started({name: (__file__, "--engine", name) for name in LIBRARIES}) as contestants:
        for name in options.only:
            for size in SIZES:
                rounds = options.rounds if size < 10_000 else max(5, options.rounds // 4)
                results += measured(contestants, name, size, rounds, options.length)
                for line in results[-len(STAGES) :]:
                    cells = " | ".join(f"{shown(line['ratios'].get(rival)):21}" for rival in rivals)
                    print(f"{name:12} {size:9,} {line['pass']:20} | {cells}", flush=True)
    for rival in rivals:
        for size in SIZES:
            medians = [line["ratios"][rival][0] for line in results if line["numbers"] == size and rival in line["ratios"]]
            if medians:
                mean = np.exp(np.mean(np.log(medians)))
                print(f"ours / {rival}, {size:,} numbers: geometric mean {mean:.2f}, worst {max(medians):.2f}")
    for reason in sorted({f"{rival}, {line['operation']}: {why}" for line in results for rival, why in line["reasons"].items()}):
        print(f"no ratio for {reason}")
    peaks = {}
    for name in LIBRARIES[:2]:
        with started({name: (__file__, "--peak", name)}) as contestants:
            try:
                peaks[name] = contestants[name].run(1)[1]
            except Failed as failure:
                print(f"peak memory of {name}: {failure}")
    print("peak memory of an MLP's forward and backward pass:", ", ".join(f"{name} {mb:.0f} MB" for name, mb in peaks.items()))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"speed": results, "peak_megabytes": peaks}, file, indent=1)


if __name__ == "__main__":
    main()
