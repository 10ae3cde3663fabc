"""Shared by the benchmarks: contestants in turns in one process, and ratios pair by pair with their spread."""

import gc
import time

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
