"""Work shared out over several threads: nothing lost, nothing twice, errors seen, BLAS left as it was found."""

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import shared
from shared import threads
from shared.threads import parallel_for, single_threaded

ROOT = Path(shared.__file__).resolve().parent.parent
WAIT = 20  # seconds until a thread that waits for others gives up


@pytest.fixture
def use(monkeypatch):
    """Calls of ``use(n)`` set the number of threads, whatever the machine has."""
    pytest.importorskip("threadpoolctl", reason="without it everything runs in one thread")
    pools = []

    def set_count(count):
        monkeypatch.setattr(threads, "thread_count", lambda: count)
        monkeypatch.setattr(threads, "_workers", functools.cache(threads._workers.__wrapped__))
        pools.append(threads._workers)

    yield set_count
    for workers in pools:
        if workers.cache_info().currsize:
            for worker in workers()[0]:
                worker.start(None)


def blas_threads():
    """How many threads each BLAS library in this process uses now."""
    from threadpoolctl import threadpool_info

    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def blas():
    """BLAS on three threads, so that one thread can be told from what was there before."""
    from threadpoolctl import threadpool_limits

    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(3, "blas"):
        assert set(blas_threads()) == {3}
        yield


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 100, 101])
@pytest.mark.parametrize("least", [0, 1, 2, 50])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_pieces_cover_the_range_once(use, workers, least, count):
    use(workers)
    pieces = []
    parallel_for(lambda start, stop: pieces.append((start, stop)), count, least)
    pieces.sort()
    assert [i for start, stop in pieces for i in range(start, stop)] == list(range(count))
    assert len(pieces) == max(1, min(workers, count // max(least, 1)))
    assert len(pieces) == 1 or min(stop - start for start, stop in pieces) >= max(least, 1)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_pieces_run_at_the_same_time(use, workers):
    use(workers)
    together, seen = threading.Barrier(workers), set()

    def work(start, stop):
        together.wait(WAIT)  # passes only when all of them are here
        seen.add(threading.get_ident())

    parallel_for(work, workers)
    assert len(seen) == workers and threading.get_ident() in seen


@pytest.mark.parametrize("broken", range(3))
def test_an_error_in_any_piece_is_raised_when_the_others_are_done(use, blas, broken):
    use(3)
    done, late = [], threading.Event()

    def work(start, stop):
        if start == broken:
            late.set()
            raise KeyError(f"piece {start}")
        late.wait(WAIT)
        done.append(start)

    with pytest.raises(KeyError, match=f"piece {broken}"):
        parallel_for(work, 3)
    assert sorted(done) == [i for i in range(3) if i != broken] and set(blas_threads()) == {3}
    parallel_for(lambda start, stop: done.append(start), 3)  # the workers are still there
    assert len(done) == 5


def test_blas_has_one_thread_inside_and_its_own_number_afterwards(use, blas):
    use(2)
    inside = []
    parallel_for(lambda start, stop: inside.append(blas_threads()), 2)
    assert len(inside) == 2 and {n for found in inside for n in found} == {1} and set(blas_threads()) == {3}
    parallel_for(lambda start, stop: inside.append(blas_threads()), 1)
    assert set(inside[-1]) == {3}  # a single piece keeps BLAS's threads


def test_a_call_inside_another_runs_where_it_stands(use, blas):
    use(2)
    inner = []

    def work(start, stop):
        here = threading.get_ident()
        parallel_for(lambda a, b: inner.append((a, b, threading.get_ident() == here)), 10)
        assert set(blas_threads()) == {1}

    parallel_for(work, 2)
    assert inner == [(0, 10, True)] * 2


def test_single_threaded_keeps_everything_in_the_calling_thread_until_it_ends(use, blas):
    use(2)
    pieces = []
    with single_threaded():
        parallel_for(lambda start, stop: pieces.append((start, stop)), 4)
        with single_threaded():  # another one inside changes nothing
            assert set(blas_threads()) == {1}
    assert pieces == [(0, 4)] and set(blas_threads()) == {3}
    parallel_for(lambda start, stop: pieces.append((start, stop)), 4)
    assert sorted(pieces[1:]) == [(0, 2), (2, 4)]


def test_two_callers_at_the_same_time_leave_blas_as_it_was(use, blas):
    """The second finds the workers busy and does its work alone; it must not take BLAS's one thread for the usual number."""
    use(2)
    first_is_in, second_is_done, seen = threading.Event(), threading.Event(), []

    def first(start, stop):
        first_is_in.set()
        assert second_is_done.wait(WAIT)

    def second():
        assert first_is_in.wait(WAIT)
        parallel_for(lambda start, stop: seen.append((start, stop, threading.current_thread())), 4)
        second_is_done.set()

    other = threading.Thread(target=second)
    other.start()
    parallel_for(first, 4)
    other.join()
    assert seen == [(0, 4, other)] and set(blas_threads()) == {3}
    parallel_for(lambda start, stop: seen.append((start, stop)), 4)
    assert sorted(seen[1:]) == [(0, 2), (2, 4)]


def python(code, **environment):
    """What Python code prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("chosen", "expected"), [("1", 1), ("3", 3), ("0", 1)])
def test_the_environment_chooses_the_number_of_threads(chosen, expected):
    pytest.importorskip("threadpoolctl", reason="without it everything runs in one thread")
    code = """
import threading
from shared.threads import parallel_for, thread_count
seen = []
parallel_for(lambda start, stop: seen.append(stop - start), 12)
print(thread_count(), sorted(seen))
"""
    assert python(code, COURSE_THREADS=chosen) == f"{expected} {[12 // expected] * expected}"


@pytest.mark.parametrize(("count", "expected"), [("2", "2 2 1 1"), ("1", "2 2 2 2")])
def test_the_first_convolution_holds_blas_to_one_thread_where_several_share_the_work(count, expected):
    pytest.importorskip("threadpoolctl", reason="without it everything runs in one thread")
    code = """
import numpy as np
from threadpoolctl import threadpool_info
from shared import cnn, threads
def blas():
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
found = [blas()]
threads.parallel_for(lambda start, stop: None, 2)
found.append(blas())
cnn.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
found.append(blas())
threads.parallel_for(lambda start, stop: None, 2)
print(*found, blas())
"""
    assert python(code, COURSE_THREADS=count, OPENBLAS_NUM_THREADS="2", MKL_NUM_THREADS="2") == expected


STEP = """
import sys
if {blocked}:
    sys.modules["threadpoolctl"] = None  # as where it is not installed
import numpy as np
from shared import cnn, threads
from shared.tensor import Tensor, manual_seed
from shared.tensor_mlp import cross_entropy, gelu
manual_seed(0)
model = cnn.vgg((16, 16, "pool", 32, "pool"))
x = Tensor(np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32), requires_grad=True)
loss = cross_entropy(model(gelu(x)), np.arange(32) % 10)
loss.backward()
print(threads.thread_count(), loss.item().hex(), *(float(np.linalg.norm(p.grad)).hex() for p in [x, *model.parameters()]))
"""


@functools.cache
def training_step(count, blocked=False):
    """The number of threads, and the loss and the lengths of all gradients of a training step, in a fresh process."""
    used, *found = python(STEP.format(blocked=blocked), COURSE_THREADS=str(count)).split()
    return int(used), list(map(float.fromhex, found))


@pytest.mark.parametrize("count", [2, 3])
def test_a_training_step_is_the_same_on_any_number_of_threads(count):
    pytest.importorskip("threadpoolctl", reason="without it everything runs in one thread")
    (used, found), (one, expected) = training_step(count), training_step(1)
    assert (used, one) == (count, 1)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    training_step.cache_clear()
    assert training_step(count) == (used, found)  # to the last bit: no sum depends on which thread is first


def test_without_threadpoolctl_everything_runs_in_the_calling_thread():
    used, found = training_step(4, blocked=True)
    assert used == 1
    np.testing.assert_allclose(found, training_step(1)[1], rtol=2e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_gets_workers_of_its_own():
    """A child inherits the pool, but none of its threads: work handed to them would never be done."""
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads, which is what this is about
from shared.threads import parallel_for
parallel_for(lambda start, stop: None, 2)
def child():
    signal.alarm(10)
    seen = set()
    together = threading.Barrier(2)
    def work(start, stop):
        together.wait(8)
        seen.add(threading.get_ident())
    parallel_for(work, 2)
    os._exit(10 + len(seen))
def inside(start, stop):  # a fork while the workers are busy
    if start == 0:
        global pid
        pid = os.fork()
        if pid == 0:
            child()
parallel_for(inside, 2)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    pytest.importorskip("threadpoolctl", reason="without it everything runs in one thread")
    assert python(code, COURSE_THREADS="2") == "12"
