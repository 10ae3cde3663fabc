"""The scalar engine: every operation and random graphs against two oracles, order, accumulation, memory, messages."""

import ast
import gc
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import CHAPTER_FOLDERS, plots
from shared.scalar_autograd import Value, draw_graph, topological_order

NAN, INF = math.nan, math.inf

OPERATIONS = {  # formulas that accept Values as well as PyTorch's tensors, and points to try them at
    "a + b": (lambda a, b: a + b, [(2.0, 3.0), (-1.5, 0.25)]),
    "a + 3": (lambda a: a + 3, [(2.0,)]),
    "3 + a": (lambda a: 3 + a, [(2.0,)]),
    "a - b": (lambda a, b: a - b, [(2.0, 3.0), (-1.5, 0.25)]),
    "a - 3": (lambda a: a - 3, [(2.0,)]),
    "3 - a": (lambda a: 3 - a, [(2.0,)]),
    "-a": (lambda a: -a, [(2.0,), (-3.5,)]),
    "a * b": (lambda a, b: a * b, [(2.0, 3.0), (-1.5, 0.25)]),
    "a * 3": (lambda a: a * 3, [(2.0,)]),
    "3 * a": (lambda a: 3 * a, [(2.0,)]),
    "a * a": (lambda a: a * a, [(2.0,), (-3.5,)]),
    "a / b": (lambda a, b: a / b, [(2.0, 3.0), (-1.5, 0.25)]),
    "a / 3": (lambda a: a / 3, [(2.0,)]),
    "3 / a": (lambda a: 3 / a, [(2.0,), (-0.5,)]),
    "a / a": (lambda a: a / a, [(2.0,)]),
    "a ** 3": (lambda a: a**3, [(2.0,), (-1.5,)]),
    "a ** -2": (lambda a: a**-2, [(2.0,), (-1.5,)]),
    "a ** 0.5": (lambda a: a**0.5, [(2.0,)]),
    "a ** 0": (lambda a: a**0, [(2.0,), (-1.5,)]),
    "a ** b": (lambda a, b: a**b, [(2.0, 3.0), (0.5, -1.5)]),
    "a ** a": (lambda a: a**a, [(1.7,)]),
    "2 ** a": (lambda a: 2**a, [(3.0,), (-1.5,)]),
    "exp": (lambda a: a.exp(), [(2.0,), (-30.0,)]),
    "log": (lambda a: a.log(), [(2.0,), (0.03,)]),
    "tanh": (lambda a: a.tanh(), [(0.5,), (-2.0,), (0.0,)]),
    "sigmoid": (lambda a: a.sigmoid(), [(0.5,), (-2.0,), (0.0,)]),
    "relu": (lambda a: a.relu(), [(0.5,), (-2.0,)]),
}
EDGES = {  # where an operation saturates, overflows, or has a corner: numerical differences do not help, PyTorch decides
    "a ** 0": (lambda a: a**0, [(0.0,)]),
    "a ** 1": (lambda a: a**1, [(0.0,), (-0.0,)]),
    "a ** 2": (lambda a: a**2, [(0.0,), (1e200,), (INF,)]),
    "a ** 3": (lambda a: a**3, [(-1e200,)]),
    "a ** 0.5": (lambda a: a**0.5, [(0.0,)]),
    "a ** 400": (lambda a: a**400, [(10.0,)]),
    "a ** b": (lambda a, b: a**b, [(0.0, 0.0), (0.0, 2.0), (-2.0, 3.0)]),
    "exp": (lambda a: a.exp(), [(1000.0,), (-1000.0,), (INF,), (-INF,), (NAN,)]),
    "log": (lambda a: a.log(), [(INF,), (1e-300,), (NAN,)]),
    "tanh": (lambda a: a.tanh(), [(1e4,), (-1e4,), (INF,), (NAN,)]),
    "sigmoid": (lambda a: a.sigmoid(), [(1e4,), (-1e4,), (30.0,), (-30.0,), (NAN,)]),
    "relu": (lambda a: a.relu(), [(0.0,), (-INF,), (INF,), (NAN,)]),
    "a / b": (lambda a, b: a / b, [(1.0, 1e-200), (INF, 2.0)]),
    "a - a": (lambda a: a - a, [(INF,)]),
    "a * b": (lambda a, b: a * b, [(1e200, 1e200), (NAN, 2.0)]),
}


def points_of(table):
    """One test case for each formula and point."""
    return [pytest.param(f, point, id=f"{name} at {point}") for name, (f, points) in table.items() for point in points]


def ours(f, point):
    """Value and gradient of f by the engine."""
    leaves = [Value(number) for number in point]
    result = f(*leaves)
    result.backward()
    return result.data, [leaf.grad for leaf in leaves]


def theirs(f, point):
    """Value and gradient of f by PyTorch."""
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    leaves = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in point]
    result = f(*leaves)
    result.backward()
    return result.item(), [leaf.grad.item() for leaf in leaves]


def differences(f, point, h=1e-6):
    """The gradient of f by two-sided differences."""
    slopes = []
    for i, number in enumerate(point):
        sides = [f(*map(Value, (*point[:i], number + step, *point[i + 1 :]))).data for step in (h, -h)]
        slopes.append((sides[0] - sides[1]) / (2 * h))
    return slopes


@pytest.mark.parametrize(("f", "point"), points_of(OPERATIONS))
def test_operation_against_differences(f, point):
    np.testing.assert_allclose(ours(f, point)[1], differences(f, point), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("f", "point"), points_of(OPERATIONS) + points_of(EDGES))
def test_operation_against_pytorch(f, point):
    (value, gradient), (their_value, their_gradient) = ours(f, point), theirs(f, point)
    np.testing.assert_allclose(value, their_value, rtol=1e-14)
    # the absolute part is for the sigmoid: PyTorch's s * (1 - s) loses digits where s is nearly 1, ours does not
    np.testing.assert_allclose(gradient, their_gradient, rtol=1e-13, atol=1e-15)


def test_every_public_operation_is_tested_above():
    """A new method of Value must come with a formula in OPERATIONS."""
    covered = set().union(*(tried_operations(f, points[0]) for f, points in OPERATIONS.values()))
    methods = {name for name, member in vars(Value).items() if callable(member)}
    plumbing = {"__init__", "__float__", "__repr__", "backward"}
    assert methods - plumbing == covered


def tried_operations(f, point):
    """The names of the methods of Value that f calls, found by calling it on a Value that takes notes."""
    called = set()

    class Spy:
        def __getattr__(self, name):
            return lambda *arguments: called.add(name)

    for name in [name for name, member in vars(Value).items() if callable(member)]:
        if name.startswith("__") and name not in {"__init__", "__repr__", "__float__"}:
            setattr(Spy, name, lambda self, *arguments, name=name: called.add(name))
    f(*[Spy() for _ in point])
    return called


# --- micrograd's published tests, in our words: the same expressions, once on Value and once on PyTorch ----------------


def sanity_check(x):
    """Sums, products and relu of one number that is used again and again."""
    z = 2 * x + 2 + x
    q = z.relu() + z * x
    h = (z * z).relu()
    return h + q + q * x


def more_operations(a, b):
    """The operators with numbers on either side, and names that are rebound."""
    c = a + b
    d = a * b + b**3
    c = c + (c + 1)
    c = c + (1 + c + (-a))
    d = d + (d * 2 + (b + a).relu())
    d = d + (3 * d + (b - a).relu())
    f = (c - d) ** 2
    return f / 2.0 + 10.0 / f


@pytest.mark.parametrize(("f", "point"), [(sanity_check, (-4.0,)), (more_operations, (-4.0, 2.0))])
def test_expressions_of_micrograds_tests(f, point):
    (value, gradient), (their_value, their_gradient) = ours(f, point), theirs(f, point)
    assert value == pytest.approx(their_value, rel=1e-14)
    assert gradient == pytest.approx(their_gradient, rel=1e-14)


@pytest.mark.parametrize(("f", "point"), [(sanity_check, (-4.0,)), (more_operations, (-4.0, 2.0))])
def test_micrograd_itself_agrees(f, point):
    engine = pytest.importorskip("micrograd.engine", reason="another oracle")
    leaves = [engine.Value(number) for number in point]
    result = f(*leaves)
    result.backward()
    value, gradient = ours(f, point)
    assert value == pytest.approx(result.data, rel=1e-12)
    assert gradient == pytest.approx([leaf.grad for leaf in leaves], rel=1e-9)


def test_augmented_assignment_makes_a_new_value():
    a = Value(2.0)
    b = a
    b += 1
    b *= a
    b -= 4
    b /= a
    b **= 2
    assert a.data == 2.0
    b.backward()
    assert (b.data, a.grad) == (1.0, pytest.approx(2 * 1.0 * (1 + 4 / 4)))


# --- Random graphs ----------------------------------------------------------------------------------------------------

STEPS = [
    lambda u, v: u + v,
    lambda u, v: u - v,
    lambda u, v: u * v,
    lambda u, v: u / (v * v + 1),
    lambda u, v: (u * u + 0.5) ** v.tanh(),
    lambda u, v: -u,
    lambda u, v: u**3,
    lambda u, v: 1.5 - u,
    lambda u, v: 2 / (u**2 + 1),
    lambda u, v: u.tanh().exp(),
    lambda u, v: (u * u + 0.1).log(),
    lambda u, v: u.sigmoid(),
    lambda u, v: u.relu(),
]
RECIPES = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=25
)
NUMBERS = st.lists(st.floats(-2, 2).map(lambda x: round(x, 3)), min_size=3, max_size=3)


def follow(recipe, leaves):
    """Run the steps of a recipe, each on two results drawn from all before it; large numbers are squashed."""
    pool = list(leaves)
    for step, i, j in recipe:
        result = STEPS[step](pool[i % len(pool)], pool[j % len(pool)])
        pool.append(result.tanh() if abs(float(result.data)) > 100 else result)
    return sum(pool)


@settings(max_examples=200, deadline=None)
@given(recipe=RECIPES, numbers=NUMBERS)
def test_random_graphs_against_pytorch(recipe, numbers):
    (value, gradient), (their_value, their_gradient) = (way(lambda *leaves: follow(recipe, leaves), numbers)
                                                        for way in (ours, theirs))
    np.testing.assert_allclose(value, their_value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(gradient, their_gradient, rtol=1e-8, atol=1e-8 * max(1, np.abs(their_gradient).max()))


@settings(max_examples=100, deadline=None)
@given(recipe=RECIPES, numbers=NUMBERS)
def test_random_graphs_are_listed_parents_first(recipe, numbers):
    root = follow(recipe, [Value(number) for number in numbers])
    order = topological_order(root, lambda node: node.parents)
    place = {node: i for i, node in enumerate(order)}
    assert len(place) == len(order), "a node is listed twice"
    assert order[-1] is root
    assert all(place[parent] < place[node] for node in order for parent in node.parents)


# --- Order ------------------------------------------------------------------------------------------------------------


def test_order_knows_nothing_of_values():
    parents = {"e": ["c", "d"], "d": ["b"], "c": ["b", "a"], "b": ["a"], "a": []}
    order = topological_order("e", parents.__getitem__)
    assert sorted(order) == list("abcde")
    assert all(order.index(parent) < order.index(node) for node in parents for parent in parents[node])
    assert topological_order("a", parents.__getitem__) == ["a"]
    assert topological_order(0, {0: (), 1: (0,)}.get) == [0], "a node that counts as false"


def test_order_looks_at_each_node_once():
    """Linear time, counted instead of measured: 60 diamonds on top of each other have 2**60 paths."""
    node = Value(1.0)
    for _ in range(60):
        node = node + node
    looks = []
    order = topological_order(node, lambda node: looks.append(node) or node.parents)
    assert len(order) == len(looks) == 61


def test_order_depends_on_the_graph_alone():
    """The same graph at other addresses: the same order, and gradients that agree to the last bit."""

    def build(seed):
        chance, junk = random.Random(seed), []
        leaves = [Value(0.1 * i) for i in range(1, 8)]
        pool = list(leaves)
        choose = random.Random(0)
        for _ in range(200):
            junk.append([Value(0.0) for _ in range(chance.randrange(20))])  # moves the next Value to another address
            if len(junk) % 3 == 0:
                junk.clear()
            a, b = choose.choice(pool), choose.choice(pool)
            pool.append((a * b + 0.3).tanh())
        root = sum(pool)
        root.backward()
        order = [node.data for node in topological_order(root, lambda node: node.parents)]
        return order, [leaf.grad for leaf in leaves]

    first = build(1)
    assert all(build(seed) == first for seed in range(2, 8))


def test_diamonds_are_exact():
    leaf = node = Value(1.0)
    for _ in range(60):
        node = node + node
    node.backward()
    assert leaf.grad == node.data == 2.0**60


def test_paths_of_different_lengths():
    """What a level-by-level order gets wrong."""
    z = Value(5.0)
    a = 2 * z
    (a + 4 * (a * a)).backward()
    assert z.grad == 2 + 32 * 5.0


# --- Accumulation -----------------------------------------------------------------------------------------------------


def test_leaves_add_up_over_calls_and_inner_nodes_start_afresh():
    a = Value(3.0)
    b = a * a
    c = b * 2
    for calls in (1, 2, 3):
        c.backward()
        assert (a.grad, b.grad, c.grad) == (12.0 * calls, 2.0, 1.0)


def test_two_roots_share_a_part():
    a = Value(3.0)
    shared = a * a
    (shared * 2).backward()
    (shared + a).backward()
    assert a.grad == 12.0 + 7.0
    assert shared.grad == 1.0


def test_root_that_is_a_leaf():
    a = Value(3.0)
    a.backward()
    a.backward()
    assert a.grad == 2.0


def test_gradient_none_counts_as_zero():
    a, b = Value(3.0), Value(4.0)
    a.grad = None
    assert repr(a) == "Value(data=3, grad=None)"
    (a * b).backward()
    assert (a.grad, b.grad) == (4.0, 3.0)
    a.grad = None
    a.backward()
    assert a.grad == 1.0


def test_values_outside_the_graph_are_not_touched():
    a, b = Value(3.0), Value(4.0)
    b.grad = 7.0
    unused = a * b
    (a * a).backward()
    assert (b.grad, unused.grad) == (7.0, 0.0)


def test_changing_data_later_does_not_change_the_gradient():
    a, b = Value(3.0), Value(4.0)
    c = a * b
    a.data = 100.0
    c.backward()
    assert b.grad == 3.0


def test_operation_with_three_parents():
    """A learner's own operation may have any number of parents."""
    leaves = [Value(number) for number in (1.0, 2.0, 3.0)]
    total = Value(14.0, tuple(leaves), (2.0, 4.0, 6.0), "sum of squares")
    (total * 0.5).backward()
    assert [leaf.grad for leaf in leaves] == [1.0, 2.0, 3.0]


# --- Depth and memory -------------------------------------------------------------------------------------------------


def alive():
    """How many Values there are."""
    return sum(type(thing) is Value for thing in gc.get_objects())


@pytest.fixture
def without_collector():
    """Runs a test with the garbage collector off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("backward", [True, False])
def test_long_chain_forward_backward_and_freed(backward):
    before = alive()
    start = node = Value(1.0)
    for _ in range(50_000):
        node = (node * 1.0).tanh() * 0.0 + start  # 200,000 operations deep, with a short path at each level
    if backward:
        node.backward()
        assert start.grad == 1.0
    assert alive() - before == 300_001
    del node
    assert alive() - before == 1


def test_long_chain_is_freed_on_a_small_stack():
    """Freeing must not nest as deep as the chain: a thread with a stack of 256 kB does it.

    (Python 3.13.0 needs more than 512 kB, but no more for 200,000 operations than for 20,000.)
    """
    program = f"""
import threading
from shared.scalar_autograd import Value

def work():
    for unary in (True, False):
        node = Value(0.5)
        for _ in range(200_000):
            node = node.tanh() if unary else node + 1.0
        node.backward()
        del node
    print("freed")

threading.stack_size({256 if sys.version_info < (3, 13) else 1024} * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    root = Path(plots.__file__).resolve().parent.parent
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert result.stdout == "freed\n", result.stderr


@pytest.mark.usefixtures("without_collector")
def test_training_steps_leave_nothing_behind():
    gc.collect()  # what others have left
    w, counts = Value(0.5), []
    for _ in range(1000):
        w.grad = 0.0
        loss = sum((w * x - 2 * x) ** 2 + (w * x).sigmoid().log() - (w * x).exp() / 9 for x in (1.0, 2.0, 3.0))
        loss.backward()
        w.data -= 0.001 * w.grad
        counts.append(alive() if len(counts) in (9, 999) else None)
    assert counts[9] == counts[999]
    del loss
    assert gc.collect() == 0, "something was left for the collector"


# --- Numbers of all kinds, and bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [2, True, np.float64(2), np.float32(2), np.int64(2), np.uint8(2), np.bool_(True)], ids=lambda x: type(x).__name__
)
def test_numbers_of_python_and_numpy(number):
    expected = float(number)
    assert type(Value(number).data) is float and Value(number).data == expected
    for operate in (
        lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a**b
    ):
        for left, right in ((Value(3.0), number), (number, Value(3.0))):
            result = operate(left, right)
            assert type(result) is Value and type(result.data) is float
            assert result.data == operate(float(left), float(right))


def test_values_in_numpy_arrays():
    weights = np.array([Value(3.0), Value(4.0)])
    result = (np.array([[1.0, 2.0]]) @ weights)[0]
    result.backward()
    assert result.data == 11.0
    assert [w.grad for w in weights] == [1.0, 2.0]
    assert np.array(list(weights), dtype=float).tolist() == [3.0, 4.0]


def test_value_is_a_number_with_an_identity():
    a = Value(1.5)
    assert float(a) == 1.5
    assert repr(a) == "Value(data=1.5, grad=0)"
    assert a == a and a != Value(1.5) and len({a, Value(1.5)}) == 2
    with pytest.raises(TypeError, match="'<' not supported"):
        _ = a < 2
    with pytest.raises(AttributeError):
        a.gradient = 1.0


@pytest.mark.parametrize("bad", ["3", None, 1j, [1.0], np.ones(2), np.array(3.0), object()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    ("name", "operate"),
    [
        ("Value", lambda bad: Value(bad)),
        ("+", lambda bad: Value(1) + bad),
        ("+", lambda bad: bad + Value(1)),
        ("-", lambda bad: Value(1) - bad),
        ("-", lambda bad: bad - Value(1)),
        ("*", lambda bad: Value(1) * bad),
        ("*", lambda bad: bad * Value(1)),
        ("/", lambda bad: Value(1) / bad),
        ("/", lambda bad: bad / Value(1)),
        ("**", lambda bad: Value(1) ** bad),
        ("**", lambda bad: bad ** Value(1)),
    ],
)
def test_what_is_no_number_is_refused(name, operate, bad):
    with pytest.raises(TypeError) as caught:
        operate(bad)
    assert str(caught.value).startswith(f"{name}: expected a real number, got ")
    assert str(caught.value).endswith(f"of type {type(bad).__name__}")


def test_a_value_of_a_value_is_refused():
    with pytest.raises(TypeError, match=r"Value: expected a real number, got Value\(data=1, grad=0\) of type Value"):
        Value(Value(1.0))


@pytest.mark.parametrize(
    ("operate", "error", "message"),
    [
        (lambda: Value(-1.5).log(), ValueError, r"log: expected a positive number, got -1\.5"),
        (lambda: Value(0).log(), ValueError, r"log: expected a positive number, got 0"),
        (lambda: Value(-8) ** (1 / 3), ValueError, r"\*\*: -8 \*\* 0\.333333 is not real"),
        (lambda: Value(-8) ** Value(0.5), ValueError, r"\*\*: -8 \*\* 0\.5 is not real"),
        (lambda: (-8) ** Value(0.5), ValueError, r"\*\*: -8 \*\* 0\.5 is not real"),
        (lambda: Value(10**400), ValueError, r"Value: an integer of 1329 bits is too large"),
        (lambda: Value(1) * 10**400, ValueError, r"\*: an integer of 1329 bits is too large"),
        (lambda: Value(1) / 0, ZeroDivisionError, "division by zero"),
        (lambda: 1 / Value(0), ZeroDivisionError, "division by zero"),
        (lambda: Value(0) ** -1, ZeroDivisionError, "negative power"),
    ],
)
def test_outside_its_domain_an_operation_says_so(operate, error, message):
    with pytest.raises(error, match=message):
        operate()


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_nan_and_infinities_are_data(number):
    a = Value(number)
    np.testing.assert_equal(a.data, number)
    (a + 1).backward()
    assert a.grad == 1.0


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shut_figures():
    """Closes the figures that a test has opened."""
    plt = pytest.importorskip("matplotlib.pyplot", reason="draws")
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def words(ax):
    """All texts in a picture, with proper minus signs turned into plain ones."""
    return sorted(text.get_text().replace("\u2212", "-") for text in ax.texts)


@pytest.mark.usefixtures("shut_figures")
def test_graph_shows_data_and_gradient_of_every_node():
    w, x, b = Value(2.0), Value(3.0), Value(1.0)
    loss = (w * x + b - 10) ** 2
    loss.backward()
    ax = draw_graph(loss, w=w, x=x, b=b, loss=loss)
    gradients = ["grad -18", "grad -12", *4 * ["grad -6"], "grad 6", "grad 1"]
    data = ["w = 2", "x = 3", "6", "b = 1", "7", "10", "-3", "loss = 9"]
    assert words(ax) == sorted([*gradients, *data, "×", "+", "-", "^2"])


@pytest.mark.usefixtures("shut_figures")
def test_graph_fills_in_step_by_step_and_leaves_gradients_alone():
    a = Value(3.0)
    root = (a * a) * 2 + a
    a.grad = 99.0
    seen = [[word for word in words(draw_graph(root, step=step)) if word.startswith("grad")] for step in range(4)]
    assert seen == [
        ["grad 1"],
        ["grad 1", "grad 1", "grad 1"],
        ["grad 1", "grad 1", "grad 1", "grad 2", "grad 9"],
        ["grad 1", "grad 1", "grad 13", "grad 2", "grad 9"],
    ]
    assert (a.grad, root.grad) == (99.0, 0.0)


@pytest.mark.usefixtures("shut_figures")
def test_graph_goes_into_the_axes_it_is_given():
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2)
    assert draw_graph(Value(1.0) * 2, axes[1]) is axes[1]
    assert axes[1].texts and not axes[0].texts


@settings(max_examples=60, deadline=None)
@given(recipe=RECIPES, numbers=NUMBERS)
def test_layout_keeps_nodes_apart_and_arrows_forward(recipe, numbers):
    order = topological_order(follow(recipe, [Value(number) for number in numbers]), lambda node: node.parents)
    place = {node: i for i, node in enumerate(order)}
    edges = [(place[parent], place[node]) for node in order for parent in node.parents]
    places, routes = plots.layered_layout(len(order), edges)
    gaps = np.abs(places[:, None] - places[None]) + 2 * np.eye(len(order))[..., None]
    assert np.all((gaps[..., 0] > 0.5) | (gaps[..., 1] > 0.999)), "two nodes overlap"
    assert all(np.allclose(np.diff([x for x, _ in route]), 1) for route in routes), "an arrow leaps or turns back"


def test_spread_stays_as_near_to_the_wishes_as_it_can():
    assert plots.spread(np.array([0.0, 0.0, 5.0]), [1, 1, 1]).tolist() == [-0.5, 0.5, 5.0]
    assert plots.spread(np.array([1.0, 1.2, 1.4]), [1, 1, 1]) == pytest.approx([0.2, 1.2, 2.2])
    assert plots.spread(np.array([0.0, 0.0]), [1.0, 0.5]) == pytest.approx([-0.375, 0.375])


def test_the_engine_does_not_load_matplotlib():
    program = "import sys; from shared.scalar_autograd import Value; Value(1).backward(); print('matplotlib' in sys.modules)"
    root = Path(plots.__file__).resolve().parent.parent
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert result.stdout == "False\n", result.stderr


# --- The notebook -----------------------------------------------------------------------------------------------------


def test_the_stored_numbers_are_pytorchs():
    """The chapter compares itself with PyTorch's numbers without needing PyTorch: here they are computed anew."""
    path = next(folder for folder in CHAPTER_FOLDERS if folder.name.startswith("02_")) / "scalar_autograd.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if cell.get("id") == "torch-numbers")
    formula, *constants = ast.parse(source).body
    stored = {node.targets[0].id: ast.literal_eval(node.value) for node in constants}
    space = {}
    exec(compile(ast.Module([formula], []), "torch-numbers", "exec"), space)
    value, gradient = theirs(space["formula"], stored["POINT"])
    assert stored["PYTORCH"]["value"] == pytest.approx(value, abs=1e-12)
    assert stored["PYTORCH"]["gradient"] == pytest.approx(gradient, abs=1e-12)
