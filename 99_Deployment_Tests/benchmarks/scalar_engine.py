"""How fast is chapter 02's `Value` beside micrograd? ``python 99_Deployment_Tests/benchmarks/scalar_engine.py``

Both engines run in one process and in turns, each pair of runs gives one ratio, and the table shows their median with
the 10th and 90th percentile. Below 1 means that `Value` takes less time. Needs ``pip install micrograd``.
"""

import argparse
import gc
import time

import numpy as np

from shared.scalar_autograd import Value

LENGTH = 200  # operations in a chain; micrograd's backward pass is recursive and allows fewer than a thousand

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


def timed(build):
    """Seconds for the forward and for the backward pass of a fresh graph."""
    gc.collect()  # neither engine pays for what the other left behind
    start = time.perf_counter()
    root = build()
    middle = time.perf_counter()
    root.backward()
    return middle - start, time.perf_counter() - middle


def compare(ours, theirs, rounds):
    """Times (rounds, engine, pass) of both in turns, after a warm-up; who begins changes from round to round."""
    timed(ours), timed(theirs)
    times = np.empty((rounds, 2, 2))
    for i in range(rounds):
        for engine in (0, 1) if i % 2 else (1, 0):
            times[i, engine] = timed((ours, theirs)[engine])
    return times


def report(name, times, operations):
    """One line of the table: time per operation, and the ratios with their spread."""
    cells = [f"{name:13}"]
    for stage in (0, 1):
        low, middle, high = np.percentile(times[:, 0, stage] / times[:, 1, stage], [10, 50, 90])
        ours, theirs = np.median(times[:, :, stage], 0) / operations * 1e9
        cells.append(f"{ours:8.0f} {theirs:9.0f}   {middle:.2f} ({low:.2f} to {high:.2f})")
    return " | ".join(cells)


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="pairs of runs per line (default 100)")
    rounds = parser.parse_args(arguments).rounds
    try:
        from micrograd.engine import Value as Micrograd
    except ImportError:
        raise SystemExit("this benchmark needs micrograd: pip install micrograd") from None
    columns = f"{'ours':>8} {'micrograd':>9}   ratio (10 % to 90 %)"
    print(f"{'':13} | {'forward, ns an operation':<39} | backward, ns an operation")
    print(f"{'':13} | {columns} | {columns}")
    for name, operation in OPERATIONS.items():
        print(report(name, compare(chain(Value, operation), chain(Micrograd, operation), rounds), LENGTH))
    ours, theirs, totals = moons_step(Value), moons_step(Micrograd), []
    for collector in ("on", "off"):
        if collector == "off":
            gc.disable()  # what the engines cost without Python's search for cycles, of which micrograd makes many
        times = compare(ours, theirs, max(5, rounds // 4))
        print(report(f"moons, gc {collector}", times, 1e6) + "   (milliseconds a step)")
        low, middle, high = np.percentile(times[:, 0].sum(1) / times[:, 1].sum(1), [10, 50, 90])
        totals.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) with the collector {collector}")
    gc.enable()
    print(f"a whole step of the moons MLP: ratio {', '.join(totals)}")


if __name__ == "__main__":
    main()
