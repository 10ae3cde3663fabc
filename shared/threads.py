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

__all__ = ["hold_blas", "parallel_for", "thread_count"]

_turn = threading.Lock()  # held while the workers are busy: one operation at a time shares its work


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


@cache
def hold_blas():
    """From now on BLAS computes in the thread that calls it, where there are several threads to share the work out to.

    BLAS's own threads spin for a while after each product, in case there is another, on the very cores that the workers
    want. What lives on `parallel_for`, like a network of convolutions, calls this once and is rid of them.
    """
    if thread_count() > 1:
        for library in _workers()[1]:
            library.set_num_threads(1)


def _forget():
    """In a forked process there are no workers, and nobody will give the turn back."""
    global _turn
    _turn = threading.Lock()
    _workers.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def parallel_for(function, count, least=1):
    """Call ``function(start, stop)`` for consecutive pieces of ``range(count)``, one piece for each thread.

    The pieces have at least `least` elements. A single piece runs right here, and so does a call from inside another
    one, or while another thread's call is at work. Returns when all are done; an exception in any piece is raised here.
    What the pieces write must not overlap.
    """
    turn, pieces = _turn, min(thread_count(), count // max(least, 1))
    if pieces < 2 or not turn.acquire(blocking=False):
        function(0, count)
        return
    try:
        _share(function, [count * i // pieces for i in range(pieces + 1)])
    finally:
        turn.release()


def _share(function, bounds):
    """One piece here, the others on the workers, with BLAS on one thread until all are done."""
    pool, blas = _workers()
    before = [library.get_num_threads() for library in blas]
    for library in blas:
        library.set_num_threads(1)
    try:
        waiting = [pool.submit(function, *piece) for piece in pairwise(bounds[1:])]
        try:
            function(*bounds[:2])
        finally:
            errors = [future.exception() for future in waiting]  # waits for each of them, also after an error here
    finally:
        for library, threads in zip(blas, before, strict=True):
            library.set_num_threads(threads)
    for error in filter(None, errors):
        raise error
