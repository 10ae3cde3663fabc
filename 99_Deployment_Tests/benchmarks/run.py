"""The course's engine beside its peers, all workloads in one table: ``python 99_Deployment_Tests/benchmarks/run.py``

One line a workload: the time of ours over that of PyTorch eager, of npTensor and of HIPS autograd (of micrograd for chapter 02's
scalars), below 1 where ours takes less; then the peak memory of each process, libraries included. Every contestant lives in
a process of its own, with two threads (ours has two processes of one where the table says so), and they run in turns; a
ratio is the median over pairs of runs, with the 10th and 90th percentile. Where a workload has several parts, such as the
operations of chapter 04, a pair's ratio is their geometric mean. A contestant that is not installed, fails, or does other
work than ours gets a dash, and the reason below the table.

The results go to `results.json` beside this file after each workload, and to `benchmarks.png` one folder up. ``--fast``
takes about four minutes on two idle cores, without it about half an hour. ``--resume`` goes on with a run that was interrupted.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scalar_engine
import tensor_engine
import transformers
from compare import contest, shown, started

HERE = Path(__file__).resolve().parent
RIVALS = ("PyTorch", "npTensor", "HIPS autograd", "micrograd")
TOLERANCE = 0.02  # of losses: above, the contestants do not do the same work


@dataclass(frozen=True)
class Workload:
    """What is measured: a script with the arguments that make it a contestant, where {} stands for the name of the engine."""

    title: str
    script: str
    arguments: tuple
    rivals: tuple
    parts: tuple = ("",)
    length: float = 0.3  # seconds of a run
    warm_up: int = 5
    tolerance: float | None = TOLERANCE
    share: float = 1.0  # of the rounds that are asked for


def operations(size):
    """Chapter 04's operations, forward and forward with backward, on arrays of `size` numbers."""
    parts = [tensor_engine.part(name, size, stage) for name in tensor_engine.ELEMENTWISE for stage in tensor_engine.STAGES]
    return Workload(f"04 operations, {size:,} number{'s' * (size > 1)}", "tensor_engine.py", ("--engine", "{}"), RIVALS[:3],
                    tuple(parts), 0.003, 3, tensor_engine.TOLERANCE, 0.5 if size > 10_000 else 1.0)


WORKLOADS = {
    "scalar-operations": Workload(
        "02 operations of scalars", "scalar_engine.py", ("--engine", "{}"), RIVALS[3:],
        tuple(f"{name} {stage}" for name in scalar_engine.OPERATIONS for stage in scalar_engine.STAGES), 0.003),
    "scalar-moons": Workload("02 MLP of scalars, moons", "scalar_engine.py", ("--engine", "{}"), RIVALS[3:], ("moons step",)),
    "operations-1": operations(1),
    "operations-1000": operations(1_000),
    "operations-1000000": operations(1_000_000),
    "mlp": Workload("05 MLP, training step", "tensor_mlp.py", ("--engine", "{}"), RIVALS[:3], warm_up=20),
    "mnist": Workload("06 MNIST network, training step", "cnn.py", ("--engine", "mnist", "{}"), RIVALS[:3], warm_up=2),
    "cifar": Workload("06 CIFAR network, training step", "cnn.py", ("--engine", "cifar", "{}"), RIVALS[:3], warm_up=1),
    "inference": Workload("06 CIFAR network, inference", "cnn.py", ("--engine", "inference", "{}"), RIVALS[:1], ("500 pictures",),
                          warm_up=2, tolerance=None),  # equal up to ties between classes
    "gpt": Workload("07 GPT, training step", "transformers.py", ("--engine", "{}"), RIVALS[:3], length=1.0),
    "gpt-shared": Workload("07 the same in two processes", "transformers.py", ("--engine", "shared {}"), RIVALS[:1], length=1.0),
    "gpt-large": Workload("07 larger GPT, in two processes", "transformers.py", ("--engine", "large {}"), RIVALS[:1], warm_up=1),
    "generate": Workload("07 GPT, 32 tokens with cache", "transformers.py", ("--engine", "{} generating"), RIVALS[:1],
                         tuple(transformers.prompts()), warm_up=2, tolerance=None),  # drawn at random, each by its own generator
}


def machine():
    """What the figures depend on: the number of cores and the versions of the contestants."""
    versions = {}
    for name in ("numpy", "torch", "npTensor", "autograd", "micrograd"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count(),
            "python": platform.python_version(), **versions}


def measure(workload, rounds, length, budget):
    """The results of a workload as they are stored: each contestant's times, memory and ratio, and why a figure is missing."""
    names = ("ours", *workload.rivals)
    commands = {name: (HERE / workload.script, *(argument.format(name) for argument in workload.arguments)) for name in names}
    with started(commands) as contestants:
        found = contest(contestants, max(2, round(rounds * workload.share)), length * workload.length, workload.warm_up,
                        workload.parts, workload.tolerance, budget)
    return {name: {
        "milliseconds": {part: 1e3 * figures["seconds"] for part, figures in result["parts"].items()},
        "peak_megabytes": result["peak"], "ratio": result["ratio"], "reasons": result["reasons"],
    } for name, result in found.items()}


def table(results):
    """The table as text, with the reasons for what is missing."""
    lines = [f"{'ours / other':32} | " + " | ".join(f"{name:21}" for name in RIVALS) + " | peak MB, ours first"]
    lines.append("-" * len(lines[0]))
    reasons = []
    for key in [key for key in WORKLOADS if key in results]:
        title, engines = WORKLOADS[key].title, results[key]["engines"]
        cells = [shown(engines.get(name, {}).get("ratio")) for name in RIVALS]
        peaks = ["-" if engine["peak_megabytes"] is None else f"{engine['peak_megabytes']:.0f}" for engine in engines.values()]
        lines.append(f"{title:32} | " + " | ".join(f"{cell:21}" for cell in cells) + " | "
                     + ", ".join(peaks))
        for name, engine in engines.items():
            parts = {}
            for part, reason in engine["reasons"].items():
                parts.setdefault(reason, []).append(part.split(" | ")[0])
            reasons += [f"{title}, {name}: {reason}{' in ' * any(found)}{', '.join(dict.fromkeys(filter(None, found)))}"
                        for reason, found in parts.items()]
    return "\n".join([*lines, *(["", "No figure for"] if reasons else []), *(f"  {reason}" for reason in dict.fromkeys(reasons))])


def written(path, write):
    """Write a file under a temporary name and rename it."""
    temporary = path.with_name(f"{path.name}.part")
    write(temporary)
    os.replace(temporary, path)


def draw(results, path):
    """The ratios as bars on a logarithmic axis, with their spread; left of the line at 1 ours takes less time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from shared import plots

    plots.use_course_style()
    keys = [key for key in WORKLOADS if key in results][::-1]
    bars = [(i, name, results[key]["engines"][name]["ratio"]) for i, key in enumerate(keys)
            for name in RIVALS if results[key]["engines"].get(name, {}).get("ratio")]
    fig, ax = plt.subplots(figsize=(8.5, 0.8 + 0.52 * len(keys)))
    for name, colour in zip(RIVALS, plots.PALETTE, strict=False):
        ours = [(i, ratio) for i, other, ratio in bars if other == name]
        if not ours:
            continue
        beside = [[other for j, other, _ in bars if j == i] for i, _ in ours]
        places = [i + 0.26 * ((len(row) - 1) / 2 - row.index(name)) for (i, _), row in zip(ours, beside, strict=True)]
        medians, lows, highs = np.array([ratio for _, ratio in ours]).T
        ax.barh(places, medians - 1, 0.24, left=1, color=colour, label=name, xerr=(medians - lows, highs - medians),
                error_kw={"elinewidth": 1, "ecolor": plots.DATA})
        for place, median, low, high in zip(places, medians, lows, highs, strict=True):
            left = median < 1
            ax.annotate(f"{median:.2f}", (low if left else high, place), (-4 if left else 4, 0), textcoords="offset points",
                        ha="right" if left else "left", va="center", fontsize=8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel="time of ours / time of the other: left of the line ours is faster",
           yticks=range(len(keys)), yticklabels=[WORKLOADS[key].title for key in keys])
    ends = [end for _, _, ratio in bars for end in ratio[1:]]
    ax.set_xlim(min(ends, default=1) / 1.6, max([*ends, 1.2]) * 1.3)
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if ax.get_xlim()[0] < tick < ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, 1.1), ncols=len(RIVALS))
    plots.describe(fig, "Time of ours over that of its peers: " + "; ".join(
        f"{WORKLOADS[keys[i]].title}, {name} {ratio[0]:.2f}" for i, name, ratio in bars[::-1]))
    written(path, lambda temporary: temporary.write_bytes(plots.png(fig)[0]))
    plt.close(fig)


def main(arguments=None):
    """Measure, print the table, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="workloads: " + ", ".join(WORKLOADS))
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", default=list(WORKLOADS),
                        help="measure these, and keep what the file has of the others")
    parser.add_argument("--rounds", type=int, help="pairs of runs for each contestant (default 20, fast 4)")
    parser.add_argument("--fast", action="store_true", help="few and short runs")
    parser.add_argument("--resume", action="store_true", help="leave out what the file has, measured with the same settings")
    parser.add_argument("--show", action="store_true", help="measure nothing: print and draw what the file has")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="where the results are kept")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "benchmarks.png", help="where the picture goes")
    options = parser.parse_args(arguments)
    rounds, length = options.rounds or (4 if options.fast else 20), 0.3 if options.fast else 1.0
    budget = 20.0 if options.fast else 150.0
    settings = {"machine": machine(), "rounds": rounds, "length": length, "budget": budget}
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    for key in [] if options.show else options.only:
        if options.resume and key in results and results[key]["settings"] == settings:
            continue
        print(f"measuring {WORKLOADS[key].title} ...", file=sys.stderr, flush=True)
        engines = measure(WORKLOADS[key], rounds, length, budget)
        results[key] = {"title": WORKLOADS[key].title, "settings": settings, "engines": engines}
        text = json.dumps({key: results[key] for key in WORKLOADS if key in results}, indent=1) + "\n"
        written(options.json, lambda path, text=text: path.write_text(text))
    if not results:
        raise SystemExit(f"nothing measured yet: {options.json.name} does not exist")
    print(table(results))
    draw(results, options.picture)


if __name__ == "__main__":
    main()
