"""Chapter 00: the models agree with scikit-learn, and refuse what they cannot work with in words that help."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from shared import traditional_ml as ours

ROOT = Path(__file__).resolve().parent.parent
REASON = "scikit-learn is the oracle of this test"
sklearn = pytest.importorskip("sklearn", reason=REASON)
from sklearn import cluster, datasets as toys, decomposition, linear_model, metrics  # noqa: E402, I001
from sklearn import model_selection, naive_bayes, neighbors, preprocessing, tree  # noqa: E402

NEAR = {"rtol": 1e-6, "atol": 1e-9}


def single(X):
    """The numbers as scikit-learn's trees see them: rounded to float32."""
    return np.asarray(X, dtype=np.float32).astype(np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def regression(rng):
    """Correlated features in very different units, as (X, y, X_new)."""
    X = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) * [1, 10, 100, 0.1, 1000] + [3, 0, 1e4, 0, -5]
    y = X @ rng.normal(size=5) + rng.normal(size=80) * 20 + 7
    return X[:60], y[:60], X[60:]


@pytest.fixture(params=["two classes", "three classes, names", "ten classes"])
def classification(request):
    """Data with overlapping classes, as (X, y, X_new)."""
    if request.param == "two classes":
        X, y = toys.load_breast_cancer(return_X_y=True)
        X = preprocessing.scale(X[:, :8])
    elif request.param == "three classes, names":
        X, y = toys.load_wine(return_X_y=True)
        X, y = preprocessing.scale(X[:, :3]), np.array(["red", "amber", "white"])[y]
    else:
        X, y = toys.load_digits(return_X_y=True)
        X = X[:600] / 16
        y = y[:600] * 3 - 5  # labels need not be 0, 1, 2, ...
    return X[1::2], y[1::2], X[::2]


# ---- splitting and measuring ----


@settings(deadline=None)
@given(
    n=st.integers(4, 60),
    size=st.one_of(st.floats(0.05, 0.7), st.integers(1, 3)),
    seed=st.integers(0, 2**32 - 1),
    shuffle=st.booleans(),
)
def test_split_is_the_one_of_scikit_learn(n, size, seed, shuffle):
    X, y = np.arange(2 * n).reshape(n, 2), np.arange(n)
    options = {"test_size": size, "random_state": seed if shuffle else None, "shuffle": shuffle}
    for a, b in zip(
        ours.train_test_split(X, y, **options), model_selection.train_test_split(X, y, **options), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@given(counts=st.lists(st.integers(2, 15), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_stratified_split_is_the_one_of_scikit_learn(counts, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    size = max(len(counts), len(y) // 3)
    if len(y) - size < len(counts):
        return
    options = {"test_size": size, "random_state": seed, "stratify": y}
    for a, b in zip(
        ours.train_test_split(np.arange(len(y)), **options),
        model_selection.train_test_split(np.arange(len(y)), **options),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_split_takes_a_fraction_of_any_float_type():
    for size in (0.25, np.float32(0.25), np.float64(0.25), np.int64(2)):
        assert [len(part) for part in ours.train_test_split(np.arange(8), test_size=size, random_state=0)] == [6, 2]


def test_split_keeps_tables_and_rows_together():
    table = datasets.ames_housing()
    train, test, y_train, y_test = ours.train_test_split(table, list(table["Sale_Price"]), test_size=0.2, random_state=0)
    assert list(train.columns) == list(table.columns)
    np.testing.assert_array_equal(train["Sale_Price"], y_train)
    np.testing.assert_array_equal(test["Sale_Price"], y_test)
    assert len(test) == 585
    assert set(train.index).isdisjoint(test.index)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        (([1, 2, 3], [1, 2]), {}, r"one length, got \[3, 2\]"),
        (([1, 2, 3],), {"test_size": 3}, "test_size=3 of 3 rows"),
        (([1, 2, 3],), {"test_size": 1.5}, "test_size=1.5"),
        (([1, 2, 3],), {"test_size": 0.0}, "test_size=0.0"),
        (([1, 2, 3, 4],), {"stratify": [0, 0, 0, 1], "test_size": 2}, "two rows of each class"),
        (([1, 2, 3, 4],), {"stratify": [0, 0, 1]}, "4 labels, got 3"),
        (([1, 2, 3, 4],), {"stratify": [0, 0, 1, 1], "shuffle": False}, "shuffle=True"),
    ],
)
def test_split_refuses(arrays, options, words):
    with pytest.raises(ValueError, match=words):
        ours.train_test_split(*arrays, **options)


def test_measures(rng):
    y, guess = rng.normal(size=30), rng.normal(size=30)
    assert ours.r2_score(y, guess) == pytest.approx(metrics.r2_score(y, guess), rel=1e-12)
    assert ours.root_mean_squared_error(y, guess) == pytest.approx(metrics.root_mean_squared_error(y, guess), rel=1e-12)
    assert ours.r2_score([2, 2, 2], [2, 2, 2]) == metrics.r2_score([2, 2, 2], [2, 2, 2]) == 1
    assert ours.r2_score([2, 2, 2], [2, 2, 3]) == metrics.r2_score([2, 2, 2], [2, 2, 3]) == 0
    two = rng.normal(size=(30, 2))
    assert ours.r2_score(two, two + guess[:, None]) == pytest.approx(metrics.r2_score(two, two + guess[:, None]))
    true, said = rng.integers(0, 4, 50), rng.integers(1, 5, 50)
    assert ours.accuracy_score(true, said) == metrics.accuracy_score(true, said)
    np.testing.assert_array_equal(ours.confusion_matrix(true, said), metrics.confusion_matrix(true, said))
    labels = [3, 1, 2]
    np.testing.assert_array_equal(
        ours.confusion_matrix(true, said, labels=labels), metrics.confusion_matrix(true, said, labels=labels)
    )
    names = np.array(["ant", "bee", "cat", "dog", "emu"])
    np.testing.assert_array_equal(
        ours.confusion_matrix(names[true], names[said]), metrics.confusion_matrix(names[true], names[said])
    )


@pytest.mark.parametrize(
    "measure", [ours.r2_score, ours.accuracy_score, ours.confusion_matrix, ours.root_mean_squared_error]
)
def test_measures_refuse_what_would_broadcast(measure):
    with pytest.raises(ValueError, match=rf"{measure.__name__}: y_true \(3,\) and y_pred \(3, 1\)"):
        measure([1, 2, 3], [[1], [2], [3]])
    with pytest.raises(ValueError, match="empty"):
        measure([], [])


def test_measures_of_bytes_and_booleans_do_not_wrap_around():
    true, guess = np.array([10, 200, 3], np.uint8), np.array([200, 10, 5], np.uint8)
    assert ours.root_mean_squared_error(true, guess) == pytest.approx(ours.root_mean_squared_error(true.tolist(), guess.tolist()))
    assert ours.r2_score(true, guess) == pytest.approx(metrics.r2_score(true, guess))
    assert ours.r2_score(true > 5, guess > 5) == pytest.approx(metrics.r2_score(true > 5, guess > 5))


def test_r2_needs_two_values():
    with pytest.raises(ValueError, match="two values"):
        ours.r2_score([1], [1])


def test_scaler(regression):
    X, _, X_new = regression
    X = np.column_stack([X, np.full(len(X), 0.1)])  # a constant feature, whose computed variance is not quite 0
    X_new = np.column_stack([X_new, np.full(len(X_new), 0.3)])
    mine, theirs = ours.StandardScaler().fit(X), preprocessing.StandardScaler().fit(X)
    for name in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mine.transform(X_new), theirs.transform(X_new), **NEAR)
    np.testing.assert_allclose(mine.inverse_transform(mine.transform(X_new)), X_new, **NEAR)
    np.testing.assert_allclose(ours.StandardScaler().fit_transform(X), theirs.transform(X), **NEAR)


# ---- regression ----


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("case", ["plain", "several targets", "dependent columns", "fewer rows than columns"])
def test_linear_regression(regression, fit_intercept, case):
    X, y, X_new = regression
    if case == "several targets":
        y = np.column_stack([y, X[:, 0] ** 2, y - 3])
    if case == "dependent columns":
        X, X_new = (np.column_stack([a, a[:, 0] + a[:, 3]]) for a in (X, X_new))
    if case == "fewer rows than columns":
        X, y = X[:4], y[:4]
    mine = ours.LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    theirs = linear_model.LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(mine.predict(X_new), theirs.predict(X_new), **NEAR)
    np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(mine.intercept_, theirs.intercept_, **NEAR)
    assert mine.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-9)


def test_linear_regression_is_exact_where_squaring_the_condition_number_ruins_it(rng):
    X = rng.normal(size=(200, 3))
    X[:, 2] = X[:, 0] + 1e-7 * X[:, 2]
    truth = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(ours.LinearRegression().fit(X, X @ truth).coef_, truth, rtol=1e-6)
    gram = X.T @ X
    assert np.abs(np.linalg.solve(gram, gram @ truth) - truth).max() > 1e-4


def test_gradient_descent_finds_the_same_line(regression):
    X, y, _ = regression
    X = preprocessing.scale(X)
    steps = ours.LinearRegression(solver="gd", lr=0.3, max_iter=20_000, tol=1e-9).fit(X, y)
    direct = ours.LinearRegression().fit(X, y)
    np.testing.assert_allclose(steps.coef_, direct.coef_, rtol=1e-6)
    assert steps.intercept_ == pytest.approx(direct.intercept_)
    assert steps.n_iter_ == len(steps.loss_curve_) < 20_000
    assert (np.diff(steps.loss_curve_) <= 1e-9).all()
    assert steps.loss_curve_[0] == pytest.approx(np.var(y))
    assert steps.loss_curve_[-1] == pytest.approx(np.mean((y - direct.predict(X)) ** 2))


def test_gradient_descent_names_the_largest_rate_that_works(regression):
    X, y, _ = regression
    X = preprocessing.scale(X)
    limit = 2 / np.linalg.eigvalsh(2 / len(X) * X.T @ X).max()
    with pytest.raises(ValueError, match=f"diverged.*lr={1.05 * limit}.*below {limit:.3g}"):
        ours.LinearRegression(solver="gd", lr=1.05 * limit).fit(X, y)
    ours.LinearRegression(solver="gd", lr=0.95 * limit).fit(X, y)


@pytest.mark.parametrize("alpha", [0, 1e-3, 1.0, 250.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge(regression, alpha, fit_intercept):
    X, y, X_new = regression
    X, X_new = X / X.std(0), X_new / X.std(0)
    targets = np.column_stack([y, y**2])
    for target in (y, targets):
        mine = ours.Ridge(alpha, fit_intercept=fit_intercept).fit(X, target)
        theirs = linear_model.Ridge(alpha, fit_intercept=fit_intercept, solver="svd").fit(X, target)
        np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-6)
        np.testing.assert_allclose(mine.intercept_, theirs.intercept_, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mine.predict(X_new), theirs.predict(X_new), rtol=1e-6)


def test_ridge_with_dependent_columns_and_no_penalty_takes_the_shortest_solution(regression):
    X, y, _ = regression
    X = preprocessing.scale(np.column_stack([X, X[:, 0]]))
    np.testing.assert_allclose(ours.Ridge(0).fit(X, y).coef_, ours.LinearRegression().fit(X, y).coef_, rtol=1e-6)


def test_usa_housing():
    if not datasets.is_cached("usa_housing"):
        pytest.skip("usa_housing is not in the cache; COURSE_DATA can name a folder that has it")
    table = datasets.usa_housing()
    X, y = table.drop(columns=["Price", "Address"]), table["Price"]
    X_train, X_test, y_train, y_test = ours.train_test_split(X, y, test_size=0.3, random_state=101)
    mine = ours.LinearRegression().fit(X_train, y_train)
    theirs = linear_model.LinearRegression().fit(X_train, y_train)
    assert round(mine.score(X_test, y_test), 4) == 0.9185
    assert mine.score(X_test, y_test) == pytest.approx(theirs.score(X_test, y_test), rel=1e-9)
    scaler = ours.StandardScaler().fit(X_train)
    steps = ours.LinearRegression(solver="gd").fit(scaler.transform(X_train), y_train)
    assert round(steps.score(scaler.transform(X_test), y_test), 4) == 0.9185


# ---- classification ----


@pytest.mark.parametrize("C", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_logistic_regression(classification, C, fit_intercept):
    X, y, X_new = classification
    mine = ours.LogisticRegression(C, fit_intercept=fit_intercept).fit(X, y)
    theirs = linear_model.LogisticRegression(
        C=C, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(X, y)
    np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mine.intercept_, theirs.intercept_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mine.predict_proba(X_new), theirs.predict_proba(X_new), atol=1e-6)
    np.testing.assert_allclose(mine.decision_function(X_new), theirs.decision_function(X_new), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mine.predict(X_new), theirs.predict(X_new))
    np.testing.assert_array_equal(mine.classes_, theirs.classes_)
    assert mine.score(X, y) == theirs.score(X, y)
    assert mine.n_iter_ < 100


def test_logistic_regression_without_penalty(rng):
    X = rng.normal(size=(300, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.logistic(size=300) > 0.3
    mine = ours.LogisticRegression(np.inf).fit(X, y)
    theirs = linear_model.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-6)
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))


def test_logistic_regression_by_gradient_descent(classification):
    X, y, _ = classification
    steps = ours.LogisticRegression(0.05, solver="gd", lr=1.0, max_iter=3000).fit(X, y)
    direct = ours.LogisticRegression(0.05).fit(X, y)
    np.testing.assert_allclose(steps.coef_, direct.coef_, atol=1e-4)
    np.testing.assert_allclose(steps.predict_proba(X), direct.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("K", [2, 4])
def test_logistic_gradient_and_curvature_agree_with_differences(rng, K):
    X, Y = rng.normal(size=(7, 3)), np.eye(K)[rng.integers(0, K, 7)]
    loss = ours._LogisticLoss(X, Y, 0.3, True)
    W, V = rng.normal(size=(2, 1 if K == 2 else K, 4))
    h = 1e-6
    for i in np.ndindex(W.shape):
        bump = np.zeros_like(W)
        bump[i] = h
        assert loss.gradient(W)[i] == pytest.approx((loss.value(W + bump) - loss.value(W - bump)) / (2 * h), abs=1e-8)
    ahead, behind = loss.gradient(W + h * V), loss.gradient(W - h * V)
    loss.gradient(W)
    np.testing.assert_allclose(loss.curvature(V), (ahead - behind) / (2 * h), atol=1e-8)


def test_logistic_regression_with_huge_features_stays_finite():
    X, y = np.array([[-1e6], [-1e5], [1e5], [1e6]]), [0, 0, 1, 1]
    with np.errstate(all="raise", under="ignore"):
        model = ours.LogisticRegression(max_iter=50).fit(X, y)
        assert model.score(X, y) == 1
        assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 4, 15])
def test_neighbours(classification, k, weights):
    X, y, X_new = classification
    mine = ours.KNeighborsClassifier(k, weights=weights).fit(X, y)
    theirs = neighbors.KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(X, y)
    np.testing.assert_allclose(mine.kneighbors(X_new)[0], theirs.kneighbors(X_new)[0], rtol=1e-6, atol=1e-7)
    clear = theirs.kneighbors(X_new, k + 1)[0]
    clear = clear[:, -1] - clear[:, -2] > 1e-9  # whose k-th neighbour is not tied with the next
    np.testing.assert_allclose(mine.predict_proba(X_new)[clear], theirs.predict_proba(X_new)[clear], atol=1e-6)
    np.testing.assert_array_equal(mine.predict(X_new)[clear], theirs.predict(X_new)[clear])
    assert clear.mean() > 0.9


def test_neighbours_of_the_training_rows_are_themselves_at_distance_zero(rng):
    X = rng.normal(size=(50, 4)) + 1e4  # far from the origin the expanded square would lose the distance
    y = np.arange(50) % 3
    for weights in ("uniform", "distance"):
        mine = ours.KNeighborsClassifier(1, weights=weights).fit(X, y)
        distance, index = mine.kneighbors(X)
        np.testing.assert_array_equal(distance, np.zeros((50, 1)))
        np.testing.assert_array_equal(index[:, 0], np.arange(50))
    near = ours.KNeighborsClassifier(7, weights="distance").fit(X, y)
    np.testing.assert_array_equal(near.predict(X), y)


def test_a_drawn_vote_goes_to_the_smallest_class():
    X, y = [[0.0], [1.0], [2.0], [3.0]], ["d", "a", "c", "b"]
    mine = ours.KNeighborsClassifier(4).fit(X, y)
    theirs = neighbors.KNeighborsClassifier(4).fit(X, y)
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))
    assert mine.predict([[9.0]]) == ["a"]


def test_neighbours_in_many_blocks_are_those_of_one(rng):
    X, y, many = rng.normal(size=(2000, 3)), rng.integers(0, 2, 2000), rng.normal(size=(5000, 3))
    distance, index = ours.KNeighborsClassifier(3).fit(X, y).kneighbors(many)
    theirs = neighbors.NearestNeighbors(n_neighbors=3).fit(X).kneighbors(many)
    np.testing.assert_allclose(distance, theirs[0], rtol=1e-9)
    np.testing.assert_array_equal(index, theirs[1])


@pytest.mark.parametrize("var_smoothing", [1e-9, 0.1])
def test_naive_bayes(classification, var_smoothing):
    X, y, X_new = classification
    mine = ours.GaussianNB(var_smoothing=var_smoothing).fit(X, y)
    theirs = naive_bayes.GaussianNB(var_smoothing=var_smoothing).fit(X, y)
    for name in ("theta_", "var_", "class_prior_", "epsilon_"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(mine.predict_joint_log_proba(X_new), theirs.predict_joint_log_proba(X_new), rtol=1e-6)
    np.testing.assert_allclose(mine.predict_proba(X_new), theirs.predict_proba(X_new), atol=1e-6)
    np.testing.assert_array_equal(mine.predict(X_new), theirs.predict(X_new))


# ---- trees ----

TREE_OPTIONS = [
    {},
    {"max_depth": 1},
    {"max_depth": 4},
    {"min_samples_leaf": 40},
    {"min_samples_split": 20},
    {"max_depth": 6, "min_samples_leaf": 20, "min_samples_split": 90},
]


@pytest.mark.parametrize("options", TREE_OPTIONS, ids=str)
def test_tree_is_the_same_node_by_node(rng, options):
    """Continuous features, and an outcome that depends on them strongly, so that good cuts are not tied."""
    X = single(rng.normal(size=(1200, 4)))
    y = np.digitize(X @ [1.0, -0.6, 0.3, 0.05] + rng.normal(size=1200) * 0.8, [-0.9, 0.7])
    mine, theirs = ours.DecisionTreeClassifier(**options).fit(X, y), tree.DecisionTreeClassifier(**options).fit(X, y)
    if options in ({}, {"min_samples_split": 20}):  # cuts of a handful of rows are often tied: compare the top
        mine, theirs = (
            model.__class__(**options, max_depth=5).fit(X, y) for model in (mine, theirs)
        )
    for name in ("children_left", "children_right", "feature", "n_node_samples"):
        np.testing.assert_array_equal(getattr(mine.tree_, name), getattr(theirs.tree_, name))
    np.testing.assert_allclose(mine.tree_.threshold, theirs.tree_.threshold, rtol=1e-12)
    np.testing.assert_allclose(mine.tree_.impurity, theirs.tree_.impurity, atol=1e-12)
    np.testing.assert_allclose(mine.tree_.value, theirs.tree_.value[:, 0], atol=1e-12)
    np.testing.assert_allclose(mine.feature_importances_, theirs.feature_importances_, atol=1e-9)
    np.testing.assert_array_equal(mine.apply(X), theirs.apply(X))
    np.testing.assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-12)
    assert mine.get_depth() == theirs.get_depth()
    assert mine.get_n_leaves() == theirs.get_n_leaves()


def gini(y):
    return 1 - ((np.unique(y, return_counts=True)[1] / len(y)) ** 2).sum()


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 25),
    D=st.integers(1, 4),
    levels=st.integers(1, 6),
    min_leaf=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_root_cut_is_the_best_of_all_cuts(seed, n, D, levels, min_leaf):
    """Against trying every threshold; few distinct values, so that columns hold ties and constants."""
    rng = np.random.default_rng(seed)
    X, y = rng.integers(0, levels, (n, D)) / 4, rng.integers(0, 3, n)
    y[:2] = 0, 1
    stump = ours.DecisionTreeClassifier(max_depth=1, min_samples_leaf=min_leaf).fit(X, y)
    cuts = []
    for j in range(D):
        values = np.unique(X[:, j])
        for t in (values[:-1] + values[1:]) / 2:
            left = X[:, j] <= t
            if min(left.sum(), (~left).sum()) >= min_leaf:
                cuts.append((left.mean() * gini(y[left]) + (~left).mean() * gini(y[~left]), j, t))
    if not cuts:
        assert stump.get_n_leaves() == 1
        return
    best = min(cuts)[0]
    feature, threshold = int(stump.tree_.feature[0]), stump.tree_.threshold[0]
    assert (feature, threshold) == min((j, t) for score, j, t in cuts if score <= best + 1e-12)


def test_full_tree_knows_the_training_data(classification):
    X, y, X_new = classification
    mine = ours.DecisionTreeClassifier().fit(X, y)
    theirs = tree.DecisionTreeClassifier(random_state=0).fit(X, y)
    assert mine.score(X, y) == 1
    assert np.mean(mine.predict(X_new) == theirs.predict(X_new)) > 0.7  # tied cuts are decided differently
    assert mine.predict_proba(X_new).shape == (len(X_new), len(np.unique(y)))


def test_tree_tells_neighbouring_floats_apart():
    low = 1.0
    high = np.nextafter(low, 2)
    mine = ours.DecisionTreeClassifier().fit([[low], [high]], [0, 1])
    np.testing.assert_array_equal(mine.predict([[low], [high]]), [0, 1])


def test_tree_solves_xor_though_the_first_cut_gains_nothing():
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), [0, 1, 1, 0]
    mine = ours.DecisionTreeClassifier().fit(X, y)
    assert mine.score(X, y) == 1
    assert mine.get_depth() == 2


# ---- without labels ----


@pytest.mark.parametrize("K", [1, 3, 10])
def test_k_means_from_given_centres(classification, K):
    X, _, X_new = classification
    start = X[:: len(X) // K][:K]
    mine = ours.KMeans(K, init=start).fit(X)
    theirs = cluster.KMeans(K, init=start, n_init=1, algorithm="lloyd").fit(X)
    np.testing.assert_allclose(mine.cluster_centers_, theirs.cluster_centers_, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(mine.labels_, theirs.labels_)
    np.testing.assert_array_equal(mine.predict(X_new), theirs.predict(X_new))
    np.testing.assert_allclose(mine.transform(X_new), theirs.transform(X_new), rtol=1e-6)
    assert mine.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    assert mine.n_iter_ == theirs.n_iter_


def test_k_means_revives_empty_clusters(rng):
    X = np.concatenate([rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 20])
    start = np.array([[0.0, 0.0], [1e6, 1e6], [20.0, 20.0], [-1e6, 1e6]])
    mine = ours.KMeans(4, init=start).fit(X)
    theirs = cluster.KMeans(4, init=start, n_init=1).fit(X)
    assert len(np.unique(mine.labels_)) == 4
    assert mine.inertia_ == pytest.approx(theirs.inertia_, rel=0.2)


def test_k_means_plus_plus_finds_clear_clusters_and_repeats_itself(rng):
    middles = rng.permutation(np.stack(np.meshgrid([0, 50, 100], [0, 50, 100]), -1).reshape(-1, 2)).astype(float)
    X = np.concatenate([middle + rng.normal(size=(40, 2)) for middle in middles])
    first = ours.KMeans(9, random_state=3).fit(X)
    again = ours.KMeans(9, random_state=3).fit(X)
    np.testing.assert_array_equal(first.cluster_centers_, again.cluster_centers_)
    found = first.cluster_centers_[ours.KMeans.predict(first, middles)]
    assert np.abs(found - middles).max() < 1
    assert ours.KMeans(9, random_state=4).fit_predict(X).shape == (360,)


def test_k_means_of_identical_rows():
    model = ours.KMeans(3, random_state=0).fit(np.full((5, 2), 0.1))
    assert model.inertia_ == pytest.approx(0, abs=1e-25)
    np.testing.assert_allclose(model.cluster_centers_, 0.1)


@pytest.mark.parametrize("M", [None, 1, 3, 0.5, 0.9])
@pytest.mark.parametrize("wide", [False, True])
def test_pca(classification, M, wide):
    X, _, X_new = classification
    if wide:
        X, M = X[:3], 2 if M == 3 else M
    mine, theirs = ours.PCA(M).fit(X), decomposition.PCA(M, svd_solver="full").fit(X)
    assert mine.n_components_ == theirs.n_components_
    sure = mine.singular_values_ > 1e-6 * mine.singular_values_[0]  # a direction without variance is any direction
    for name in ("components_", "explained_variance_", "explained_variance_ratio_", "singular_values_"):
        np.testing.assert_allclose(getattr(mine, name)[sure], getattr(theirs, name)[sure], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(mine.mean_, theirs.mean_, atol=1e-12)
    np.testing.assert_allclose(mine.transform(X_new)[:, sure], theirs.transform(X_new)[:, sure], rtol=1e-6, atol=1e-8)
    known = mine.inverse_transform(mine.fit_transform(X))
    np.testing.assert_allclose(known, theirs.inverse_transform(theirs.transform(X)), rtol=1e-6, atol=1e-8)
    if M is None:
        np.testing.assert_allclose(known, X, atol=1e-9)


def test_pca_takes_a_whole_number_of_any_type(classification):
    X = classification[0]
    for M in (2.0, np.int64(2)):
        np.testing.assert_array_equal(ours.PCA(M).fit(X).components_, ours.PCA(2).fit(X).components_)


# ---- the numbers that the notebook stores ----


def stored_numbers():
    """The dictionary `from_sklearn` of the notebook's comparison."""
    notebook = json.loads((ROOT / "00_Traditional_ML" / "traditional_ml.ipynb").read_text(encoding="utf-8"))
    source = next("".join(cell["source"]) for cell in notebook["cells"] if cell["id"] == "beside-numbers")
    (assignment,) = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "from_sklearn"
    ]
    return ast.literal_eval(assignment.value)


def test_numbers_beside_scikit_learn_are_its_own():
    table = datasets.ames_housing()
    X_train, X_test, y_train, y_test = model_selection.train_test_split(
        table.drop(columns="Sale_Price").to_numpy(float), table["Sale_Price"], test_size=0.2, random_state=0
    )
    scaler = preprocessing.StandardScaler().fit(X_train)
    ridge = linear_model.Ridge(100).fit(scaler.transform(X_train), y_train)
    m = datasets.mnist_embedded()
    x, x_test = m.x_train.reshape(-1, 784) / 255, m.x_test.reshape(-1, 784) / 255
    start = x[[np.flatnonzero(m.y_train == k)[0] for k in range(10)]]

    def accuracy(model):
        return model.fit(x, m.y_train).score(x_test, m.y_test)

    computed = {
        "line R2": linear_model.LinearRegression().fit(X_train, y_train).score(X_test, y_test),
        "ridge R2": ridge.score(scaler.transform(X_test), y_test),
        "neighbours": accuracy(neighbors.KNeighborsClassifier(3, algorithm="brute")),
        "naive Bayes": accuracy(naive_bayes.GaussianNB(var_smoothing=0.1)),
        "logistic": accuracy(linear_model.LogisticRegression(C=0.1, max_iter=1000)),
        "inertia": cluster.KMeans(10, init=start, n_init=1).fit(x).inertia_,
        "first component": decomposition.PCA(1, svd_solver="covariance_eigh").fit(x).explained_variance_ratio_[0],
    }
    assert {name: round(value, 4 if value < 1 else None) for name, value in computed.items()} == stored_numbers()


# ---- what is refused, and how ----

X_GOOD = np.random.default_rng(5).normal(size=(12, 3))
Y_GOOD = np.arange(12) % 2
REGRESSORS = [ours.LinearRegression, ours.Ridge]
CLASSIFIERS = [
    ours.LogisticRegression,
    ours.KNeighborsClassifier,
    ours.GaussianNB,
    ours.DecisionTreeClassifier,
]
UNSUPERVISED = [ours.StandardScaler, ours.KMeans, ours.PCA]
ALL = REGRESSORS + CLASSIFIERS + UNSUPERVISED
SUPERVISED = REGRESSORS + CLASSIFIERS


def with_value(value, shape=(12, 3)):
    X = X_GOOD[: shape[0]].copy()
    X[4, 1] = value
    return X


BAD_X = [
    (with_value(np.nan), "X contains NaN or infinity, first at row 4, column 1"),
    (with_value(-np.inf), "X contains NaN or infinity, first at row 4, column 1"),
    (X_GOOD[:, 0], r"X must be a matrix \(N, D\), got shape \(12,\).*reshape"),
    (X_GOOD[None], r"X must be a matrix \(N, D\), got shape \(1, 12, 3\)"),
    (np.empty((0, 3)), r"X is empty, its shape is \(0, 3\)"),
    (np.empty((12, 0)), r"X is empty, its shape is \(12, 0\)"),
    ([["a", "b"]] * 12, "X must be a matrix .* of real numbers: got dtype <U1"),
    ([["1", "2"]] * 12, "X must be a matrix .* of real numbers: got dtype <U1"),
    ([[1.0, 2.0], [3.0]] * 6, "X must be a matrix .* of real numbers"),
    (X_GOOD + 1j, "X must be a matrix .* of real numbers: got dtype complex128"),
    (np.full((12, 3), {}), "X must be a matrix .* of real numbers"),
]
BAD_Y = [
    (Y_GOOD[:-1], r"for each of the 12 rows of X, got shape \(11,\)"),
    (np.where(np.arange(12) == 3, np.nan, Y_GOOD), "y.*NaN"),
    (np.array(3.0), r"got shape \(\)"),
]


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize(("X", "words"), BAD_X)
def test_fit_refuses_bad_rows(model, X, words):
    with pytest.raises(ValueError, match=rf"{model.__name__}\.fit: {words}"):
        model().fit(X, Y_GOOD)


@pytest.mark.parametrize("model", SUPERVISED)
@pytest.mark.parametrize(("y", "words"), BAD_Y)
def test_fit_refuses_bad_targets(model, y, words):
    with pytest.raises(ValueError, match=rf"{model.__name__}\.fit: .*{words}"):
        model().fit(X_GOOD, y)


@pytest.mark.parametrize("model", CLASSIFIERS)
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.full(12, 7), "at least two classes, it holds only .*7"),
        (Y_GOOD[:, None], r"one label for each of the 12 rows of X, got shape \(12, 1\)"),
        (Y_GOOD + 0.5, "class labels, but it holds .* fractions"),
        (np.where(Y_GOOD, "a", None), "numbers or strings as labels, and nothing missing"),
        (Y_GOOD + 1j, "numbers or strings as labels"),
    ],
)
def test_classifiers_refuse_bad_labels(model, y, words):
    with pytest.raises(ValueError, match=rf"{model.__name__}\.fit: y must .*{words}"):
        model().fit(X_GOOD, y)


@pytest.mark.parametrize(
    "y", [["b", "a", "b", "c"], np.array(["b", "a", "b", "c"], object), [2, -1, 2, 7.0], [True, False, True, True]]
)
def test_labels_become_sorted_classes_and_their_places(y):
    classes, index = ours.as_classes(y, 4, "here")
    assert list(classes) == sorted(set(y))
    assert [classes[i] for i in index] == list(y)


@pytest.mark.parametrize("X", [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], np.uint8), np.array([[1, 2], [3, 4]], object)])
def test_whatever_holds_numbers_becomes_a_matrix_of_float64(X):
    matrix = ours.as_matrix(X, "here")
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, [[1.0, 2.0], [3.0, 4.0]])


def test_perceptron_and_traditional_models_share_one_pair_of_checks():
    from shared import perceptron

    assert perceptron.as_matrix is ours.as_matrix and perceptron.as_classes is ours.as_classes


@pytest.mark.parametrize("model", ALL)
def test_new_data_are_checked_too(model):
    fitted = model().fit(X_GOOD, Y_GOOD)
    use = fitted.predict if hasattr(fitted, "predict") else fitted.transform
    for X, words in BAD_X[:3]:
        with pytest.raises(ValueError, match=words):
            use(X)
    with pytest.raises(ValueError, match="X has 2 features, but fit saw 3"):
        use(X_GOOD[:, :2])


METHODS = [
    (model, name)
    for model in ALL
    for name in (
        "predict",
        "predict_proba",
        "decision_function",
        "transform",
        "inverse_transform",
        "kneighbors",
        "apply",
        "predict_joint_log_proba",
    )
    if hasattr(model, name)
]


@pytest.mark.parametrize(("model", "name"), METHODS)
def test_nothing_works_before_fit(model, name):
    with pytest.raises(ours.NotFittedError, match=rf"{model.__name__}\..*call fit first"):
        getattr(model(), name)(X_GOOD)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ours.LinearRegression(solver="magic"), "solver must be"),
        (ours.LinearRegression(solver="gd", lr=0), "lr must be positive"),
        (ours.LinearRegression(solver="gd", max_iter=0), "lr must be positive and max_iter at least 1"),
        (ours.Ridge(-1), "alpha must be 0 or more, got -1"),
        (ours.LogisticRegression(0), "C must be positive, got 0"),
        (ours.LogisticRegression(solver="lbfgs"), "solver must be"),
        (ours.LogisticRegression(solver="gd", max_iter=0), "lr must be positive and max_iter at least 1"),
        (ours.LogisticRegression(solver="gd", lr=-1), "lr must be positive and max_iter at least 1"),
        (ours.KNeighborsClassifier(13), "n_neighbors=13, but X has only 12 rows"),
        (ours.KNeighborsClassifier(0), "n_neighbors must be at least 1, got 0"),
        (ours.KNeighborsClassifier(weights="age"), "weights: 'uniform' or 'distance'"),
        (ours.GaussianNB(var_smoothing=-1), "var_smoothing must be 0 or more"),
        (ours.DecisionTreeClassifier(max_depth=0), "max_depth must be 1 or more"),
        (ours.DecisionTreeClassifier(min_samples_leaf=0), "min_samples_leaf must be 1 or more"),
        (ours.DecisionTreeClassifier(min_samples_split=1), "min_samples_split must be 2 or more"),
        (ours.KMeans(13), "n_clusters=13, but X has 12 rows"),
        (ours.KMeans(2, n_init=0), "n_init and max_iter must be at least 1"),
        (ours.KMeans(2, init="random"), "init must be 'k-means"),
        (ours.KMeans(2, init=np.zeros((3, 3))), r"init must have the shape \(2, 3\), got \(3, 3\)"),
        (ours.KMeans(2, init=np.full((2, 3), np.nan)), "init: X contains NaN"),
        (ours.PCA(4), r"n_components=4, but X \(12, 3\) has 1 to 3"),
        (ours.PCA(0), "n_components=0"),
        (ours.PCA(1.5), "n_components=1.5"),
    ],
    ids=repr,
)
def test_fit_refuses_bad_settings(model, words):
    with pytest.raises(ValueError, match=rf"{type(model).__name__}\.fit: {words}"):
        model.fit(X_GOOD, Y_GOOD)


def test_further_refusals():
    with pytest.raises(ValueError, match="at least two rows"):
        ours.PCA().fit([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"X has 2 columns, but there are 1 components"):
        ours.PCA(1).fit(X_GOOD).inverse_transform(X_GOOD[:, :2])
    with pytest.raises(ValueError, match="n_neighbors=13, but there are 12 training rows"):
        ours.KNeighborsClassifier(2).fit(X_GOOD, Y_GOOD).kneighbors(X_GOOD, 13)
    with pytest.raises(ValueError, match="constant within a class; set var_smoothing"):
        ours.GaussianNB(var_smoothing=0).fit(np.ones((4, 1)), [0, 0, 1, 1])


@pytest.mark.parametrize("model", ALL)
def test_fit_returns_the_model_keeps_its_input_and_prints_its_settings(model):
    X, y = X_GOOD.copy(), Y_GOOD.copy()
    fitted = model()
    assert fitted.fit(X, y) is fitted
    np.testing.assert_array_equal(X, X_GOOD)
    np.testing.assert_array_equal(y, Y_GOOD)
    assert fitted.n_features_in_ == 3
    assert repr(fitted) == repr(model())
    assert repr(fitted).startswith(model.__name__ + "(")


# ---- size ----


def test_neighbours_on_mnist_need_little_memory():
    """10,000 x 10,000 pictures in under 1 GB; a fresh process, so that its peak memory is its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from Linux's /proc; getrusage would also count the process that started this one")
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from shared import datasets\nfrom shared.traditional_ml import KNeighborsClassifier\n"
        "m = datasets.mnist_embedded()\n"
        "model = KNeighborsClassifier(3).fit(m.x_train.reshape(-1, 784) / 255, m.y_train)\n"
        "score = model.score(m.x_test.reshape(-1, 784) / 255, m.y_test)\n"
        "print(score, Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    accuracy, peak = map(float, run.stdout.split())
    assert accuracy == 0.9463
    assert 1024 * peak < 1e9


def test_the_import_needs_nothing_but_numpy():
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport numpy\nbefore = set(sys.modules)\nimport shared.traditional_ml\n"
        "print(*sorted({n.split('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert run.stdout == "shared\n"


def test_logistic_regression_on_mnist():
    m = datasets.mnist_embedded()
    model = ours.LogisticRegression(0.03, tol=1e-4).fit(m.x_train.reshape(-1, 784) / 255, m.y_train)
    assert model.score(m.x_test.reshape(-1, 784) / 255, m.y_test) > 0.905
