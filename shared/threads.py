"""Several cores for one operation: NumPy releases the interpreter's lock inside its loops, so threads really run side by side.

Matrix products are the exception: NumPy's BLAS has threads of its own, and two pools that fight for the same cores cost
more than they give. So while these threads work, BLAS is held to one thread each, by `threadpoolctl`; where that library
is not installed everything runs in the calling thread, with whatever threads BLAS has.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None

__all__ = ["parallel_for", "thread_count"]

_inside = threading.local()  # whether this thread is one of the workers, or waits for them


@cache
def thread_count():
    """How many threads share the work: the cores that this process may use, at most 8; `COURSE_THREADS` overrides it."""
    if ThreadpoolController is None:
        return 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(os.environ.get("COURSE_THREADS", min(available, 8))))


@cache
def _workers():
    """The waiting threads, and what sets the number of BLAS's threads."""
    blas = [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
    return ThreadPoolExecutor(thread_count() - 1, "course"), blas


def _work(function, start, stop):
    _inside.busy = True
    try:
        function(start, stop)
    finally:
        _inside.busy = False


def parallel_for(function, count, least=1):
    """Call ``function(start, stop)`` for consecutive pieces of ``range(count)``, one piece for each thread.

    The pieces have at least `least` elements; a single piece, and a call from inside another one, runs right here.
    Returns when all are done; an exception in any piece is raised here. What the pieces write must not overlap.
    """
    pieces = min(thread_count(), count // max(least, 1))
    if pieces < 2 or getattr(_inside, "busy", False):
        function(0, count)
        return
    pool, blas = _workers()
    bounds = [count * i // pieces for i in range(pieces + 1)]
    before = [library.get_num_threads() for library in blas]
    for library in blas:
        library.set_num_threads(1)
    try:
        waiting = [pool.submit(_work, function, *piece) for piece in pairwise(bounds[1:])]
        try:
            _work(function, 0, bounds[1])
        finally:
            errors = [future.exception() for future in waiting]  # waits for each of them, also after an error here
    finally:
        for library, threads in zip(blas, before, strict=True):
            library.set_num_threads(threads)
    for error in filter(None, errors):
        raise error
