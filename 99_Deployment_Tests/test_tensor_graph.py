"""The engine's graph: exact, linear in time, without cycles, freed on the way, and the same on every run."""

import gc
import operator
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import shared
from shared import tensor as engine
from shared.scalar_autograd import topological_order
from shared.scalar_mlp import SGD, Module
from shared.tensor import Tensor, cat, enable_grad, is_grad_enabled, no_grad, ones, where, zeros

ROOT = Path(shared.__file__).resolve().parent.parent


def in_a_fresh_process(program, **environment):
    """Run a program in an interpreter of its own, on one thread, and return what it prints."""
    settings = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **environment}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **settings}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@pytest.fixture
def lifted(monkeypatch):
    """`differentiable`, with a copy of the registry that is thrown away."""
    monkeypatch.setattr(engine, "OPERATIONS", dict(engine.OPERATIONS))
    return engine.differentiable


def counted(lifted):
    """An operation a + b, and a list of how often the pullbacks of its two inputs were called."""
    calls = [0, 0]

    @lifted
    def counted_add(a, b):
        def pullback(i):
            def send(g):
                calls[i] += 1
                return g

            return send

        return a + b, (pullback(0), pullback(1))

    return counted_add, calls


def leaf(*shape, seed=0, dtype="f8"):
    """A random leaf that requires a gradient."""
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype), requires_grad=True)


class TestDiamonds:
    def test_one_diamond(self):
        x = leaf(3)
        a = x * 2.0
        (a * a + a).sum().backward()
        np.testing.assert_allclose(x.grad, 8 * x.data + 2, rtol=1e-14)

    def test_unequal_depths(self):
        x = leaf(3)
        y = x.exp()
        (y + (y * 3.0).sin() * y).sum().backward()
        e = np.exp(x.data)
        np.testing.assert_allclose(x.grad, e * (1 + np.sin(3 * e) + 3 * e * np.cos(3 * e)), rtol=1e-12)

    def test_ladder_of_sixty_is_exact_and_calls_each_pullback_once(self, lifted):
        add, calls = counted(lifted)
        x = y = Tensor(np.array(1.0), requires_grad=True)
        for _ in range(60):
            y = add(y, y)  # 2 to the 60 paths, 60 operations
        y.backward()
        assert x.grad == 2.0**60
        assert calls == [60, 60]

    def test_shared_between_outputs(self):
        x = leaf(4)
        h = x.tanh()
        h.sum().backward(retain_graph=True)
        (h * 2.0).sum().backward()
        np.testing.assert_allclose(x.grad, 3 * (1 - np.tanh(x.data) ** 2), rtol=1e-13)


class TestChains:
    def test_hundred_thousand_operations_forward_backward_and_freed(self):
        found = in_a_fresh_process("""
            import gc, sys
            gc.disable()
            from shared.tensor import Tensor, ones

            def chain(backward):
                x = y = ones(1, requires_grad=True)
                for _ in range(50_000):
                    y = (y + 1.0) * 1.0
                if backward:
                    y.backward()
                    assert x.grad.tolist() == [1.0], x.grad

            chain(True), chain(False)  # the second graph is dropped whole
            gc.collect()  # what the imports left
            before = sys.getallocatedblocks()
            chain(True), chain(False)
            cycles = gc.collect()  # empties the interpreter's lists of spare tuples, too
            print(sys.getallocatedblocks() - before, cycles)
        """)
        blocks, cycles = map(int, found.split())
        assert blocks < 100  # a leak of one object an operation would be 100,000
        assert cycles == 0

    def test_no_recursion(self):
        found = in_a_fresh_process("""
            import sys
            from shared.tensor import ones
            x = y = ones(1, requires_grad=True)
            sys.setrecursionlimit(60)
            for _ in range(1000):
                y = y * 1.0
            y.backward()
            print(x.grad.item())
        """)
        assert found == "1.0"


class TestFreeing:
    def test_no_reference_cycles(self):
        gc.collect()
        gc.disable()
        try:
            x, w = leaf(4, 3), leaf(3, 2)
            h = (x @ w).softmax(dim=1)
            loss = (h * h + h.max(dim=1, keepdim=True).values).mean() + cat([h, h]).var()
            nodes = [weakref.ref(t.data) for t in (h, loss)]
            del h, loss
            assert [ref() for ref in nodes] == [None, None]
            assert gc.collect() == 0
        finally:
            gc.enable()

    def test_arrays_are_freed_while_the_backward_pass_runs(self, lifted):
        alive = []

        @lifted
        def holding(x):
            y = x + 0.0
            alive.append(weakref.ref(y))

            def pullback(g):
                still.append(sum(ref() is not None for ref in alive))
                return g + 0 * y

            return y, pullback

        still, y = [], leaf(5)
        for _ in range(6):
            y = holding(y)
        y = y.sum()
        y.backward()
        assert still == [6, 5, 4, 3, 2, 1]

    def test_only_what_is_needed_is_kept(self):
        x, factor = leaf(1000), Tensor(np.ones(1000))
        array = weakref.ref(x.data)
        y = x * factor  # the gradient of x needs the factor, and nobody needs x
        del x
        assert array() is None
        assert y.grad_fn.parents[0].shape == (1000,)

    def test_an_intermediate_tensor_is_not_held_by_its_node(self):
        x = leaf(1000)
        y = x + 1.0
        array, z = weakref.ref(y.data), y + 1.0
        del y
        assert array() is None
        z.sum().backward()
        assert x.grad.tolist() == [1.0] * 1000

    def test_second_backward_raises_and_changes_nothing(self):
        x = leaf(3)
        y = (x * x).sum()
        y.backward()
        before = x.grad.copy()
        with pytest.raises(RuntimeError, match=r"backward.*retain_graph=True"):
            y.backward()
        np.testing.assert_array_equal(x.grad, before)

    def test_a_graph_that_was_used_up_in_part_raises_before_anything_is_added(self):
        x, w = leaf(3, seed=1), leaf(3, seed=2)
        h = x.exp()
        h.sum().backward()
        before = x.grad.copy()
        for loss in ((h * w).sum(), (w * w * h).sum()):
            with pytest.raises(RuntimeError, match="used up"):
                loss.backward()
            assert w.grad is None
            np.testing.assert_array_equal(x.grad, before)

    @pytest.mark.parametrize("turned", [False, True])
    def test_that_error_leaves_the_rest_of_the_graph_whole(self, turned):
        x, w = leaf(3, seed=1), leaf(3, seed=2)
        h, k = x.exp(), w.sin()
        h.sum().backward()
        with pytest.raises(RuntimeError, match="used up"):
            (k * h if turned else h * k).sum().backward()
        k.sum().backward()
        np.testing.assert_allclose(w.grad, np.cos(w.data), rtol=1e-14)

    def test_retain_graph(self):
        x = leaf(3)
        y = (x * x).sum()
        for n in (1, 2, 3):
            y.backward(retain_graph=n < 3)
            np.testing.assert_allclose(x.grad, 2 * n * x.data, rtol=1e-14)
        with pytest.raises(RuntimeError, match="used up"):
            y.backward()


class TestGradients:
    def test_a_pullback_that_is_not_needed_is_never_called(self, lifted):
        add, calls = counted(lifted)
        x, constant = leaf(3), Tensor(np.ones(3))
        add(x, constant).sum().backward()
        assert calls == [1, 0]
        add(constant, x).sum().backward()
        assert calls == [1, 1]
        add(x.detach(), constant)
        with no_grad():
            add(x, x)
        assert calls == [1, 1]

    def test_an_input_without_a_pullback_must_not_require_a_gradient(self):
        x, condition = leaf(3), Tensor(np.array([1.0, 0.0, 1.0]))
        where(condition, x, 0.0).sum().backward()
        assert x.grad.tolist() == [1, 0, 1]
        condition.requires_grad_()
        with pytest.raises(ValueError, match="where: it has no gradient for input 1"):
            where(condition, x, 0.0)
        with no_grad():
            assert where(condition, x, 0.0).tolist() == (x.data * [1, 0, 1]).tolist()

    def test_a_pullback_for_several_inputs_hears_which_want_a_gradient(self, lifted):
        heard = []

        @lifted
        def joint(a, b, c):
            def send(g, wanted):
                heard.append(wanted)
                return g, 2 * g, 3 * g

            return a + 2 * b + 3 * c, send

        a, c = leaf(2), leaf(2)
        joint(a, Tensor(np.ones(2)), c).sum().backward()
        assert heard == [(True, False, True)]
        assert a.grad.tolist() == [1, 1] and c.grad.tolist() == [3, 3]

    def test_unused_parameters_keep_none(self):
        used, unused, beside = leaf(2), leaf(2), leaf(2)
        beside * 2.0  # takes part in nothing that leads to the loss
        used.sum().backward()
        assert unused.grad is None and beside.grad is None and used.grad is not None

    def test_gradients_never_alias(self):
        upstream = np.ones((2, 3))
        a, b, c = leaf(2, 3, seed=1), leaf(2, 3, seed=2), leaf(3, 2, seed=3)
        (a + b + c.T + a.reshape(2, 3) + b.detach()).backward(upstream)
        found = [a.grad, b.grad, c.grad]
        a.grad += 100
        upstream += 7
        np.testing.assert_array_equal(b.grad, np.ones((2, 3)))
        np.testing.assert_array_equal(c.grad, np.ones((3, 2)))
        assert not [1 for i, g in enumerate(found) for h in [upstream, *found[:i]] if np.shares_memory(g, h)]

    def test_an_accumulated_gradient_grows_without_changing_what_was_read_before(self):
        x = leaf(3)
        y = x.clone()
        y.retain_grad()
        y.sum().backward(retain_graph=True)
        assert not np.shares_memory(x.grad, y.grad)
        y.sum().backward()
        assert x.grad.tolist() == [2, 2, 2] == y.grad.tolist()

    def test_only_leaves_keep_a_gradient(self):
        x = leaf(3)
        y = x * 2.0
        z = y * 3.0
        z.retain_grad()
        z.sum().backward()
        assert y.grad is None
        assert x.grad.tolist() == [6, 6, 6] and z.grad.tolist() == [1, 1, 1]
        assert x.is_leaf and not y.is_leaf and x.grad_fn is None and y.grad_fn is not None

    def test_a_leaf_alone(self):
        x = leaf()
        x.backward()
        assert x.grad.shape == () and x.grad == 1

    def test_the_nodes_hold_no_tensor(self):
        x = leaf(3, 3)
        loss = ((x @ x).relu().sum(dim=0) * x[0]).mean()
        for node in topological_order(loss.grad_fn, lambda node: node.parents):
            held = [node.name, node.parents, *(node.vjp or ())]
            cells = [c.cell_contents for f in held if callable(f) for c in f.__closure__ or ()]
            assert not [thing for thing in cells if isinstance(thing, Tensor)]

    def test_tied_parameters_are_counted_once(self):
        class Parameter(Tensor):
            is_parameter = True

        class Tied(Module):
            def __init__(self):
                self.encoder = Parameter(leaf(2, 3), requires_grad=True)
                self.decoder = self.encoder

            def forward(self, x):
                return x @ self.encoder @ self.decoder.T

        model, x = Tied(), Tensor(np.eye(2))
        w = model.encoder.data.copy()
        assert [p is model.encoder for p in model.parameters()] == [True]
        model(x).sum().backward()
        gradient = 2 * np.ones((2, 2)) @ w
        np.testing.assert_allclose(model.encoder.grad, gradient, rtol=1e-13)
        SGD(model.parameters(), lr=0.1).step()
        np.testing.assert_allclose(model.encoder.data, w - 0.1 * gradient, rtol=1e-12)  # one step, not two

    def test_detach_cuts(self):
        x = leaf(3)
        y = x * 2.0
        (y.detach() * x).sum().backward()
        np.testing.assert_array_equal(x.grad, 2 * x.data)
        assert not y.detach().requires_grad

    def test_errors_of_backward_come_before_anything_is_changed(self):
        x = leaf(2, 3)
        y = x * 2.0
        with pytest.raises(RuntimeError, match=r"backward.*\(2, 3\)"):
            y.backward()
        for wrong in (np.ones((3, 2)), np.ones(3), np.ones((1, 2, 3)), 1.0):
            with pytest.raises(ValueError, match=r"backward.*\(2, 3\)"):
                y.backward(wrong)
        assert x.grad is None
        y.backward(np.ones((2, 3)))  # the graph is still whole
        assert x.grad.tolist() == [[2, 2, 2], [2, 2, 2]]
        with pytest.raises(RuntimeError, match="does not require"):
            ones(1).backward()

    def test_a_pullback_of_a_wrong_shape_is_named_and_leaves_every_gradient_alone(self, lifted):
        @lifted
        def misshapen(a, b):
            return a + b, (lambda g: g, lambda g: g[:, :1])

        a, b = leaf(2, 3, seed=1), leaf(2, 3, seed=2)
        with pytest.raises(ValueError, match=r"misshapen.*\(2, 1\).*\(2, 3\)"):
            (misshapen(a, b) + a).sum().backward()
        assert a.grad is None and b.grad is None

    @pytest.mark.parametrize("count", [1, 3])
    def test_the_wrong_number_of_pullbacks_is_named(self, lifted, count):
        @lifted
        def miscounted(a, b):
            return a + b, (lambda g: g,) * count

        with pytest.raises(ValueError, match=rf"miscounted: 2 inputs, but {count}"):
            miscounted(leaf(2), leaf(2))


class TestRegistry:
    def test_a_name_is_taken_once(self, lifted):
        def add(a, b):
            return a + b, (lambda g: g, lambda g: g)

        before = engine.OPERATIONS["add"]
        with pytest.raises(ValueError, match=r"differentiable.*'add' exists already"):
            lifted(add)
        assert engine.OPERATIONS["add"] is before

    def test_a_new_operation_needs_no_change_of_the_engine(self, lifted):
        @lifted
        def layer_norm_of_this_test(x, *, eps=1e-5):
            r = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
            n = (x - x.mean(-1, keepdims=True)) * r
            return n, lambda g: r * (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True))

        assert engine.gradcheck(lambda x: layer_norm_of_this_test(x, eps=0.1), leaf(3, 5))
        assert "layer_norm_of_this_test" in engine.OPERATIONS


    @pytest.mark.parametrize(
        ("function", "shapes"),
        [
            (lambda a, b: (a * b, lambda g: (g * b, g * a)), [(3,), (3,)]),
            (lambda a, *others: (a + sum(others), (lambda g: g,) * (1 + len(others))), [(3,), (3,), (3,)]),
            (lambda x: (3 * x, lambda g: 3 * float(g)), [()]),
        ],
        ids=["two inputs that share a pullback", "one input and any number of others", "a gradient that is a Python number"],
    )
    def test_an_operation_may_be_written_in_several_ways(self, lifted, function, shapes):
        assert engine.gradcheck(lifted(function), tuple(leaf(*shape, seed=i) for i, shape in enumerate(shapes)))

    def test_an_operation_that_raises_is_not_tried_again(self, lifted):
        calls = []

        @lifted
        def failing(x):
            calls.append(x)
            raise RuntimeError("not today")

        with pytest.raises(RuntimeError, match="not today"):
            failing(leaf(2))
        assert len(calls) == 1


class TestNoGrad:
    def test_nests(self):
        x = leaf(2)
        with no_grad():
            with no_grad():
                assert not (x * 2.0).requires_grad
            assert not is_grad_enabled() and not (x * 2.0).requires_grad
            with enable_grad():
                assert (x * 2.0).requires_grad
            assert not (x * 2.0).requires_grad
        assert is_grad_enabled() and (x * 2.0).requires_grad

    def test_survives_exceptions(self):
        with pytest.raises(ZeroDivisionError), no_grad():
            1 / 0  # noqa: B018
        assert is_grad_enabled()
        with pytest.raises(ZeroDivisionError), no_grad(), enable_grad():
            1 / 0  # noqa: B018
        assert is_grad_enabled()

    def test_one_object_entered_twice(self):
        guard = no_grad()
        with guard:
            with guard:
                pass
            assert not is_grad_enabled()
        assert is_grad_enabled()

    def test_decorator_also_of_a_recursive_function_that_fails(self):
        seen = []

        @no_grad()
        def countdown(n):
            """Counts down."""
            seen.append(is_grad_enabled())
            return countdown(n - 1) if n else 1 / n

        with pytest.raises(ZeroDivisionError):
            countdown(3)
        assert seen == [False] * 4 and is_grad_enabled() and countdown.__name__ == "countdown"

    def test_belongs_to_its_thread(self):
        found = []
        with no_grad():
            thread = threading.Thread(target=lambda: found.append(is_grad_enabled()))
            thread.start()
            thread.join()
        assert found == [True]

    def test_a_thread_that_ended_inside_of_it_leaves_nothing_to_the_next(self):
        def left_open():
            no_grad().__enter__()

        found = []
        for work in (left_open, *[lambda: found.append(is_grad_enabled())] * 20):  # the system gives numbers of threads again
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert found == [True] * 20

    def test_leaves_may_be_changed_in_place_under_it_only(self):
        x = leaf(3)
        before = x.data.copy()
        with pytest.raises(RuntimeError, match=r"setitem.*leaf"):
            x[0] = 5.0
        np.testing.assert_array_equal(x.data, before)
        with no_grad():
            x[0] = 5.0
        assert x.data[0] == 5 and x.requires_grad and x.is_leaf


STEPS = """
    import gc, sys
    gc.disable()
    import numpy as np
    from shared.scalar_mlp import SGD
    from shared.tensor import Tensor, manual_seed, no_grad, randn

    def resident():
        try:
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        except OSError:  # only Linux tells
            return 0

    manual_seed(0)
    x, target = randn(256, 8), randn(256, 3)
    weights = [(randn(a, b) * 0.3).detach().requires_grad_() for a, b in ((8, 64), (64, 64), (64, 3))]
    biases = [(randn(n) * 0.1).detach().requires_grad_() for n in (64, 64, 3)]
    optimiser, found = SGD(weights + biases, lr=0.01), []
    gc.collect()  # what the imports left
    for step in range(1, 2001):
        h = x
        for w, b in zip(weights, biases):
            h = (h @ w + b).tanh()
        loss = ((h - target) ** 2).mean() + 0.001 * h.log_softmax(dim=1)[:, 0].sum() + h.max(dim=1).values.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in (10, 100, 1000, 2000):
            size = resident()
            cycles = gc.collect()  # must find nothing; it also empties the interpreter's lists of spare tuples
            found += [cycles, sys.getallocatedblocks(), size]
    print(*found)
"""


def test_memory_after_two_thousand_steps_equals_that_after_a_hundred_without_the_collector():
    cycles, blocks, sizes = np.array(in_a_fresh_process(STEPS).split(), int).reshape(4, 3).T
    assert cycles.tolist() == [0, 0, 0, 0]  # so the collector had nothing to free
    # one object kept at each step would make 900 blocks or more; the growing list of this program takes a few
    assert max(blocks[2] - blocks[0], blocks[3] - blocks[1]) < 50
    # one activation of 256 x 64 numbers kept at each step would make 120 MB; the allocator may move by some pages
    assert sizes[3] - sizes[1] < 2**20


ORDER = """
    import numpy as np
    from shared import tensor as engine
    import random
    junk = [engine._node("", (), None, (), None) for _ in range(20_000)]
    random.Random({junk}).shuffle(junk)
    del junk[10_000:]  # the nodes below take these places, in another order on each run
    rng = np.random.default_rng(0)
    called = []

    def traced(node):
        def wrap(pullback):
            def send(g):
                called.append(node.name)
                return pullback(g)
            return send
        node.vjp = tuple(map(wrap, node.vjp))

    x = engine.Tensor(rng.normal(size=(50, 7)).astype("f4"), requires_grad=True)
    parts = [op(x * float(s)) for s in rng.normal(size=6) for op in (engine.exp, engine.tanh, engine.sin, engine.sigmoid)]
    total = parts[0]
    for part in parts[1:]:
        total = total * 0.5 + part
    loss = total.sum() + engine.cat([op(x) for op in (engine.exp, engine.cos, engine.abs, engine.relu) * 4]).sum()
    nodes = engine.topological_order(loss.grad_fn, lambda node: node.parents)
    for node in nodes:
        if node.vjp:
            traced(node)
    loss.backward()
    import hashlib
    print(len(called), hashlib.sha256(" ".join(called).encode() + x.grad.tobytes()).hexdigest())
"""


def test_the_order_of_traversal_does_not_depend_on_addresses():
    runs = [in_a_fresh_process(ORDER.format(junk=junk), PYTHONHASHSEED=seed) for junk,
        seed in ((0, "1"), (12_345, "2"), (777, "3"))]
    assert len(set(runs)) == 1
    assert int(runs[0].split()[0]) > 90


def closures(thing, seen):
    """The arrays that a pullback holds, in its own cells and in those of the functions it holds."""
    for cell in getattr(thing, "__closure__", None) or ():
        value = cell.cell_contents
        if id(value) in seen:
            continue
        seen.add(id(value))
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, np.ndarray | np.generic):
                yield part
            yield from closures(part, seen)


def training_step(dtype):
    """The loss of a small network whose operations are those a learner uses, and its parameters."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
    x, labels = Tensor(rng.normal(size=(8, 5)).astype(dtype)), rng.integers(0, 3, 8)
    w, b, v, gain = draw(5, 6), draw(6), draw(6, 3), draw(6)
    h = ((x - x.mean(dim=0)) / (x.std(dim=0) + 1e-5)) @ w + b
    h = (h - h.mean(dim=1, keepdim=True)) / (h.var(dim=1, keepdim=True, correction=0) + np.float64(1e-5)).sqrt() * gain
    h = h.relu() + 0.1 * h.tanh() * h.sigmoid() + h**2 * 0.5 + np.sqrt(2.0 / 5) * h.abs().clamp(max=2)
    logits = (h @ v).masked_fill(np.arange(3) == 7, -1e9) / np.sqrt(6)
    picked = -logits.log_softmax(dim=1)[np.arange(8), labels].mean()
    smooth = logits.logsumexp(dim=1).mean() - logits.softmax(dim=1).max(dim=1).values.sum() / len(x)
    return picked + 0.1 * smooth + 1e-4 * (w * w).sum() + cat([b, gain]).pow(2).mean() * (1 / 3), [w, b, v, gain]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_keeps_its_type_everywhere(dtype):
    loss, parameters = training_step(dtype)
    other = {"float32": np.float64, "float64": np.float32}[dtype]
    nodes = topological_order(loss.grad_fn, lambda node: node.parents)
    assert len(nodes) > 50
    travelled = []
    for node in nodes:
        assert node.dtype == dtype, node
        if node.vjp is None:
            continue
        held = [array.dtype for pullback in node.vjp for array in closures(pullback, set()) if array.ndim]
        assert other not in held, f"{node.name} keeps {other.__name__}"
        watch = lambda f, name: lambda g: travelled.append((name, g.dtype)) or travelled.append((name, f(g))) or travelled[-1][1]
        node.vjp = tuple(watch(pullback, node.name) for pullback in node.vjp)
    loss.backward()
    types = {(name, str(getattr(getattr(thing, "g", thing), "dtype", thing))) for name, thing in travelled}  # g: of an index
    assert {kind for _, kind in types} == {dtype}, sorted(t for t in types if t[1] != dtype)
    assert {str(p.grad.dtype) for p in parameters} == {dtype}
    SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01).step()
    assert {str(p.data.dtype) for p in parameters} == {dtype}


def test_the_gradient_of_a_part_is_added_without_harm_to_others():
    x = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    y = x * 1.0
    total = y + y[0]  # y receives the gradient of the sum itself, and that of a part of it
    total.retain_grad()
    total.sum().backward()
    np.testing.assert_array_equal(total.grad, np.ones((3, 2)))
    np.testing.assert_array_equal(x.grad, [[4.0, 4.0], [1.0, 1.0], [1.0, 1.0]])


def test_a_loop_over_rows_makes_one_array_of_zeros(monkeypatch):
    made, zeros = [], np.zeros
    monkeypatch.setattr(np, "zeros", lambda *arguments, **options: made.append(arguments) or zeros(*arguments, **options))
    x = Tensor(np.ones((50, 3)), requires_grad=True)
    total = x[0].sum()
    for row in x:
        total = total + (row * row).sum()
    made.clear()
    total.backward()
    assert len(made) == 1
    np.testing.assert_array_equal(x.grad, [[3.0] * 3] + [[2.0] * 3] * 49)


def test_setitem_is_recorded():
    x, value = leaf(3), leaf(2, seed=1)
    y = x * 2.0
    y[1:] = value * 3.0
    (y * Tensor(np.array([1.0, 10.0, 100.0]))).sum().backward()
    assert x.grad.tolist() == [2, 0, 0]
    np.testing.assert_allclose(value.grad, [30, 300])


@pytest.mark.parametrize("index", [(0, slice(None), [2, 0]), (slice(None), [1, 3, 0], 1), (1, ..., [1, 0])], ids=str)
def test_setitem_writes_where_getitem_reads(index):
    """Also where an integer stands beside an array, which NumPy alone would read in another order."""
    for x in (Tensor(np.zeros((3, 4, 3))), leaf(3, 4, 3) * 1.0):
        value = Tensor(np.arange(1.0, 1.0 + x[index].numel()).reshape(x[index].shape))
        x[index] = value
        assert x[index].tolist() == value.tolist()


def test_setitem_takes_values_with_axes_of_size_1_in_front():
    x, value = leaf(2, 3) * 1.0, leaf(1, 3)
    x[0] = value
    (x * 2.0).sum().backward()
    assert value.grad.tolist() == [[2.0] * 3]


def test_byte_sized_ids_pick_rows_of_a_large_table():
    table = Tensor(np.zeros((300, 2)), requires_grad=True)
    ids = np.resize(np.array([0, 255], np.uint8), 150)
    table[ids].sum().backward()
    assert table.grad[[0, 1, 255]].tolist() == [[75.0] * 2, [0.0] * 2, [75.0] * 2]


@pytest.mark.parametrize("index", [((0, 0, 1),), (slice(None), (0, 0)), (0, slice(None), (0, 1)), (Tensor(np.array(1)), [1, 2]),
                                   (np.array(0), slice(None), [2, 1]), (range(2), 1)], ids=str)
def test_indices_within_an_index_are_read_as_by_pytorch(index):
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[test]'")
    ours, theirs = leaf(3, 4, 3), None
    theirs = torch.tensor(ours.data, requires_grad=True)
    same = tuple(torch.tensor(i.data if isinstance(i, Tensor) else i) if isinstance(i, Tensor | np.ndarray)
                 else list(i) if isinstance(i, range) else i for i in index)
    mine, other = ours[index], theirs[same]
    np.testing.assert_array_equal(mine.data, other.detach())
    weight = np.arange(1.0, 1.0 + mine.numel()).reshape(mine.shape)
    (mine * weight).sum().backward()
    (other * torch.tensor(weight)).sum().backward()
    np.testing.assert_array_equal(ours.grad, theirs.grad)


def test_a_row_picked_by_a_tensor_without_axes_is_a_view():
    table = zeros(2, 3)
    table[Tensor(np.array(1))][2] = 5.0
    assert table.tolist() == [[0, 0, 0], [0, 0, 5]]


@pytest.mark.parametrize("change", [operator.iadd, operator.isub, operator.imul, operator.itruediv], ids=lambda f: f.__name__)
def test_a_leaf_is_changed_in_place_under_no_grad_alone(change):
    x = leaf(3)
    before, data = x.data.copy(), x.data
    with pytest.raises(RuntimeError, match=r"leaf that requires a gradient.*no_grad"):
        change(x, 2.0)
    np.testing.assert_array_equal(x.data, before)
    with no_grad():
        assert change(x, 2.0) is x
    assert x.data is data and x.requires_grad and x.is_leaf
    np.testing.assert_array_equal(data, change(before, 2.0))


def test_of_other_tensors_a_changed_one_is_a_new_one():
    x = leaf(3)
    y = kept = x * x
    y += 1.0
    assert y is not kept
    (y * kept).sum().backward()
    np.testing.assert_allclose(x.grad, 4 * x.data**3 + 2 * x.data)


def test_setitem_into_a_constant_starts_a_graph():
    x, y = leaf(2), zeros(3, dtype=np.float64)
    y[:2] = x
    (y * y).sum().backward()
    np.testing.assert_allclose(x.grad, 2 * x.data)


def test_setitem_that_fails_changes_nothing():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    recorded = leaf(2, 3) * 1.0
    for target in (x, recorded):
        before, node = target.data.copy(), target.grad_fn
        for index, value in ((5, 0.0), ((0, 0, 0), 0.0), (slice(None), Tensor(np.ones(4)))):
            with pytest.raises((IndexError, ValueError), match=r"setitem|index_put"):
                target[index] = value
        np.testing.assert_array_equal(target.data, before)
        assert target.grad_fn is node
