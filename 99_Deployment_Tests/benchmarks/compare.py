"""Shared by the benchmarks: contestants in turns, in one process or in several, and ratios pair by pair with their spread."""

import gc
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def in_turns(contestants, rounds, repeat=1, rest=0.0):
    """Seconds a call for each of several functions, in an array (rounds, contestants).

    Every function is warmed up first. Each round runs all of them, beginning with another one each time, and each one
    `repeat` times: the first call of a turn is not counted where `repeat` is above one, since it finds cold caches.
    `rest` seconds pass before each turn, in which the thread pool of the contestant before goes to sleep.
    """
    for function in contestants:
        function(), function()
    seconds = np.empty((rounds, len(contestants)))
    for i in range(rounds):
        for k in np.roll(np.arange(len(contestants)), i):
            time.sleep(rest)
            gc.collect()
            if repeat > 1:
                contestants[k]()
            start = time.perf_counter()
            for _ in range(repeat):
                contestants[k]()
            seconds[i, k] = (time.perf_counter() - start) / repeat
    return seconds


def ratios(seconds):
    """The median of the first contestant's time over each other's, pair by pair, with the 10th and 90th percentile."""
    return [tuple(np.percentile(seconds[:, 0] / seconds[:, k], [50, 10, 90])) for k in range(1, seconds.shape[1])]


def shown(ratio):
    """A ratio as ``0.52 (0.48 to 0.60)``; a dash where there is none; text as it is."""
    return "-" if ratio is None else ratio if isinstance(ratio, str) else "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def serve(step):
    """The life of a process that a `Contestant` stands for: for each line "n" on its input it calls `step` n times, and
    prints the median of their times, what the last one returned, and its peak memory."""
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            value = step()
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(float(np.median(times)), value, peak, flush=True)


class Contestant:
    """A process, ``python script *arguments``, that ends in `serve`, and waits until it is its turn; two threads for BLAS."""

    def __init__(self, script, *arguments):
        root = str(Path(__file__).resolve().parents[2])
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, **threads, "PYTHONPATH": root})
        self.alive = self.process.stdout.readline().strip() == "ready"

    def run(self, steps):
        """Median seconds of a step, what the last one returned, and the peak memory in MB."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return tuple(map(float, self.process.stdout.readline().split()))

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def pairs_of(first, other, rounds, steps):
    """Runs of two contestants in turns: seconds a step (rounds, 2), the ratio's median with its spread, both peaks in MB."""
    runs = np.array([(first.run(steps[0]), other.run(steps[1])) for _ in range(rounds)])
    seconds = runs[:, :, 0]
    return seconds, ratios(seconds)[0], runs[-1, :, 2]


def beside(title, contestants, rounds, length, warm_up=5, items=1, unit="steps"):
    """Print what a step takes each contestant, the ratio of the first one's time to it, and the peak memory of its process.

    `contestants` is a table of names; they end here. A run has as many steps as take `length` seconds, at least one; a pair of
    runs that takes above four seconds is made at most five times. The value that the last of the `warm_up` steps returned,
    such as a loss, shows whether all of them do the same work. A step handles `items` things, such as tokens, named `unit`.
    """
    values, steps, rows = {}, {}, {}
    for name, contestant in contestants.items():
        if contestant.alive:
            seconds, values[name], _ = contestant.run(warm_up)
            steps[name] = max(1, round(length / seconds))
    first = next(iter(contestants))
    for name in [name for name in values if name != first]:
        slow = contestants[name].run(1)[0] > 4
        seconds, ratio, peaks = pairs_of(contestants[first], contestants[name], min(rounds, 5) if slow else rounds,
                                         (steps[first], steps[name]))
        rows.setdefault(first, (np.median(seconds[:, 0]), "", peaks[0]))
        rows[name] = (np.median(seconds[:, 1]), shown(ratio), peaks[1])
    rate = f"{unit}/s"
    print(f"\n{title:24} |         ms | {rate:>10} | ratio ours / other (10 % to 90 %) | peak MB | value after {warm_up}")
    for name, contestant in contestants.items():
        if name in rows:
            seconds, ratio, peak = rows[name]
            print(f"{name:24} | {1e3 * seconds:10.2f} | {items / seconds:10,.0f} | {ratio:33} | {peak:7.0f} | "
                  f"{values[name]:.4f}", flush=True)
        else:
            print(f"{name:24} | not installed", flush=True)
        contestant.close()
