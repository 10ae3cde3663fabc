"""Several processes for one batch: each computes the loss and the gradients of its share of the rows, side by side.

Threads meet at Python's lock between any two NumPy calls, and wait there for each other; processes do not. The parameters lie
in memory that all processes see, so a step of the optimiser reaches everybody at once. PyTorch calls this data parallelism
(Li et al. 2020, PyTorch distributed: experiences on accelerating data parallel training).
"""

import multiprocessing
import os
import signal
import traceback
from contextlib import contextmanager, suppress
from itertools import pairwise

import numpy as np

from shared.tensor import default_generator, manual_seed
from shared.tensor_mlp import Trainer
from shared.threads import hold_blas, single_threaded, thread_count

__all__ = ["DataParallel", "ParallelTrainer"]


_CONTEXT = multiprocessing.get_context("spawn")  # a fresh process; a copy of this one would lack its threads
_LINE = 64  # bytes: each array begins on a line of the cache


def _views(memory, parameters):
    """Arrays of the parameters' shapes and types that lie one after the other in shared memory."""
    views, start = [], 0
    for p in parameters:
        views.append(np.frombuffer(memory, p.data.dtype, p.data.size, start).reshape(p.data.shape))
        start += -(-p.data.nbytes // _LINE) * _LINE
    return views


def _help(connection, model, loss, weights, gradients):
    """The life of a helping process: gradients of the shares that it is sent, until it is sent None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that sends
    parameters = list(model.parameters())
    for p, shared in zip(parameters, _views(weights, parameters), strict=True):
        p.data = shared
    slopes = _views(gradients, parameters)
    with suppress(EOFError):  # the other side has ended
        while (task := connection.recv()) is not None:
            try:
                connection.send((*_share_of(model, loss, parameters, slopes, *task), None))
            except Exception:  # whatever it is, the other side raises it
                connection.send((None, None, traceback.format_exc()))


def _share_of(model, loss, parameters, slopes, seed, training, batch, weight):
    """Write the gradients of `weight` times the loss of a batch into `slopes`; returns that loss, and who has a gradient."""
    manual_seed(seed)
    model.train(training)
    for p in parameters:
        p.grad = None
    value = _backward(model, loss, batch, weight)
    for p, slope in zip(parameters, slopes, strict=True):
        if p.grad is not None:
            slope[...] = p.grad
    return value, [p.grad is not None for p in parameters]


def _backward(model, loss, batch, weight):
    """One forward and backward pass, the loss times `weight`; returns that product."""
    *inputs, target = batch
    value = loss(model(*inputs), target) * weight
    value.backward()
    return value.item()


@contextmanager
def _environment(**changes):
    """Environment variables for the processes that are started in this block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Helper:
    """A helping process as its employer sees it."""

    def __init__(self, model, loss, parameters, weights, size):
        self.connection, there = _CONTEXT.Pipe()
        gradients = _CONTEXT.RawArray("b", size)
        self.slopes = _views(gradients, parameters)
        self.process = _CONTEXT.Process(target=_help, args=(there, model, loss, weights, gradients), daemon=True)
        self.process.start()
        there.close()

    def send(self, *task):
        """Hand over the arguments of `_share_of`. A helper that has ended is noticed when its answer is asked for."""
        with suppress(ConnectionError):
            self.connection.send(task)

    def answer(self):
        """Its loss, who has a gradient, and a message if it failed. Raises RuntimeError where the process has ended."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise RuntimeError(f"DataParallel: a helping process ended with exit code {self.process.exitcode}") from error

    def close(self):
        """Let the helper end."""
        with suppress(ConnectionError):
            self.connection.send(None)
        self.process.join()
        self.connection.close()


class DataParallel:
    """Loss and gradients of a batch, computed by several processes, each on its share of the rows.

    Parameters
    ----------
    model : a module. Its parameters move into shared memory; `close` moves them back. Change them in place, as optimisers do.
    loss : function of (output, target) that returns the mean over the rows as a tensor. Like the model it is pickled, so it
        stands in a module or in a script behind ``if __name__ == "__main__"``.
    processes : how many, this one included; as many as there are cores unless given. One needs no help, and gets none.

    ``with DataParallel(...) as parallel:`` ends the helpers with the block. Buffers, such as batch norm's statistics, are
    those of this process's share. Raises ValueError for `processes` below 1.
    """

    def __init__(self, model, loss, processes=None):
        processes = thread_count() if processes is None else processes
        if processes < 1:
            raise ValueError(f"DataParallel: expected at least 1 process, got {processes}")
        self.model, self.loss, self.processes = model, loss, processes
        self._parameters, self._weights, self._helpers = list(model.parameters()), [], []
        if processes > 1:
            self._start()

    def _start(self):
        """Move the parameters into shared memory and start the helpers."""
        hold_blas()  # BLAS would keep its second thread waiting on a core that now has better things to do
        size = sum(p.data.nbytes + _LINE for p in self._parameters)
        weights = _CONTEXT.RawArray("b", size)
        self._weights = _views(weights, self._parameters)
        for p, shared in zip(self._parameters, self._weights, strict=True):
            shared[...] = p.data
            p.data = shared
        threads = str(max(1, thread_count() // self.processes))
        names = ("COURSE_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        try:
            with _environment(**dict.fromkeys(names, threads)):
                for _ in range(self.processes - 1):
                    self._helpers.append(_Helper(self.model, self.loss, self._parameters, weights, size))
        except BaseException:  # such as a loss that cannot be pickled
            self.close()
            raise

    def backward(self, *batch):
        """Add the gradients of the mean loss of a batch, (input, ..., target), to the parameters; returns the loss.

        The rows of all its parts are shared out. The random numbers of a helper, for dropout, follow from this process's.
        Raises RuntimeError with the helper's message where a helper fails or has ended, and where a parameter's array was
        replaced.
        """
        rows = len(batch[-1])
        if not self._helpers or rows < 2:
            return _backward(self.model, self.loss, batch, 1.0)
        if any(p.data is not shared for p, shared in zip(self._parameters, self._weights, strict=True)):
            raise RuntimeError("DataParallel: a parameter's array was replaced; the helpers only see changes in place")
        bounds = np.linspace(0, rows, min(self.processes, rows) + 1).round().astype(int).tolist()
        (own, weight), *others = [([part[start:stop] for part in batch], (stop - start) / rows)
                                  for start, stop in pairwise(bounds)]
        busy = list(zip(self._helpers, others, strict=False))
        for helper, share in busy:
            helper.send(int(default_generator().integers(2**63)), self.model.training, *share)
        try:
            with single_threaded():
                total = _backward(self.model, self.loss, own, weight)
        finally:
            answers = [helper.answer() for helper, _ in busy]  # of each, lest the next batch finds an old one
        for (helper, _), (value, present, failure) in zip(busy, answers, strict=True):
            if failure:
                raise RuntimeError(f"DataParallel: a helping process failed\n{failure}")
            total += value
            for p, slope, there in zip(self._parameters, helper.slopes, present, strict=True):
                if there:
                    p.grad = slope.copy() if p.grad is None else p.grad + slope
        return total

    def close(self):
        """End the helpers, and give the parameters memory of their own again."""
        for helper in self._helpers:
            helper.close()
        for p, _ in zip(self._parameters, self._weights, strict=False):
            p.data = p.data.copy()
        self._weights, self._helpers = [], []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class ParallelTrainer(Trainer):
    """A `Trainer` that shares each batch out to `processes`, as many as there are cores unless given; see `DataParallel`."""

    def __init__(self, *arguments, processes=None, **options):
        super().__init__(*arguments, **options)
        self.processes = processes

    def fit(self, train, validation=None, *, epochs):
        """As `Trainer.fit`, with helping processes that live as long as the call."""
        with DataParallel(self.model, self.loss, self.processes) as self._parallel:
            return super().fit(train, validation, epochs=epochs)

    def _gradients(self, batch):
        """Put the gradients of a batch into the parameters; returns the batch's loss."""
        self.optimizer.zero_grad()
        return self._parallel.backward(*batch)
