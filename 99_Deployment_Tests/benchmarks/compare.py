"""Shared by the benchmarks: contestants in processes of their own, in turns, and ratios pair by pair with their spread."""

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds that a contestant may take for one run
REST = 0.005  # seconds before each turn, in which the thread pool of the contestant before goes to sleep


class Failed(Exception):
    """A contestant that is not installed, raised an error, or took too long; the message says which."""


def peak_memory():
    """The largest memory of this process so far, and of those that help it, in MB."""
    helpers = [process.pid for process in multiprocessing.active_children()]
    try:  # on Linux getrusage would also count the process that started this one
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in ("self", *helpers)]
        return sum(int(text.split("VmHWM:")[1].split()[0]) for text in texts) / 2**10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def serve(steps, number=float):
    """The life of a process that a `Contestant` stands for.

    `steps` is a function, or a table of functions by name, or of pairs: what prepares the arguments, in time that is not
    counted, and what takes them. For each line "n name" on its input it calls that step n times, and prints the median
    of their times, `number` of what the last one returned, and its peak memory; after an error, what was wrong.
    """
    steps = steps if isinstance(steps, dict) else {"": steps}
    print("ready", flush=True)
    for line in sys.stdin:
        count, name = line.rstrip("\n").split(" ", 1)
        prepare, step = steps[name] if isinstance(steps[name], tuple) else (tuple, steps[name])
        times = []
        try:
            for _ in range(int(count)):
                arguments = prepare()
                start = time.perf_counter()
                value = step(*arguments)
                times.append(time.perf_counter() - start)
            print(float(np.median(times)), number(value), peak_memory(), flush=True)
        except Exception as error:  # whatever it is, it is told to the other side, which goes on without this step
            print(f"failed: {type(error).__name__}: {error}".splitlines()[0], flush=True)


def training_step(loss_of, optimizer, clip=lambda: None):
    """A step of an engine with PyTorch's names, from a function that returns the loss, and one that shortens gradients."""

    def step():
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        clip()
        optimizer.step()
        return loss.item()

    return step


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) on the arrays of an engine that has no optimiser; matrices decay."""

    def __init__(self, parameters, rate, betas, decay=0.0):
        self.parameters, self.rate, self.betas, self.decay, self.t = parameters, rate, betas, decay, 0
        self.means = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]

    def step(self, gradients):
        """Change the parameters in place."""
        self.t += 1
        correction = (1 - self.betas[1] ** self.t) ** 0.5
        rate, eps = np.float32(self.rate * correction / (1 - self.betas[0] ** self.t)), np.float32(1e-8 * correction)
        for p, g, (m, v) in zip(self.parameters, gradients, self.means, strict=True):
            m += np.float32(1 - self.betas[0]) * (g - m)
            v += np.float32(1 - self.betas[1]) * (g * g - v)
            if self.decay and p.ndim > 1:
                p *= np.float32(1 - self.rate * self.decay)
            p -= rate * m / (np.sqrt(v) + eps)


class Contestant:
    """A process, ``python script *arguments``, that ends in `serve`, and waits until it is its turn; two threads for all."""

    def __init__(self, script, *arguments):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "COURSE_THREADS")
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close)
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True, env={**os.environ, **dict.fromkeys(names, "2"), "PYTHONPATH": str(ROOT)})
        self.reason = None
        try:
            self._answer()
        except Failed as failure:
            self.reason = str(failure)

    def run(self, steps, name=""):
        """Median seconds of a step, what the last one returned, and the peak memory in MB. Raises Failed."""
        if self.reason:
            raise Failed(self.reason)
        with suppress(BrokenPipeError):  # where it has ended its last words are read next
            self.process.stdin.write(f"{steps} {name}\n")
            self.process.stdin.flush()
        return tuple(map(float, self._answer().split()))

    def _answer(self):
        """The next line that the process prints. Raises Failed where there is none, or where it tells of an error."""
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        line = self.process.stdout.readline().strip()
        timer.cancel()
        if line.startswith("failed: "):
            raise Failed(line.removeprefix("failed: "))
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or [f"ended with status {self.process.returncode}"])[-1]
            self.reason = last.replace("ModuleNotFoundError: No module named", "not installed:")
            raise Failed(self.reason)
        return line

    def close(self):
        """End the process."""
        with suppress(BrokenPipeError), self.process:  # which closes its pipes, and waits for it
            pass
        self.errors.close()


def middle(values):
    """The median of several numbers, with the 10th and 90th percentile."""
    return tuple(map(float, np.percentile(values, [50, 10, 90])))


def shown(ratio):
    """A ratio as ``0.52 (0.48 to 0.60)``; a dash where there is none."""
    return "-" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


@contextmanager
def started(commands):
    """The contestants of a table of commands, ``{name: (script, *arguments)}``, running; they end where the block ends."""
    contestants = {}
    try:
        for name, command in commands.items():
            contestants[name] = Contestant(*command)
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.close()


def contest(contestants, rounds, length, warm_up=5, parts=("",), tolerance=None, budget=20.0):
    """Measure contestants, a table of names, in turns, and the first one against each of the others.

    Returns a table {name: result}. A result has `parts`: a table with the median `seconds` of each step, the `value`
    that the last of the `warm_up` steps returned, such as a loss, and for all but the first contestant the `ratio`
    of the first one's time to its own: the median of the ratios pair by pair, with the 10th and 90th percentile. `ratio`
    of the result is the same for the geometric mean over the parts, `peak` the memory in MB, `reasons` why a part has no
    figure. A run has as many steps as take `length` seconds, at least one; there are `rounds` pairs of runs, or as many as
    take `budget` seconds, at least one. Where a `tolerance` is given, values of the first contestant and of another that
    differ by more, in proportion, are such a reason.
    """
    found, steps = {}, {}
    for name, contestant in contestants.items():
        found[name], steps[name] = _warmed_up(contestant, parts, warm_up, length)
    first, *others = contestants
    for name in others:
        if tolerance is not None:
            _compare_values(found[first], found[name], tolerance)
        common = [part for part in found[name]["parts"] if part in found[first]["parts"]]
        for part, reason in found[first]["reasons"].items():
            found[name]["reasons"].setdefault(part, f"{first}: {reason}")
        try:
            _pairs(contestants, (first, name), found, steps, common, rounds, budget)
        except Failed as failure:
            found[name]["reasons"][", ".join(common)] = str(failure)
    return found


def _warmed_up(contestant, parts, warm_up, length):
    """The result of a contestant so far, and how many steps of each part it makes in a run."""
    result, steps = {"parts": {}, "reasons": {}, "ratio": None, "peak": None}, {}
    for part in parts:
        try:
            seconds, value, result["peak"] = contestant.run(warm_up, part)
        except Failed as failure:
            result["reasons"][part] = str(failure)
        else:
            steps[part] = max(1, round(length / seconds))
            result["parts"][part] = {"seconds": seconds, "value": value, "ratio": None}
    return result, steps


def _compare_values(expected, result, tolerance):
    """Take out the parts whose value is another than the first contestant's: they do not do the same work."""
    for part in [part for part in result["parts"] if part in expected["parts"]]:
        value, wanted = result["parts"][part]["value"], expected["parts"][part]["value"]
        if not abs(value - wanted) <= tolerance * max(1.0, abs(wanted)):
            del result["parts"][part]
            result["reasons"][part] = f"gives {value:.6g}, ours {wanted:.6g}"


def _pairs(contestants, names, found, steps, parts, rounds, budget):
    """Let two contestants run in turns, beginning with another one each time, and note what came out."""
    if not parts:
        return
    run_seconds = sum(found[name]["parts"][part]["seconds"] * steps[name][part] for name in names for part in parts)
    runs = np.empty((max(1, min(rounds, int(budget / run_seconds))), len(parts), 2, 3))
    for i in range(len(runs)):
        for j, part in enumerate(parts):
            for k in (0, 1) if i % 2 == 0 else (1, 0):
                time.sleep(REST)
                runs[i, j, k] = contestants[names[k]].run(steps[names[k]][part], part)
    ratios = runs[:, :, 0, 0] / runs[:, :, 1, 0]
    for k, name in enumerate(names):
        found[name]["peak"] = float(runs[..., k, 2].max())
        for j, part in enumerate(parts):
            found[name]["parts"][part]["seconds"] = float(np.median(runs[:, j, k, 0]))
    for j, part in enumerate(parts):
        found[names[1]]["parts"][part]["ratio"] = middle(ratios[:, j])
    found[names[1]]["ratio"] = middle(np.exp(np.log(ratios).mean(1)))


def beside(title, commands, rounds, length, warm_up=5, items=1, unit="steps", part=""):
    """Print what a step takes each contestant, the ratio of the first one's time to it, and the peak memory of its process.

    The arguments are those of `started` and of `contest`. The value after the warm-up shows whether all of them do the same
    work. A step handles `items` things, such as tokens, named `unit`; `part` is the step's name.
    """
    rate = f"{unit}/s"
    print(f"\n{title:24} |         ms | {rate:>10} | ratio ours / other (10 % to 90 %) | peak MB | value after {warm_up}")
    with started(commands) as contestants:
        found = contest(contestants, rounds, length, warm_up, [part])
    for name, result in found.items():
        if result["parts"]:
            seconds, value = result["parts"][part]["seconds"], result["parts"][part]["value"]
            ratio = "" if name == next(iter(commands)) else shown(result["ratio"])
            print(f"{name:24} | {1e3 * seconds:10.2f} | {items / seconds:10,.0f} | {ratio:33} | "
                  f"{result['peak']:7.0f} | {value:.4f}")
        else:
            print(f"{name:24} | {'; '.join(result['reasons'].values())}")
