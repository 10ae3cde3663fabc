"""The perceptron and ADALINE against hand computation, against plain loops, against their theorems, and scikit-learn."""

import ast
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.checks import exercises, grade
from shared.perceptron import Adaline, ConvergenceWarning, Perceptron, convergence_bound, margin
from shared.traditional_ml import NotFittedError

CHAPTER = Path(__file__).resolve().parent.parent / "01_Perceptrons_Rosenblatt"
XOR = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
XOR_SIGNS = np.array([-1, 1, 1, -1])


def separable(seed, n=30, d=3, gap=0.1, bias=0.0):
    """Random points (n, d) at least `gap` from a random plane, their signs, and the plane's unit normal."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=d)
    normal /= np.linalg.norm(normal)
    x = rng.normal(size=(n, d))
    x -= np.outer(x @ normal + bias, normal)  # onto the plane, then to one side of it or the other
    t = np.where(np.arange(n) % 2, 1, -1)
    x += np.outer(t * (gap + rng.exponential(size=n)), normal)
    return x, t, normal


def clouds(seed, classes, n=60, d=4, spread=1.0):
    """Overlapping clouds of `classes` classes: points (n, d) and labels (n,)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n, d)), y


def quietly(perceptron, x, y):
    """Fit, whether or not the data can be separated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return perceptron.fit(x, y)


def plain_perceptron(x, t, epochs):
    """The 1958 rule for targets -1 and +1, word for word: all weight vectors, one after every example."""
    w, b, history = np.zeros(x.shape[1]), 0.0, []
    for _ in range(epochs):
        for row, target in zip(x, t, strict=True):
            if target * (row @ w + b) <= 0:
                w, b = w + target * row, b + target
            history.append(np.append(w, b))
    return np.array(history)


def plain_multiclass(x, y, classes, epochs):
    """The multiclass rule with lists and loops: all weight tables (K, D + 1), one after every example."""
    w, history = [[0.0] * (x.shape[1] + 1) for _ in range(classes)], []
    for _ in range(epochs):
        for row, own in zip(x, y, strict=True):
            row = [*row, 1.0]
            scores = [sum(a * b for a, b in zip(weights, row, strict=True)) for weights in w]
            rivals = [k for k in range(classes) if k != own]
            rival = max(rivals, key=lambda k: scores[k])  # the first of equals
            if scores[own] <= scores[rival]:
                for j, value in enumerate(row):
                    w[own][j] += value
                    w[rival][j] -= value
            history.append([list(weights) for weights in w])
    return np.array(history)


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_the_rule_step_by_step_by_hand():
    # (2, 1) +: score 0, tie, w = (2, 1), b = 1. (1, 3) -: score 6, w = (1, -2), b = 0. (-1, 1) -: score -3, right.
    # second pass: (2, 1): score 0, tie, w = (3, -1), b = 1. (1, 3): score 1, w = (2, -4), b = 0. (-1, 1): -6, right.
    # third pass:  (2, 1): score 0, tie, w = (4, -3), b = 1. (1, 3): score -4. (-1, 1): -6. Fourth pass: clean.
    x, y = np.array([[2, 1], [1, 3], [-1, 1]]), np.array(["yes", "no", "no"])
    p = Perceptron().fit(x, y)
    assert p.coef_.tolist() == [[4.0, -3.0]]
    assert p.intercept_.tolist() == [1.0]
    assert p.mistakes_ == [2, 2, 1, 0]
    assert (p.n_iter_, p.converged_) == (4, True)
    assert p.classes_.tolist() == ["no", "yes"]
    assert p.predict(x).tolist() == ["yes", "no", "no"]
    assert p.decision_function(x).tolist() == [6.0, -4.0, -6.0]


def test_each_pass_by_hand_through_partial_fit():
    x, y = np.array([[2, 1], [1, 3], [-1, 1]]), np.array([1, 0, 0])
    p = Perceptron()
    seen = [(p.partial_fit(x, y).coef_.tolist(), p.intercept_.tolist()) for _ in range(3)]
    assert seen == [([[1.0, -2.0]], [0.0]), ([[2.0, -4.0]], [0.0]), ([[4.0, -3.0]], [1.0])]


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_equal_the_plain_rule(seed):
    x, y = clouds(seed, 2)
    wanted = plain_perceptron(x, 2 * y - 1, 4)[-1]
    p = quietly(Perceptron(max_epochs=4), x, y)
    np.testing.assert_allclose(np.append(p.coef_, p.intercept_), wanted, rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 4, 7])
def test_many_classes_equal_a_plain_loop(classes):
    x, y = clouds(classes, classes)
    wanted = plain_multiclass(x, y, classes, 3)[-1]
    p = quietly(Perceptron(max_epochs=3), x, y)
    np.testing.assert_allclose(np.column_stack([p.coef_, p.intercept_]), wanted, rtol=1e-12, atol=1e-12)
    assert p.decision_function(x).shape == (60, classes)
    np.testing.assert_array_equal(p.predict(x), p.decision_function(x).argmax(1))


def test_two_classes_are_the_multiclass_rule_with_opposite_rows():
    x, y = clouds(3, 2)
    rows = plain_multiclass(x, y, 2, 2)[-1]
    p = quietly(Perceptron(max_epochs=2), x, y)
    np.testing.assert_allclose(rows[0], -rows[1], rtol=1e-12)
    np.testing.assert_allclose(np.append(p.coef_, p.intercept_), rows[1], rtol=1e-12)


def test_without_intercept_the_bias_stays_zero():
    x, t, _ = separable(1)
    p = Perceptron(fit_intercept=False).fit(x, t)
    assert p.intercept_.tolist() == [0.0]
    assert p.converged_


def test_shuffling_is_drawn_from_the_seed_and_changes_the_path():
    x, y = clouds(2, 3)
    first, again, other = (quietly(Perceptron(max_epochs=3, shuffle=True, random_state=s), x, y) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.coef_, again.coef_)
    assert not np.array_equal(first.coef_, other.coef_)


def test_fit_begins_afresh_and_partial_fit_goes_on():
    x, y = clouds(4, 3)
    p = quietly(Perceptron(max_epochs=3), x, y)
    once = p.coef_.copy()
    np.testing.assert_array_equal(quietly(p, x, y).coef_, once)
    q = Perceptron()
    for _ in range(3):
        q.partial_fit(x, y, classes=[2, 1, 0])
    np.testing.assert_array_equal(q.coef_, once)
    assert q.mistakes_ == p.mistakes_


def test_earlier_results_do_not_change_when_learning_goes_on():
    x, y = clouds(4, 3)
    p = Perceptron().partial_fit(x, y)
    coef, copy = p.coef_, p.coef_.copy()
    p.partial_fit(x, y)
    np.testing.assert_array_equal(coef, copy)
    assert not np.array_equal(p.coef_, copy)


def test_the_arguments_are_left_alone():
    x, y = clouds(5, 2)
    before = x.copy(), y.copy()
    quietly(Perceptron(max_epochs=2), x, y)
    Adaline().fit(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_score_is_the_fraction_of_right_labels():
    x, y = clouds(16, 3)
    p = quietly(Perceptron(max_epochs=2), x, y)
    assert p.score(x, y) == np.mean(p.predict(x) == y)
    assert 0 < p.score(x, y) < 1


@pytest.mark.parametrize("model", [Perceptron(), Adaline()], ids=["perceptron", "adaline"])
def test_what_was_not_fitted_raises_the_error_of_chapter_00(model):
    with pytest.raises(NotFittedError, match=f"{type(model).__name__}.decision_function: nothing has been learnt yet"):
        model.predict(XOR)


def test_small_integers_do_not_wrap_around():
    x, y = np.array([[200, 10], [10, 250], [180, 30]], dtype=np.uint8), np.array([0, 1, 0], dtype=np.uint8)
    np.testing.assert_array_equal(Perceptron().fit(x, y).coef_, Perceptron().fit(x.astype(float), y).coef_)


# --- the average ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_averaged_weights_are_the_mean_of_all_intermediate_weights(epochs):
    x, y = clouds(6, 2)
    wanted = plain_perceptron(x, 2 * y - 1, epochs).mean(0)
    p = quietly(Perceptron(averaged=True, max_epochs=epochs), x, y)
    assert p.n_iter_ == epochs
    np.testing.assert_allclose(np.append(p.coef_, p.intercept_), wanted, rtol=1e-10)


def test_averaged_weights_of_many_classes():
    x, y = clouds(7, 5)
    p = quietly(Perceptron(averaged=True, max_epochs=4), x, y)
    np.testing.assert_allclose(
        np.column_stack([p.coef_, p.intercept_]), plain_multiclass(x, y, 5, 4).mean(0), rtol=1e-10, atol=1e-12
    )


def test_averaging_does_not_change_what_is_learnt():
    x, y = clouds(8, 4)
    plain, averaged = (quietly(Perceptron(averaged=a, max_epochs=6), x, y) for a in (False, True))
    assert plain.mistakes_ == averaged.mistakes_
    assert not np.allclose(plain.coef_, averaged.coef_)


# --- the convergence theorem ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 40), d=st.integers(1, 6), gap=st.floats(0.02, 1))
def test_updates_never_exceed_the_bound_through_the_origin(seed, n, d, gap):
    x, t, normal = separable(seed, n, d, gap)
    p = Perceptron(fit_intercept=False, max_epochs=10**6, shuffle=True, random_state=seed).fit(x, t)
    assert p.converged_
    assert margin(x, t, p.coef_) > 0
    assert sum(p.mistakes_) <= convergence_bound(x, t, normal)
    assert sum(p.mistakes_) <= convergence_bound(x, t, p.coef_)  # any separator bounds the updates, also the one found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 30), d=st.integers(1, 5), bias=st.floats(-1.5, 1.5))
def test_updates_never_exceed_the_bound_with_a_bias(seed, n, d, bias):
    x, t, normal = separable(seed, n, d, 0.2, bias)
    p = Perceptron(max_epochs=10**6).fit(x, t)
    assert sum(p.mistakes_) <= convergence_bound(x, t, normal, bias)
    assert sum(p.mistakes_) <= convergence_bound(x, t, p.coef_, p.intercept_)


def test_the_bound_is_reached():
    # unit vectors help one another in nothing, so each needs an update: D of them, and R = 1, gamma = 1 / sqrt(D)
    for d in (2, 5, 30):
        x, t = np.diag((-1.0) ** np.arange(d)), (-1) ** np.arange(d)
        assert convergence_bound(x, t, np.ones(d)) == pytest.approx(d)
        assert sum(Perceptron(fit_intercept=False).fit(x, t).mistakes_) == d


def test_margin_by_hand():
    x, y = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]), np.array(["b", "a", "b"])
    assert margin(x, y, [3, 4], -10) == pytest.approx(2.0)  # distances (25 - 10) / 5 = 3, 10 / 5 = 2, (50 - 10) / 5 = 8
    assert margin(x, y, [[30, 40]], [-100]) == pytest.approx(2.0)  # the length of the weights does not matter
    assert margin(x, y, [-3, -4], 10) == pytest.approx(-8.0)  # the wrong way round: the worst point counts


def test_bound_by_hand():
    x, y = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([1, -1])
    # as (3, 4, 1) and (0, 0, 1): R^2 = 26; w = (3, 4, -10) / sqrt(125) gives margins 15 / sqrt(125), 10 / sqrt(125)
    assert convergence_bound(x, y, [3, 4], -10) == pytest.approx(26 / (100 / 125))


def test_xor_stops_and_says_so():
    with pytest.warns(ConvergenceWarning, match=r"max_epochs=7 with \d mistakes"):
        p = Perceptron(max_epochs=7).fit(XOR, XOR_SIGNS)
    assert (p.n_iter_, p.converged_, len(p.mistakes_)) == (7, False, 7)
    assert min(p.mistakes_) > 0


def test_what_converges_gives_no_warning():
    x, t, _ = separable(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Perceptron().fit(x, t).converged_


def test_the_product_feature_mends_xor():
    p = Perceptron().fit(np.column_stack([XOR, XOR[:, 0] * XOR[:, 1]]), XOR_SIGNS)
    assert p.converged_
    np.testing.assert_array_equal(p.predict(np.column_stack([XOR, XOR[:, 0] * XOR[:, 1]])), XOR_SIGNS)


# --- ADALINE ----------------------------------------------------------------------------------------------------------


def least_squares(x, t):
    """Weights and bias of least squared error."""
    return np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), t, rcond=None)[0]


def test_adaline_settles_at_least_squares():
    x, y = clouds(9, 2)
    a = Adaline(lr=0.2, epochs=4000).fit(x, y)
    np.testing.assert_allclose(np.append(a.coef_, a.intercept_), least_squares(x, 2 * y - 1), rtol=1e-9)


def test_the_least_squares_solution_is_a_fixed_point_of_the_batch_step():
    x, y = clouds(10, 2)
    w = least_squares(x, 2 * y - 1)
    one = np.column_stack([x, np.ones(len(x))])
    shifted = Adaline(lr=0.1, epochs=1).fit(x, y)  # the step from zero is lr X't/N; at w the residual adds -lr X'Xw/N
    step = np.append(shifted.coef_, shifted.intercept_) - 0.1 * one.T @ one @ w / len(x)
    np.testing.assert_allclose(step, 0, atol=1e-14)


def test_online_adaline_equals_a_plain_loop():
    x, y = clouds(11, 2, n=20)
    w = np.zeros(5)
    for _ in range(3):
        for row, t in zip(x, 2 * y - 1, strict=True):
            one = np.append(row, 1)
            w = w + 0.05 * (t - w @ one) * one
    a = Adaline(lr=0.05, epochs=3, online=True).fit(x, y)
    np.testing.assert_allclose(np.append(a.coef_, a.intercept_), w, rtol=1e-12)


def test_online_adaline_comes_closer_to_least_squares_with_a_smaller_rate():
    x, y = clouds(12, 2)
    wanted = least_squares(x, 2 * y - 1)
    far = []
    for lr in (0.01, 0.001):
        a = Adaline(lr=lr, epochs=3000, online=True).fit(x, y)
        far.append(np.linalg.norm(np.append(a.coef_, a.intercept_) - wanted))
    assert far[1] < far[0] / 5


def test_adaline_records_half_the_mean_squared_error():
    x, y = clouds(13, 2)
    a = Adaline(lr=0.05, epochs=7).fit(x, y)
    assert len(a.losses_) == 8
    assert a.losses_[0] == 0.5  # every target is -1 or +1, every score 0
    assert a.losses_[-1] == pytest.approx(np.mean((2 * y - 1 - a.decision_function(x)) ** 2) / 2)
    assert all(np.diff(a.losses_) < 0)


def test_adaline_predicts_the_labels_it_was_given():
    x, t, _ = separable(5, n=60, gap=1.0)
    names = np.where(t > 0, "right", "left")
    a = Adaline(lr=0.1, epochs=500).fit(x, names)
    assert a.classes_.tolist() == ["left", "right"]
    assert np.mean(a.predict(x) == names) > 0.9


@pytest.mark.parametrize("online", [False, True])
def test_adaline_refuses_a_learning_rate_that_diverges(online):
    x, y = clouds(14, 2)
    with pytest.raises(ValueError, match=r"Adaline\.fit: the loss rose to .* in epoch \d+, lr=5 is too large"):
        Adaline(lr=5, epochs=500, online=online).fit(x, y)


def test_the_limit_in_the_message_is_the_true_one():
    x, y = clouds(15, 2)
    one = np.column_stack([x, np.ones(len(x))])
    limit = 2 / np.linalg.eigvalsh(one.T @ one / len(x)).max()
    Adaline(lr=0.999 * limit, epochs=3000).fit(x, y)
    with pytest.raises(ValueError, match=f"safe below {limit:.3g}"):
        Adaline(lr=1.01 * limit, epochs=3000).fit(x, y)


# --- bad input --------------------------------------------------------------------------------------------------------

X, Y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]), np.array([0, 1, 0])
BAD_DATA = [
    ([1.0, 2.0, 3.0], Y, r"X must be a matrix \(N, D\), got shape \(3,\)"),
    (np.zeros((3, 0)), Y, r"X is empty, its shape is \(3, 0\)"),
    (np.zeros((0, 2)), [], r"X is empty, its shape is \(0, 2\)"),
    (np.zeros((3, 2, 2)), Y, r"got shape \(3, 2, 2\)"),
    ([[1.0, 2.0], [3.0], [5.0, 6.0]], Y, r"X must be a matrix"),
    ([["1", "2"], ["3", "4"], ["5", "6"]], Y, r"real numbers"),
    ([[None, 2.0], [3.0, 4.0], [5.0, 6.0]], Y, r"X contains NaN or infinity, first at row 0, column 0"),
    ([[{}, 2.0], [3.0, 4.0], [5.0, 6.0]], Y, r"real numbers"),
    (X + 1j, Y, r"real numbers: got dtype complex128"),
    (np.where(X == 3, np.nan, X), Y, r"NaN or infinity"),
    (np.where(X == 3, np.inf, X), Y, r"NaN or infinity"),
    (X, [0, 1], r"one label for each of the 3 rows"),
    (X, Y[:, None], r"got shape \(3, 1\)"),
    (X, [1, 1, 1], r"at least two classes, it holds only"),
    (X, [0.0, np.nan, 1.0], r"class labels, but it holds NaN"),
    (X, [0.0, 0.5, 1.0], r"class labels, but it holds .* fractions"),
    (X, ["a", None, "b"], r"nothing missing"),
]


@pytest.mark.parametrize(("x", "y", "message"), BAD_DATA)
@pytest.mark.parametrize("model", [Perceptron(), Adaline()], ids=["perceptron", "adaline"])
def test_bad_data(model, x, y, message):
    with pytest.raises(ValueError, match=rf"^{type(model).__name__}\.fit: .*{message}"):
        model.fit(x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perceptron(max_epochs=0), "max_epochs must be a whole number"),
        (lambda: Perceptron(max_epochs=2.5), "max_epochs must be a whole number"),
        (lambda: Perceptron(max_epochs=True), "max_epochs must be a whole number"),
        (lambda: Adaline(epochs=-1), "epochs must be a whole number"),
        (lambda: Adaline(lr=0), "lr must be a positive number, got 0"),
        (lambda: Adaline(lr=-0.1), "lr must be a positive number"),
        (lambda: Adaline(lr=np.nan), "lr must be a positive number"),
        (lambda: Adaline(lr=np.inf), "lr must be a positive number"),
        (lambda: Adaline(lr="0.1"), "lr must be a positive number, got '0.1'"),
        (lambda: Adaline().fit(X, [0, 1, 2]), "two classes, got 3"),
        (lambda: Perceptron().predict(X), "call fit first"),
        (lambda: Adaline().decision_function(X), "call fit first"),
        (lambda: Perceptron().fit(X[:2], [0, 1]).predict(X[:, :1]), "X has 1 columns, fit saw 2"),
        (lambda: Perceptron().fit(X[:2], [0, 1]).predict(X[0]), "X must be a matrix"),
        (lambda: Perceptron().partial_fit(X, Y).partial_fit(X[:, :1], Y), "X has 1 columns, the first call saw 2"),
        (lambda: Perceptron().partial_fit(X, Y).partial_fit(X, [0, 1, 2]), r"3 labels, all among \[0, 1\]"),
        (lambda: Perceptron().partial_fit(X, Y).partial_fit(X, [0, 1]), "3 labels"),
        (lambda: Perceptron().partial_fit(X, Y, classes=[1]), "at least two classes"),
        (lambda: margin(X, Y, [0.0, 0.0]), "not all zero"),
        (lambda: margin(X, Y, [np.inf, 0.0]), "finite"),
        (lambda: margin(X, Y, [1.0, 2.0, 3.0]), "X has 2 columns"),
        (lambda: margin(X, Y, [1.0, 2.0], [0.0, 1.0]), "intercept one number"),
        (lambda: margin(X, [0, 1, 2], [1.0, 2.0]), "two classes, got 3"),
        (lambda: convergence_bound(X, Y, [1.0, 1.0], 0.0), "do not separate"),
        (lambda: convergence_bound(X, Y, [1.0]), "X has 2 columns"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- scikit-learn -----------------------------------------------------------------------------------------------------


@pytest.fixture
def linear_model():
    return pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle here")


@pytest.mark.parametrize(("seed", "fit_intercept"), list(itertools.product(range(3), [True, False])))
def test_agrees_with_scikit_learn(linear_model, seed, fit_intercept):
    x, y = clouds(seed, 2)
    theirs = linear_model.Perceptron(shuffle=False, max_iter=5, tol=None, fit_intercept=fit_intercept).fit(x, y)
    ours = quietly(Perceptron(max_epochs=5, fit_intercept=fit_intercept), x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-10)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-10)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))


def test_averaged_agrees_with_scikit_learn(linear_model):
    x, y = clouds(1, 2)
    theirs = linear_model.SGDClassifier(
        loss="perceptron", penalty=None, learning_rate="constant", eta0=1, average=True, shuffle=False, max_iter=5, tol=None
    ).fit(x, y)
    ours = quietly(Perceptron(averaged=True, max_epochs=5), x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-10)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-10)


def test_the_numbers_stored_in_the_notebook_are_scikit_learns(linear_model):
    """The notebook compares with stored numbers, so that it runs without scikit-learn; here they are computed afresh."""
    notebook = json.loads((CHAPTER / "perceptron.ipynb").read_text(encoding="utf-8"))
    source = next("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "beside-sklearn")
    values = {"np": np}
    for node in ast.parse(source).body:  # the data and the stored table; not the comparison
        if isinstance(node, ast.Assign):
            exec(compile(ast.Module([node], []), "beside-sklearn", "exec"), values)
    common = {"shuffle": False, "tol": None, "max_iter": 5}
    models = {
        False: linear_model.Perceptron(**common),
        True: linear_model.SGDClassifier(
            loss="perceptron", penalty=None, learning_rate="constant", eta0=1, average=True, **common
        ),
    }
    assert set(values["stored"]) == set(models)
    for average, model in models.items():
        model.fit(values["X"], values["y"])
        np.testing.assert_allclose([*model.coef_[0], *model.intercept_], values["stored"][average], rtol=1e-9)


# --- the exercises ----------------------------------------------------------------------------------------------------

EXERCISES = exercises("01")


@pytest.mark.parametrize("id", EXERCISES)
def test_each_exercise_accepts_its_reference(id):
    exercise = EXERCISES[id]
    reference = exercise.expected() if id == "01.7" else exercise.expected
    verdict = grade(exercise, reference)
    assert (verdict.passed, verdict.message) == (True, "passed")


@pytest.mark.parametrize(("id", "number"), [(e.id, n) for e in EXERCISES.values() for n in range(len(e.mistakes))])
def test_each_typical_mistake_is_rejected_with_its_diagnosis(id, number):
    mistake = EXERCISES[id].mistakes[number]
    verdict = grade(EXERCISES[id], mistake.answer)
    assert (verdict.passed, verdict.message) == (False, mistake.diagnosis)


def test_each_exercise_knows_three_mistakes_and_the_untouched_stub():
    for exercise in EXERCISES.values():
        assert len(exercise.mistakes) >= 3
        assert grade(exercise, None).passed is None
        if exercise.cases or exercise.id == "01.6":
            assert grade(exercise, lambda *arguments: ...).passed is None


def test_the_bug_of_exercise_4_is_the_one_in_the_notebook():
    notebook = json.loads((CHAPTER / "perceptron.ipynb").read_text(encoding="utf-8"))
    source = next("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "exercise-bug-stub")
    values = {"np": np, "check": lambda id, answer: None}
    exec(source, values)
    assert grade(EXERCISES["01.4"], values["averaged_weights"]).message == EXERCISES["01.4"].mistakes[0].diagnosis
