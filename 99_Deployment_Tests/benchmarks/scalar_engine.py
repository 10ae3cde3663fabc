"""How fast is chapter 02's `Value` beside micrograd? ``python 99_Deployment_Tests/benchmarks/scalar_engine.py``

Each operation in a chain of 200, forward and backward, and a step of micrograd's demonstration, an MLP on two moons, with
Python's search for cycles and without. Each engine lives in a process of its own, and they run in turns: a pair of runs
gives one ratio, and the table shows their median with the 10th and 90th percentile. Below 1 means that `Value` takes
less time. Needs ``pip install micrograd``.
"""

import argparse
import gc

import numpy as np
from compare import contest, serve, shown, started

LENGTH = 200  # operations in a chain; micrograd's backward pass is recursive and allows fewer than a thousand
STAGES = ("forward", "backward")
ENGINES = ("ours", "micrograd")

OPERATIONS = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "a + 1.0": lambda a, b: a + 1.0,
    "a * 2.0": lambda a, b: a * 2.0,
    "1.0 - a": lambda a, b: 1.0 - a,
    "2.0 / a": lambda a, b: 2.0 / a,
    "a ** 3": lambda a, b: a**3,
    "-a": lambda a, b: -a,
    "relu": lambda a, b: a.relu(),
}


def chain(engine, operation):
    """A function that applies the operation LENGTH times, each time to the result before, and returns the last."""

    def build():
        a, b = engine(1.0), engine(1.0)
        for _ in range(LENGTH):
            a = operation(a, b)
        return a

    return build


def moons_step(engine, width=16, batch=20):
    """A function that computes micrograd's demonstration loss: two moons, an MLP 2-16-16-1, hinge loss, weight decay."""
    rng = np.random.default_rng(0)
    angle, t = rng.uniform(0, np.pi, batch), np.where(np.arange(batch) % 2, 1.0, -1.0)
    x = np.stack([t * np.cos(angle) + (t < 0), t * np.sin(angle) + (t < 0) / 2], 1) + rng.normal(0, 0.1, (batch, 2))
    sizes = [(2, width), (width, width), (width, 1)]
    layers = [
        [[engine(float(w)) for w in rng.uniform(-1, 1, inputs + 1)] for _ in range(units)] for inputs, units in sizes
    ]
    parameters = [w for layer in layers for unit in layer for w in unit]
    rows = x.tolist()

    def build():
        losses = 0.0
        for row, target in zip(rows, t.tolist(), strict=True):
            for i, layer in enumerate(layers):
                row = [sum((w * v for w, v in zip(unit, row, strict=False)), unit[-1]) for unit in layer]
                row = [unit.relu() for unit in row] if i < 2 else row
            losses = losses + (1 - target * row[0]).relu()
        return losses * (1.0 / batch) + 1e-4 * sum(p * p for p in parameters)

    return build


def without_collector(build):
    """A step without Python's search for cycles, of which micrograd makes many."""

    def step():
        gc.disable()
        build().backward()
        gc.enable()

    return step


def steps(engine):
    """The steps of an engine by name: forward alone, and backward on a graph made before in time that is not counted."""
    found = {}
    builds = {name: chain(engine, operation) for name, operation in OPERATIONS.items()} | {"moons": moons_step(engine)}
    for name, build in builds.items():
        found[f"{name} forward"] = build
        found[f"{name} backward"] = (lambda build=build: (build(),), lambda root: root.backward())
    found["moons step"] = lambda: builds["moons"]().backward()
    found["moons step, collector off"] = without_collector(builds["moons"])
    return found


def value_of(result):
    """The number in what a step returned: of a forward pass its result, of a backward pass nothing."""
    return getattr(result, "data", 0.0)


def engine_named(name):
    """The class of scalars."""
    if name == "ours":
        from shared.scalar_autograd import Value
    else:
        from micrograd.engine import Value
    return Value


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="pairs of runs for each line (default 100)")
    parser.add_argument("--length", type=float, default=0.002, help="seconds in a run (default 0.002)")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine:
        serve(steps(engine_named(options.engine)), value_of)
        return
    print(f"{'':26} |  ours us | micrograd us | ratio ours / micrograd (10 % to 90 %)")
    lines = [f"{name} {stage}" for name in [*OPERATIONS, "moons"] for stage in STAGES]
    lines += ["moons step", "moons step, collector off"]
    with started({name: (__file__, "--engine", name) for name in ENGINES}) as contestants:
        for line in lines:
            found = contest(contestants, options.rounds, options.length, 5, [line], tolerance=1e-9)
            ours, theirs = (found[name]["parts"].get(line) for name in ENGINES)
            if theirs is None or ours is None:
                raise SystemExit("; ".join({reason for name in ENGINES for reason in found[name]["reasons"].values()}))
            times = f"{1e6 * ours['seconds']:8.1f} | {1e6 * theirs['seconds']:12.1f}"
            print(f"{line:26} | {times} | {shown(theirs['ratio'])}", flush=True)
    print(f"Each operation stands for {LENGTH} of them.")


if __name__ == "__main__":
    main()
