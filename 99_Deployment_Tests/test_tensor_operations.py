"""Every operation of the engine has cases here: its gradients are held against difference quotients, in float64.

The difference quotient of this file is written apart from the engine's `gradcheck`, and is used to test that as well.
"""

import inspect
from functools import partial

import numpy as np
import pytest

from shared import tensor as engine
from shared.tensor import OPERATIONS, Tensor, gradcheck

NAMES = sorted(name for name, operation in OPERATIONS.items() if operation.__module__ == "shared.tensor")


class Positive(tuple):
    """A shape whose numbers are to be drawn above zero."""


PAIRS = [  # equal, missing, size-1, both stretched, without axes, size-0, one number, a Python number on either side
    ((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 1), (1, 4)), ((2, 1, 3), (4, 1)), ((1, 1, 1), (2, 3)), ((), (3,)),
    ((2, 3), ()), ((), ()), ((0, 3), (1, 3)), ((3, 1), (3, 0)), ((1,), (1,)), ((2, 3), 1.7), (-0.6, (2, 3)),
]  # fmt: skip
SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 2), (0,), (2, 0)]
REDUCTIONS = [
    ((), {}), ((4,), {}), ((3, 4), {"dim": 0}), ((3, 4), {"dim": -1, "keepdim": True}), ((2, 3, 4), {"dim": (0, 2)}),
    ((2, 3, 4), {"dim": (-1, 0), "keepdim": True}), ((2, 3), {"dim": None, "keepdim": True}), ((3, 1), {"dim": 1}),
]  # fmt: skip
ROWS = [((4,), {"dim": 0}), ((3, 4), {"dim": 0}), ((3, 4), {"dim": -1}), ((2, 3, 2), {"dim": 1}), ((3, 1), {"dim": 1})]
PRODUCTS = [
    ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((3,), (2, 3, 4)), ((2, 4, 3), (3,)),
    ((2, 4, 3), (3, 5)), ((4, 3), (2, 3, 5)), ((2, 4, 3), (2, 3, 5)), ((2, 1, 4, 3), (5, 3, 2)), ((1, 2, 3), (4, 3, 2)),
    ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 2, 3, 4), (4, 2)), ((2, 3, 2, 4), (4,)), ((4,), (2, 3, 4, 2)),
]  # fmt: skip
MASK = np.array([[True, False, True, False], [False, False, True, True], [True, True, False, False]])


def alone(*shapes, **options):
    """Cases of an operation of one input."""
    return [((shape,), options) for shape in shapes]


def together(pairs, **options):
    """Cases of an operation of several inputs."""
    return [(pair, options) for pair in pairs]


def with_options(rows):
    """Cases of an operation of one input from pairs (shape, options)."""
    return [((shape,), options) for shape, options in rows]


CASES = {  # name: [(inputs, options), ...]; an input is a shape to be drawn, or a constant
    **{name: together(PAIRS) for name in ("add", "sub", "mul", "maximum", "minimum")},
    **{name: alone(*SHAPES) for name in ("neg", "exp", "abs", "sin", "cos", "tanh", "sigmoid", "relu", "clone")},
    **{name: alone(*map(Positive, SHAPES)) for name in ("log", "sqrt")},
    **{name: with_options(REDUCTIONS) for name in ("mean", "amax", "amin")},
    "logsumexp": with_options([(shape, options) for shape, options in REDUCTIONS if "dim" in options]),
    **{name: with_options(ROWS) for name in ("softmax", "log_softmax")},
    "sum": with_options([*REDUCTIONS, ((0, 3), {"dim": 0}), ((2, 3), {"dim": 1, "dtype": np.float64}), ((2, 3), {"dim": ()})]),
    "cumsum": with_options([*ROWS, ((0, 2), {"dim": 0})]),
    "var": with_options(
        [
            *[(s, o) for s, o in REDUCTIONS if s not in [(), (3, 1)]],
            ((5,), {"dim": 0, "correction": 0}),
            ((2, 4), {"dim": 1, "unbiased": False}),
            ((4, 3), {"dim": 0, "correction": 2}),
        ]
    ),
    "div": together([(a, Positive(b) if isinstance(b, tuple) else b) for a, b in PAIRS]),
    "remainder": together([(a, Positive(b) if isinstance(b, tuple) else b) for a, b in PAIRS]),
    "pow": together([(Positive(a) if isinstance(a, tuple) else 0.6, b) for a, b in PAIRS])
    + [(((3, 2), exponent), {}) for exponent in (0, 1, 2, 3, -1, -2, 5)]
    + [((Positive((4,)), 0.5), {}), (((4,), np.array([2.0, 3.0, 0.0, -1.0])), {}), ((2.0, (3,)), {})],
    "matmul": together(PRODUCTS),
    "clamp": alone((3, 4), min=-0.5) + alone((3, 4), max=0.7) + alone((5,), (), (0,), min=-0.5, max=0.7),
    "where": [
        ((MASK, (3, 4), (3, 4)), {}), ((MASK, (4,), (3, 1)), {}), ((MASK[:, :1], (), (4,)), {}), ((MASK[0], (3, 4), 2.5), {}),
        ((MASK, -1.5, (3, 4)), {}), ((MASK, (2, 1, 4), (3, 1)), {}), ((np.array(True), (2,), (2,)), {}),
    ],
    "masked_fill": [(((3, 4), mask), {"value": 2.0}) for mask in (MASK, MASK[0], MASK[:, :1])],
    "gather": [
        (((3, 4), np.array([[0, 0, 3], [1, 2, 1]])), {"dim": 1}), (((3, 4), np.array([[2, 0, 0, 2]])), {"dim": 0}),
        (((2, 3, 2), np.array([[[1], [0]], [[2], [2]]])), {"dim": -2}), (((4,), np.array([3, 3, 3])), {"dim": 0}),
    ],
    "reshape": alone((3, 4), (2, 6), shape=(4, 3)) + alone((3, 4), (2, 3, 2), shape=(-1, 2)) + alone((1,), (), shape=())
    + alone((0, 3), shape=(3, 0)),
    "permute": alone((2, 3, 4), dims=(2, 0, 1)) + alone((2, 3, 4), dims=(-1, 0, -2)) + alone((3,),
        dims=(0,)) + alone((), dims=()),
    "transpose": alone((2, 3), (4, 1), dim0=0, dim1=1) + alone((2, 3, 4), dim0=-1, dim1=0) + alone((2, 3), dim0=1, dim1=1),
    "expand": alone((3, 1), (1, 1), (1,), (), (4,), shape=(3, 4)) + alone((1, 3), shape=(2, 5, -1)) + alone((1, 2), shape=(0, 2)),
    "squeeze": alone((1, 3, 1), (3,), (1,), ()) + alone((1, 3, 1), (3, 1), dim=-1) + alone((1, 3, 1, 2), dim=(0, 1, 2)),
    "unsqueeze": alone((2, 3), (3,), dim=0) + alone((2, 3), (), dim=-1),
    "flip": alone((3, 4), (2, 3, 2), dims=(0,)) + alone((3, 4), dims=(-1, 0)) + alone((2, 3), dims=()),
    "getitem": [
        (((3, 4),), {"index": index}) for index in (
            0, -1, slice(1, None), slice(None, None, 2), (1, 2), (slice(None), 1), (Ellipsis, -1), None, (0, None, slice(1, 3)),
            np.array([0, 2, 0, 0]), np.array([[0, 1], [-1, 2]]), np.array([], dtype=int), MASK, np.array([True, False, True]),
            (np.array([0, 0, 1]), np.array([1, 1, -2])), (slice(None), np.array([3, 3, 0])), (np.array([1, 1]), slice(0, 2)),
            (1, np.array([0, 0, 3])), (np.array([[0], [2]]), np.array([1, 1])), (slice(None), MASK[0]), (),
        )
    ] + [(((3, 4, 2),), {"index": index}) for index in (
        (0, slice(None), np.array([1, 1, 0])), (np.array([2, 2]), slice(None), np.array([0, 0])),
        (slice(None), 1, np.array([0, 0])),
        (Ellipsis, np.array([0, 0])), np.resize(np.array([0, 2, 2, -3]), 150), (slice(None), None, np.array([3, 3])),
    )],
    "index_put": [
        (((3, 4), value), {"index": index}) for index, value in (
            (0, (4,)), (1, ()), (slice(0, 2), (2, 4)), (slice(0, 2), (1, 4)), ((slice(None), 1), (3,)),
            (np.array([2, 0]), (2, 4)),
            (MASK, ()), (MASK, (6,)), ((1, 2), 5.0), ((1, np.array([0, 3])), (2,)),
        )
    ] + [(((3, 4, 2), value), {"index": index}) for index, value in (
        ((0, slice(None), np.array([1, 0])), (4, 2)), ((slice(None), np.array([3, 1, 0]), 1), (3, 3)),
        ((np.array([2, 0]), slice(None), np.array([1, 1])), ()), ((1, Ellipsis, np.array([1])), (4, 1)),
        ((0, MASK[0], np.array([0])), ()),
    )],
    "cat": [
        (((2, 3), (2, 3)), {"dim": 0}), (((2, 3), (2, 1), (2, 4)), {"dim": -1}), (((3,),), {}), (((0, 2), (3, 2)), {}),
        (((2, 1, 3), (2, 2, 3)), {"dim": 1}),
    ],
    "stack": [(((2, 3), (2, 3)), {}), (((3,), (3,), (3,)), {"dim": -1}), (((), ()), {"dim": 0}), (((2, 3),), {"dim": 1})],
    "pad": alone((3, 4), pad=(1, 2), value=3.0) + alone((3, 4), pad=(0, 1, 2, 0)) + alone((3, 4), pad=(-1, 2, 1, -1))
    + alone((2, 3), (), pad=()) + alone((4,), pad=(1, 0), mode="constant"),
    **{name: alone((3, 4), (4, 3)) + alone((2, 3, 3), diagonal=1) + alone((3, 3), diagonal=-1) for name in ("tril", "triu")},
    "einsum": [
        (shapes, {"equation": equation}) for equation, *shapes in (
            ("ij,jk->ik", (2, 3), (3, 4)), ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)),
            ("i,j->ij", (2,), (3,)),
            ("bij,bjk->bik", (2, 3, 2), (2, 2, 4)), ("...ij,jk", (2, 2, 3), (3, 2)), ("i,i,i->", (3,), (3,), (3,)),
            ("ij,ij->i", (3, 4), (3, 4)), ("ij,kj", (2, 3), (4, 3)), ("i,ij->j", (1,), (3, 4)), ("iij->j", (3, 3, 2)),
            ("ij,k->k", (2, 3), (2,)),
            ("bhqd,bhkd->bhqk", (2, 1, 3, 2), (2, 1, 4, 2)), ("...,...->...", (3, 2), (2,)), ("ij->ij", (2, 0)),
            (",i->i", (), (3,)),
        )
    ],
    "to": alone((3, 4), (), dtype=np.dtype("float64")),
}  # fmt: skip
CASES["std"] = CASES["var"]


def inputs_of(specification, seed=0):
    """The inputs of a case in float64: distinct numbers from -2 to 2, none of them 0, so that no kink is near."""
    rng, inputs = np.random.default_rng(seed), []
    for i, given in enumerate(specification):
        if isinstance(given, tuple):
            n = int(np.prod(given))
            numbers = rng.permutation((np.arange(n) + 0.31 + 0.17 * i) / max(n, 1) * 4 - 2).reshape(given)
            given = np.asarray(np.abs(numbers) + 0.3 + 0.01 * i) if isinstance(given, Positive) else numbers
        inputs.append(given)
    return inputs


def drawn(specification):
    """The places of the inputs that were drawn, the ones that gradients are asked of."""
    return [i for i, given in enumerate(specification) if isinstance(given, tuple)]


def difference_quotient(function, arrays, place, upstream, step=1e-6):
    """The slope of sum(upstream * function(*arrays)) by each element of one array, from a plain loop over copies."""
    slopes = []
    for k in range(arrays[place].size):
        sums = []
        for sign in (1, -1):
            moved = [np.array(a) if i == place else a for i, a in enumerate(arrays)]
            moved[place].reshape(-1)[k] += sign * step
            sums.append(float((function(*moved) * upstream).sum()))
        slopes.append((sums[0] - sums[1]) / (2 * step))
    return np.reshape(slopes, arrays[place].shape)


def gradients(operation, arrays, places, upstream=None):
    """The result of an operation, and the gradients of the inputs at `places`."""
    tensors = [Tensor(a, requires_grad=i in places) if isinstance(a, np.ndarray) else a for i, a in enumerate(arrays)]
    result = operation(*tensors)
    result.backward(np.ones(result.shape) if upstream is None else upstream)
    return result, [tensors[i].grad for i in places]


def cases(name):
    """An operation's cases: (function of the inputs, inputs, places of those that want a gradient)."""
    assert name in CASES, f"the operation {name!r} stands in the registry but has no cases in this file"
    for number, (specification, options) in enumerate(CASES[name]):
        yield partial(OPERATIONS[name], **options), inputs_of(specification, number), drawn(specification)


def test_every_case_belongs_to_an_operation():
    assert set(CASES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_cases_use_every_option(name):
    inputs = max(len(inputs_of(specification, 0)) for specification, _ in CASES[name])
    parameters = enumerate(inspect.signature(OPERATIONS[name]).parameters.values())
    options = {p.name for i, p in parameters if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and i >= inputs)}
    used = {option for _, given in CASES[name] for option in given}
    assert options == used, f"{name}: no case sets {sorted(options - used)}"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_difference_quotients(name):
    for function, arrays, places in cases(name):
        upstream = np.random.default_rng(7).normal(size=function(*map(lift, arrays)).shape)
        _, found = gradients(function, arrays, places, upstream)
        plain = lambda *moved, function=function: function(*map(lift, moved)).data
        for place, gradient in zip(places, found, strict=True):
            expected = difference_quotient(plain, arrays, place, upstream)
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7, err_msg=f"{name}, input {place}")


def lift(x):
    """An array as a tensor; numbers stay numbers."""
    return Tensor(x) if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_accepts_every_operation(name):
    for function, arrays, places in cases(name):
        assert gradcheck(function, tuple(Tensor(a, i in places) if i in places else a for i, a in enumerate(arrays)))


@pytest.mark.parametrize("name", NAMES)
def test_each_input_alone_gets_the_gradient_it_gets_in_company(name):
    for function, arrays, places in cases(name):
        upstream = np.random.default_rng(8).normal(size=function(*map(lift, arrays)).shape)
        _, company = gradients(function, arrays, places, upstream)
        for place, expected in zip(places, company, strict=True):
            result, (gradient,) = gradients(function, arrays, [place], upstream)
            np.testing.assert_array_equal(gradient, expected)
        constant = function(*map(lift, arrays))
        assert not constant.requires_grad and constant.grad_fn is None
        np.testing.assert_array_equal(constant.data, result.data)


@pytest.mark.parametrize("name", NAMES)
def test_only_inputs_that_want_a_gradient_are_parents(name):
    for function, arrays, places in cases(name):
        for place in places:
            tensors = [Tensor(a, i == place) if isinstance(a, np.ndarray) else a for i, a in enumerate(arrays)]
            node = function(*tensors).grad_fn
            assert len(node.parents) == 1
            assert not isinstance(node.vjp, tuple) or len(node.vjp) == 1


@pytest.mark.parametrize("name", NAMES)
def test_layout_in_memory_changes_nothing(name):
    def scattered(a, turned):
        """The same numbers as a view of a transposed array, or of every second element from the end."""
        if turned:
            return np.asfortranarray(a) if a.ndim else a
        wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
        view = wide[tuple(slice(None, None, -2) for _ in a.shape)] if a.ndim else wide
        view[...] = a
        return view

    for function, arrays, places in cases(name):
        upstream = np.random.default_rng(9).normal(size=function(*map(lift, arrays)).shape)
        value, expected = gradients(function, arrays, places, upstream)
        for turned in (True, False):
            strange = [scattered(a, turned) if isinstance(a, np.ndarray) else a for a in arrays]
            tensors = [Tensor(a, i in places, copy=False) if isinstance(a, np.ndarray) else a for i, a in enumerate(strange)]
            result = function(*tensors)
            result.backward(scattered(upstream, turned))
            np.testing.assert_allclose(result.data, value.data, rtol=1e-12, atol=1e-14)
            for place, gradient in zip(places, expected, strict=True):
                np.testing.assert_allclose(tensors[place].grad, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "to"])
def test_float32_stays_float32_and_agrees_with_float64(name):
    for function, arrays, places in cases(name):
        if "dtype" in function.keywords:
            continue
        narrow = [a.astype("f4") if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in arrays]
        wide = [a.astype("f8") if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in narrow]
        if name == "remainder":
            wide = arrays  # rounding must not decide on which side of a jump a number lies
        result, found = gradients(function, narrow, places)
        value, expected = gradients(function, wide, places)
        assert result.dtype == np.float32, (name, result.dtype)
        np.testing.assert_allclose(result.data, value.data, rtol=2e-5, atol=2e-6)
        for gradient, other in zip(found, expected, strict=True):
            assert gradient.dtype == np.float32
            np.testing.assert_allclose(gradient, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_given_is_changed_and_no_gradient_is_shared(name):
    for function, arrays, places in cases(name):
        kept = [np.array(a) for a in arrays]
        tensors = [Tensor(a, i in places, copy=False) if isinstance(a, np.ndarray) else a for i, a in enumerate(arrays)]
        result = function(*tensors)
        upstream = np.random.default_rng(10).normal(size=result.shape)
        given = upstream.copy()
        result.backward(given, retain_graph=True)
        value, found = result.data.copy(), [tensors[i].grad for i in places]
        assert result.grad is None  # only leaves keep a gradient
        for i, gradient in enumerate(found):
            assert gradient.flags.writeable, f"{name}: a gradient that cannot be added to"
            for other in [given, result.data, *found[:i], *(t.data for t in tensors if isinstance(t, Tensor))]:
                assert not np.shares_memory(gradient, other), f"{name}: a gradient shares memory"
        first = [gradient.copy() for gradient in found]
        result.backward(given)  # saved arrays are intact: the second pass adds the same again
        np.testing.assert_array_equal(given, upstream)
        np.testing.assert_array_equal(result.data, value)
        for array, before in zip(arrays, kept, strict=True):
            np.testing.assert_array_equal(array, before)
        for i, gradient in zip(places, first, strict=True):
            np.testing.assert_array_equal(tensors[i].grad, gradient + gradient)


def test_conversion_sends_its_gradient_back_in_the_type_of_its_input():
    x = Tensor(np.linspace(0.0, 1.0, 5), requires_grad=True)
    (x.float() * np.float32(3)).sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad, np.full(5, 3.0))


class TestGradcheck:
    """The engine's checker must see what the chapter's exercises plant, and be silent where nothing is wrong."""

    @pytest.fixture
    def lifted(self, monkeypatch):
        """`differentiable`, with a registry of its own that is thrown away."""
        monkeypatch.setattr(engine, "OPERATIONS", {})
        return engine.differentiable

    def product(self, lifted, by_a, by_b):
        """A matrix product with the pullbacks given, and its two inputs, which are square so that shapes fit."""

        @lifted
        def product(a, b):
            return a @ b, (lambda g: by_a(g, a, b), lambda g: by_b(g, a, b))

        rng = np.random.default_rng(0)
        return product, tuple(Tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(2))

    def test_right(self, lifted):
        product, inputs = self.product(lifted, lambda g, a, b: g @ b.T, lambda g, a, b: a.T @ g)
        assert gradcheck(product, inputs)
        arrays = [x.data for x in inputs]
        upstream = np.random.default_rng(1).normal(size=(3, 3))
        expected = difference_quotient(np.matmul, arrays, 0, upstream)
        np.testing.assert_allclose(upstream @ arrays[1].T, expected, rtol=1e-6, atol=1e-9)  # this file's own quotient

    @pytest.mark.parametrize(
        "by_a",
        [
            lambda g, a, b: (g @ b.T).T,
            lambda g, a, b: g @ b,
            lambda g, a, b: b.T @ g,
            lambda g, a, b: 2 * (g @ b.T),
            lambda g, a, b: (g @ b.T) / len(a),
            lambda g, a, b: -(g @ b.T),
            lambda g, a, b: 1.003 * (g @ b.T),
            lambda g, a, b: np.zeros_like(a),
            lambda g, a, b: np.ones_like(g) @ b.T,
            lambda g, a, b: np.full_like(a, np.nan),
        ],
        ids=["transposed", "forgot-T", "swapped", "twice", "mean", "sign", "three-in-1000", "zero", "no-upstream", "nan"],
    )
    def test_wrong(self, lifted, by_a):
        product, inputs = self.product(lifted, by_a, lambda g, a, b: a.T @ g)
        assert gradcheck(product, inputs, raise_exception=False) is False
        with pytest.raises(ValueError, match="input 0"):
            gradcheck(product, inputs)
        assert [x.grad for x in inputs] == [None, None]

    def test_the_wrong_input_is_named(self, lifted):
        product, inputs = self.product(lifted, lambda g, a, b: g @ b.T, lambda g, a, b: g)
        with pytest.raises(ValueError, match="input 1"):
            gradcheck(product, inputs)

    def test_one_wrong_element_is_found_and_named(self, lifted):
        @lifted
        def spoiled(x):
            return x * 2, lambda g: 2 * g + np.eye(1, g.size, 4).reshape(g.shape)

        with pytest.raises(ValueError, match=r"element \(1, 1\).*1 of 6"):
            gradcheck(spoiled, Tensor(np.ones((2, 3)), requires_grad=True))

    def test_a_function_that_knows_its_inputs_by_itself_is_checked_all_the_same(self, lifted):
        """As a module knows its parameters: it does not look at what it is called with."""
        product, (x, weight) = self.product(lifted, lambda g, a, b: g @ b.T, lambda g, a, b: a.T @ g)
        weight.grad = before = np.full(weight.shape, 7.0)
        numbers = weight.data.copy()
        assert gradcheck(lambda *_: product(x, weight), (weight,))
        assert not gradcheck(lambda *_: product(x, weight) + weight.detach().sum(), (weight,), raise_exception=False)
        assert weight.grad is before and x.grad is not None
        np.testing.assert_array_equal(weight.data, numbers)

    def test_sum_over_the_broadcast_axis_forgotten(self, lifted, monkeypatch):
        x, bias = Tensor(np.ones((3, 2)), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
        assert gradcheck(engine.add, (x, bias))
        monkeypatch.setattr(engine, "unbroadcast", lambda g, shape, name="": g[0])
        assert not gradcheck(engine.add, (x, bias), raise_exception=False)

    def test_a_mean_in_place_of_the_sum_over_the_broadcast_axis(self, monkeypatch):
        x, bias = Tensor(np.ones((3, 2)), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
        monkeypatch.setattr(engine, "unbroadcast", lambda g, shape, name="": g.mean(0))
        assert not gradcheck(engine.add, (x, bias), raise_exception=False)

    def test_accumulation_forgotten(self, lifted):
        @lifted
        def once(a, b):
            return a * b, (lambda g: g * b, lambda g: np.zeros_like(g))  # as if the second use overwrote the first

        x = Tensor(np.array([1.5, -2.0]), requires_grad=True)
        assert gradcheck(lambda x: x * x, x)
        assert not gradcheck(lambda x: once(x, x), x, raise_exception=False)

    def test_symmetric_upstream_would_not_see_a_softmax_without_its_second_term(self, lifted):
        @lifted
        def half(x):
            y = np.exp(x) / np.exp(x).sum()
            return y, lambda g: g * y - y * y.sum() * g.mean()

        x = Tensor(np.array([0.1, 0.7, -0.4]), requires_grad=True)
        _, (flat,) = gradients(half, [x.data], [0])
        assert np.allclose(flat, 0)  # with ones for the upstream gradient it looks right
        assert not gradcheck(half, x, raise_exception=False)

    def test_outputs_in_a_tuple(self, lifted):
        @lifted
        def wrong(x):
            return x * 3, lambda g: 2 * g

        x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
        assert gradcheck(lambda x: (x * 2, x.exp()), x)
        assert not gradcheck(lambda x: (x.exp(), wrong(x)), x, raise_exception=False)

    def test_bad_input(self):
        with pytest.raises(TypeError, match="float64"):
            gradcheck(engine.exp, engine.ones(3, requires_grad=True))
        with pytest.raises(ValueError, match="no input requires a gradient"):
            gradcheck(engine.exp, Tensor(np.ones(3)))

    def test_inputs_are_left_as_they_were(self):
        array = np.array([[0.3, 1.7], [0.1 + 0.2, 1e-9]])
        x = Tensor(array, requires_grad=True)
        gradcheck(lambda x: x.tanh().sum(dim=0), x)
        assert x.grad is None
        assert x.data.tobytes() == array.tobytes()
