"""The exercises of chapter 00: their oracles, and the mistakes that are told apart."""

import itertools
import tracemalloc

import numpy as np

from shared.checks import Exercise, Mistake

GRADIENTS = "1: derive a gradient and a learning rate's limit"
HONESTY = "2: measure honestly"
PROBABILITIES = "3: turn scores into probabilities"
WITHOUT_GRADIENTS = "4: build methods without gradients"
COMPRESSION = "5: compress data"

# ---- 00.2: the gradient of ridge ----


def ridge_gradient(X, y, w, b, alpha):
    """The gradient of mean((X w + b - y)^2) + alpha |w|^2 with respect to w and b."""
    error = X @ w + b - y
    return 2 * X.T @ error / len(y) + 2 * alpha * w, 2 * error.mean()


def _changed(dw=lambda g, X, w, alpha: g, db=lambda g, X, b, alpha: g):
    """The right gradient with a mistake in one of its parts."""

    def answer(X, y, w, b, alpha):
        right_w, right_b = ridge_gradient(X, y, w, b, alpha)
        return dw(right_w, X, w, alpha), db(right_b, X, b, alpha)

    return answer


def _ridge_cases(rng):
    return [
        (rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=d), rng.normal(), rng.uniform(0.3, 2))
        for n, d in [(7, 3), (4, 6), (9, 1)]
    ]


# ---- 00.3: standardising ----


def standardise(X_train, X_test):
    """Both parts, shifted and scaled by the training part's means and standard deviations."""
    mean, std = X_train.mean(0), X_train.std(0)
    return (X_train - mean) / std, (X_test - mean) / std


def _own_statistics(X_train, X_test):
    return standardise(X_train, X_train)[0], standardise(X_test, X_test)[0]


def _all_rows(X_train, X_test):
    rows = np.concatenate([X_train, X_test])
    return standardise(rows, X_train)[1], standardise(rows, X_test)[1]


def _one_mean(X_train, X_test):
    return tuple((part - X_train.mean()) / X_train.std() for part in (X_train, X_test))


def _scaled_by(scale):
    """Standardised with another measure of spread: a function of the training part."""

    def answer(X_train, X_test):
        return tuple((part - X_train.mean(0)) / scale(X_train) for part in (X_train, X_test))

    return answer


def _only_shifted(X_train, X_test):
    return X_train - X_train.mean(0), X_test - X_train.mean(0)


# ---- 00.4: the softmax gradient, mended ----


def softmax_gradient(Z, Y):
    """The gradient of the mean cross-entropy with respect to the logits Z (N, K), for one-hot Y (N, K)."""
    E = np.exp(Z - Z.max(1, keepdims=True))
    return (E / E.sum(1, keepdims=True) - Y) / len(Z)


def _softmax_without(shift=True, axis=1, mean=True):
    def answer(Z, Y):
        with np.errstate(all="ignore"):
            E = np.exp(Z - Z.max(1, keepdims=True) if shift else Z)
            return (E / E.sum(axis, keepdims=True) - Y) / (len(Z) if mean else 1)

    return answer


def _shifted_by_the_largest_of_all(Z, Y):
    with np.errstate(all="ignore"):
        E = np.exp(Z - Z.max())
        return (E / E.sum(1, keepdims=True) - Y) / len(Z)


def _bugs_left():
    """The function with two of its three bugs, and what to say about them."""
    words = {"shift": "large logits overflow", "axis": "the rows do not sum to 1", "mean": "the mean is forgotten"}
    bugs = {"shift": False, "axis": 0, "mean": False}
    return [
        Mistake(f"one bug is mended, two are left: {words[a]}, and {words[b]}", _softmax_without(**{a: bugs[a], b: bugs[b]}))
        for a, b in itertools.combinations(bugs, 2)
    ]


def _softmax_cases(rng):
    cases = [(rng.normal(size=(n, k)) * 3, np.eye(k)[rng.integers(0, k, n)]) for n, k in [(6, 4), (3, 5)]]
    return [*cases, (cases[0][0] + 2000 * rng.normal(size=(6, 1)), cases[0][1])]


# ---- 00.5: all distances at once ----


def squared_distances(A, B):
    """All squared distances between the rows of A (N, D) and of B (M, D): (N, M)."""
    return (A * A).sum(1)[:, None] - 2 * A @ B.T + (B * B).sum(1)


def _distances_and_size(answer, A, B):
    """What the answer returns, and whether it needed the memory of an array with three axes, (N, M, D)."""
    tracemalloc.start()
    try:
        result = answer(A, B)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if result is None or result is ...:
        return None
    return result, bool(peak > max(1_000_000, 4 * A.size * len(B)))  # half of such an array, where it is large


def _distances_cases(rng):
    return [(rng.normal(size=(n, d)), rng.normal(size=(m, d))) for n, m, d in [(5, 7, 3), (4, 4, 2), (90, 110, 60)]]


# ---- 00.6: the best cut ----


def _impurity(y):
    share = np.unique(y, return_counts=True)[1] / len(y)
    return 1 - (share**2).sum()


def _halfway(x):
    return (x[:-1] + x[1:]) / 2


def _cut(candidates=lambda x: _halfway(np.unique(x)), weigh=True, pick=min):
    """A search over cuts: which are tried, whether sides count by their rows, and which one wins."""

    def best_cut(x, y):
        found = []
        for t in candidates(x):
            left = x <= t
            if left.all():
                continue
            share = left.mean() if weigh else 0.5
            found.append((round(share * _impurity(y[left]) + (1 - share) * _impurity(y[~left]), 12), float(t)))
        impurity, threshold = pick(found)
        return threshold, impurity

    return best_cut


best_cut = _cut()


def _cut_cases(rng):
    cases = [(np.array([2.0, 0.0, 3.0, 1.0]), np.array([1, 0, 0, 1]))]  # two cuts are equally good
    for n, levels in [(12, 6), (30, 25), (20, 9)]:
        x = rng.integers(0, levels, n) * 1.7
        cases.append((x, (x + rng.normal(size=n) * levels / 3 > levels * rng.uniform(0.3, 0.9)).astype(int)))
    return cases


# ---- 00.7: compression ----


def rebuild(X, count):
    """X (N, D), as well as `count` principal components can say it."""
    mean = X.mean(0)
    V = np.linalg.svd(X - mean, full_matrices=False)[2][:count]
    return (X - mean) @ V.T @ V + mean


def _not_centred(X, count):
    V = np.linalg.svd(X, full_matrices=False)[2][:count]
    return X @ V.T @ V


def _columns_for_rows(X, count):
    mean = X.mean(0)
    V = np.linalg.svd(X - mean, full_matrices=False)[2][:, :count]
    return (X - mean) @ V @ V.T + mean


def _coordinates(X, count):
    return (X - X.mean(0)) @ np.linalg.svd(X - X.mean(0), full_matrices=False)[2][:count].T


def _last_components(X, count):
    mean = X.mean(0)
    V = np.linalg.svd(X - mean, full_matrices=False)[2][-count:]
    return (X - mean) @ V.T @ V + mean


# ---- 00.8: open ----

TARGET = 0.95


def judge_reader(read_digits):
    """None where `read_digits` reads at least 95 % of the first 2,000 test pictures, else what is wrong."""
    from shared import datasets

    digits = datasets.mnist_embedded()
    truth = digits.y_test[:2000]
    said = read_digits(digits.x_train.copy(), digits.y_train.copy(), digits.x_test[:2000].copy())
    if said is None:
        raise NotImplementedError
    said = np.asarray(said)
    if said.shape != truth.shape:
        return f"return one label for each test picture: expected the shape (2000,), got {said.shape}"
    accuracy = np.mean(said == truth)
    if accuracy < 0.2:
        return "hardly better than guessing: are the test pictures prepared exactly as the training pictures are?"
    if accuracy < TARGET:
        return f"the target is 95 %, this reads {accuracy:.1%}: what differs between two pictures of one digit?"
    return None


def _plain_neighbours(x_train, y_train, x_test):
    from shared.traditional_ml import KNeighborsClassifier

    rows = [x.reshape(len(x), -1)[:, ::3] / 255 for x in (x_train, x_test)]  # a third of the pixels: quick, and worse
    return KNeighborsClassifier(3).fit(rows[0], y_train).predict(rows[1])


EXERCISES = [
    Exercise(
        "00.1",
        "predict, then run: the largest learning rate",
        stars=1,
        minutes=10,
        objective=GRADIENTS,
        expected=3 / 14,
        rtol=5e-3,
        mistakes=[
            Mistake("that is 1 / λ, where one step arrives; the limit 2 / λ is where a step overshoots in full", 3 / 28),
            Mistake("the Hessian has a factor 2 from the square: λ = 2 · mean(x²)", 3 / 7),
            Mistake("the loss is a mean, not a sum: divide by N", 1 / 14),
            Mistake("two factors of the Hessian are missing, the 2 of the square and the 1/N of the mean", 1 / 7),
            Mistake("that is the Hessian λ itself; the limit is 2 / λ", 28 / 3),
            Mistake("the line goes through the origin: there is no intercept, and the Hessian is one number",
                    2 / np.linalg.eigvalsh(2 / 3 * np.array([[14, 6], [6, 3]])).max()),
        ],
    ),
    Exercise(
        "00.2",
        "derive: the gradient of ridge with an intercept",
        stars=2,
        minutes=20,
        objective=GRADIENTS,
        expected=ridge_gradient,
        cases=_ridge_cases,
        mistakes=[
            Mistake(
                "off by 1/N: the data's part is a mean",
                _changed(
                    lambda g, X, w, alpha: (g - 2 * alpha * w) * len(X) + 2 * alpha * w,
                    lambda g, X, b, alpha: g * len(X),
                ),
            ),
            Mistake("the penalty is missing from dw", _changed(lambda g, X, w, alpha: g - 2 * alpha * w)),
            Mistake("the derivative of alpha w² is 2 alpha w", _changed(lambda g, X, w, alpha: g - alpha * w)),
            Mistake(
                "the square gives a factor of 2, which is missing from the data's part",
                _changed(lambda g, X, w, alpha: g / 2 + alpha * w, lambda g, X, b, alpha: g / 2),
            ),
            Mistake(
                "the error lacks b: it is X w + b - y",
                lambda X, y, w, b, alpha: ridge_gradient(X, y, w, 0, alpha),
            ),
            Mistake("the penalty is not part of the mean: do not divide it by N",
                    lambda X, y, w, b, alpha: ridge_gradient(X, y, w, b, alpha / len(X))),
            Mistake("the intercept is not penalised", _changed(db=lambda g, X, b, alpha: g + 2 * alpha * b)),
            Mistake(
                "the sign is turned: the error is prediction minus truth",
                _changed(lambda g, X, w, alpha: -(g - 2 * alpha * w) + 2 * alpha * w, lambda g, X, b, alpha: -g),
            ),
        ],
    ),
    Exercise(
        "00.3",
        "standardise without looking at the test set",
        stars=1,
        minutes=10,
        objective=HONESTY,
        expected=standardise,
        cases=lambda rng: [
            (rng.normal(size=(n, d)) * [1, 10, 100][:d] + [5, -3, 40][:d], rng.normal(size=(m, d)) * 4 + 3)
            for n, m, d in [(9, 4, 3), (5, 7, 2)]
        ],
        mistakes=[
            Mistake("the test part was measured by itself: use the training part's mean and deviation", _own_statistics),
            Mistake("mean and deviation were taken over all rows: the test rows leaked into them", _all_rows),
            Mistake("one mean for everything: take it column by column, over axis 0", _one_mean),
            Mistake("shifted, but not scaled by the standard deviation", _only_shifted),
            Mistake("divided by the variance: the standard deviation is its root", _scaled_by(lambda X: X.var(0))),
            Mistake("the deviation was computed with N - 1; this course divides by N, as X.std(0) does",
                    _scaled_by(lambda X: X.std(0, ddof=1))),
        ],
    ),
    Exercise(
        "00.4",
        "find the bug: a softmax that fails in three ways",
        stars=2,
        minutes=20,
        objective=PROBABILITIES,
        expected=softmax_gradient,
        cases=_softmax_cases,
        mistakes=[
            Mistake("the bug at the axis is still there: each row must sum to 1", _softmax_without(axis=0)),
            Mistake("large logits still overflow: subtract each row's largest logit first", _softmax_without(shift=False)),
            Mistake("off by 1/N: the loss is a mean over the rows", _softmax_without(mean=False)),
            Mistake("nothing has changed yet: all three bugs are there", _softmax_without(False, 0, False)),
            *_bugs_left(),
            Mistake("subtract each row's own largest logit: with the largest of all, small rows become 0 / 0",
                    _shifted_by_the_largest_of_all),
            Mistake("divide by the number of rows, N, not by the number of all entries",
                    lambda Z, Y: softmax_gradient(Z, Y) / Z.shape[1]),
        ],
    ),
    Exercise(
        "00.5",
        "all distances at once",
        stars=2,
        minutes=15,
        objective=WITHOUT_GRADIENTS,
        expected=squared_distances,
        cases=_distances_cases,
        observe=_distances_and_size,
        mistakes=[
            Mistake(
                "the distances are right, but they took an array with three axes: let one matrix product do the work",
                lambda A, B: ((A[:, None] - B) ** 2).sum(2),
            ),
            Mistake("transposed: rows belong to A, columns to B", lambda A, B: squared_distances(B, A)),
            Mistake(
                "the cross term counts twice: |a - b|² = |a|² - 2 a·b + |b|²",
                lambda A, B: squared_distances(A, B) + A @ B.T,
            ),
            Mistake("the squared distance was asked for, not its root", lambda A, B: np.sqrt(squared_distances(A, B))),
            Mistake("the squared lengths are missing", lambda A, B: -2 * A @ B.T),
        ],
    ),
    Exercise(
        "00.6",
        "the best cut of one feature",
        stars=2,
        minutes=25,
        objective=WITHOUT_GRADIENTS,
        expected=best_cut,
        cases=_cut_cases,
        mistakes=[
            Mistake("both sides count alike: weigh each by its share of the rows", _cut(weigh=False)),
            Mistake("the threshold lies half-way between two values, not on one", _cut(lambda x: np.unique(x)[:-1])),
            Mistake("equal values have no half-way point: take each value of x once, with np.unique",
                    _cut(lambda x: _halfway(np.sort(x)))),
            Mistake("of equally good cuts the lowest was asked for, not the highest",
                    _cut(pick=lambda found: min(found, key=lambda cut: (cut[0], -cut[1])))),
            Mistake("the threshold comes first, then the impurity", lambda x, y: best_cut(x, y)[::-1]),
            Mistake("that is the worst cut: look for the smallest impurity", _cut(pick=max)),
        ],
    ),
    Exercise(
        "00.7",
        "rebuild a picture from a few components",
        stars=2,
        minutes=20,
        objective=COMPRESSION,
        expected=rebuild,
        cases=lambda rng: [
            (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3, k) for n, d, k in [(12, 5, 2), (6, 9, 3), (8, 4, 1)]
        ],
        mistakes=[
            Mistake("the data were not centred before the singular value decomposition", _not_centred),
            Mistake("the mean must be added again at the end", lambda X, count: rebuild(X, count) - X.mean(0)),
            Mistake("these are the components of the smallest variance", _last_components),
            Mistake("the directions are the rows of the third result, not its columns", _columns_for_rows),
            Mistake("these are the coordinates along the components; lead them back to D features", _coordinates),
        ],
    ),
    Exercise(
        "00.8",
        "open: 95 % without a network",
        stars=3,
        minutes=60,
        objective=HONESTY,
        judge=judge_reader,
        mistakes=[
            Mistake("the target is 95 %", _plain_neighbours),
            Mistake("hardly better than guessing", lambda x_train, y_train, x_test: np.ones(len(x_test), dtype=int)),
            Mistake("one label for each test picture", lambda x_train, y_train, x_test: np.eye(10)[: len(x_test)]),
        ],
    ),
]
