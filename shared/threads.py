"""Several cores for one operation: NumPy releases the interpreter's lock inside its loops, so threads really run side by side.

Matrix products are the exception: NumPy's BLAS has threads of its own, and two pools that fight for the same cores cost
more than they give. So while these threads work, BLAS is held to one thread each, by `threadpoolctl`; where that library
is not installed everything runs in the calling thread, with whatever threads BLAS has.
"""

import os
import threading
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None

__all__ = ["hold_blas", "parallel_for", "single_threaded", "thread_count"]

_turn = threading.Lock()  # held while the workers are busy: one operation at a time shares its work


@cache
def thread_count():
    """How many threads share the work: the cores that this process may use, at most 8; `COURSE_THREADS` overrides it."""
    if ThreadpoolController is None:
        return 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(os.environ.get("COURSE_THREADS", min(available, 8))))


class _Worker:
    """A thread that waits for work. Two plain locks hand it over several times faster than a queue of futures."""

    def __init__(self):
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        threading.Thread(target=self._work, name="course", daemon=True).start()

    def _work(self):
        while True:
            self._go.acquire()
            if self._task is None:
                return
            try:
                self._task[0](*self._task[1:])
            except BaseException as error:  # whatever it is, it is raised in the thread that waits
                self.error = error
            self._task = None
            self._done.release()

    def start(self, *task):
        """Begin with a task, a function and its arguments; None ends the thread."""
        self._task, self.error = task if task[0] else None, None
        self._go.release()

    def wait(self):
        """Return when the task is done: the exception that it raised, or None."""
        self._done.acquire()
        error, self.error = self.error, None
        return error


@cache
def _workers():
    """The waiting threads, and what sets the number of BLAS's threads."""
    blas = [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
    return [_Worker() for _ in range(thread_count() - 1)], blas


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
    with _blas_alone():
        busy = list(zip(_workers()[0], pairwise(bounds[1:]), strict=False))
        for worker, piece in busy:
            worker.start(function, *piece)
        try:
            function(*bounds[:2])
        finally:
            errors = [worker.wait() for worker, _ in busy]  # of each of them, also after an error here
    for error in filter(None, errors):
        raise error


@contextmanager
def _blas_alone():
    """BLAS computes in the thread that calls it, in this block."""
    blas = _workers()[1]
    before = [library.get_num_threads() for library in blas]
    for library in blas:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in zip(blas, before, strict=True):
            library.set_num_threads(threads)


@contextmanager
def single_threaded():
    """All operations of this block run in the calling thread: for a process that has others beside it on the other cores."""
    turn = _turn
    if thread_count() < 2 or not turn.acquire(blocking=False):
        yield
        return
    try:
        with _blas_alone():
            yield
    finally:
        turn.release()
