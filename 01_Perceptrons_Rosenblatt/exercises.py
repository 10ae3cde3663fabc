"""The exercises of chapter 01, their oracles, and the mistakes that learners make."""

import warnings

import numpy as np

from shared import datasets
from shared.checks import Exercise, Mistake
from shared.perceptron import Perceptron

OBJECTIVES = (
    "apply the perceptron rule and explain it as geometry",
    "prove the convergence theorem and compute its bound",
    "say why averaging helps, and compute the average cheaply",
    "derive the delta rule",
    "prove that XOR is out of reach, and mend it with features",
)


def examples(rng, n, d):
    """Random rows (n, d) and targets (n,) of -1 and +1, both present."""
    return rng.normal(size=(n, d)) + 0.3, rng.permutation(np.where(np.arange(n) % 3, 1, -1))


# --- 01.1 One step of the rule ----------------------------------------------------------------------------------------


def step_cases(rng):
    """Mistakes, right answers, and ties, for both targets."""
    cases = [(rng.normal(size=d), rng.normal(size=d), t) for d in (2, 3, 5) for t in (-1, 1, -1, 1)]
    return [*cases, (np.zeros(4), rng.normal(size=4), 1), (np.zeros(3), rng.normal(size=3), -1)]


def rule(w, x, t, mistake=lambda t, s: t * s <= 0, change=lambda x, t: t * x):
    """The rule, with the places where it is often got wrong as parameters."""
    return w + change(x, t) if mistake(t, w @ x) else w.copy()


STEP = Exercise(
    "01.1",
    "one step of the rule",
    1,
    10,
    OBJECTIVES[0],
    expected=rule,
    cases=step_cases,
    mistakes=[
        Mistake(
            "it changes the weights even where the prediction is right; the rule learns from mistakes only",
            lambda w, x, t: rule(w, x, t, mistake=lambda t, s: True),
        ),
        Mistake(
            "a score of 0 must count as a mistake: from zero weights, this never begins to learn",
            lambda w, x, t: rule(w, x, t, mistake=lambda t, s: t * s < 0),
        ),
        Mistake(
            "a score of 0 must count as a mistake for both targets; here it passes for the target +1",
            lambda w, x, t: rule(w, x, t, mistake=lambda t, s: (1 if s >= 0 else -1) != t),
        ),
        Mistake(
            "a score of 0 must count as a mistake for both targets; here it passes for the target -1",
            lambda w, x, t: rule(w, x, t, mistake=lambda t, s: (1 if s > 0 else -1) != t),
        ),
        Mistake("the step goes the wrong way: towards t * x, not away from it",
                lambda w, x, t: rule(w, x, -t, lambda t, s: t * s >= 0)),
        Mistake("the target is missing from the step: a negative example must be subtracted",
                lambda w, x, t: rule(w, x, t, change=lambda x, t: x)),
        Mistake("it changes the weights where the prediction is right, and leaves them where it is wrong",
                lambda w, x, t: rule(w, x, t, mistake=lambda t, s: t * s > 0)),
    ],
)

# --- 01.2 Predict, then run -------------------------------------------------------------------------------------------

PREDICT = Exercise(
    "01.2",
    "predict, then run",
    1,
    10,
    OBJECTIVES[0],
    expected=(0, -3, 1, 7),
    mistakes=[
        Mistake("the weights are right; count every update, those of all passes", (0, -3, 1, 4)),
        Mistake("these are the weights after the first pass; go on until a whole pass is without mistake", (-1, -2, -1, 3)),
        Mistake("these are the weights after the second pass; in the third, (1, 0) has the score 0, and a tie is a mistake",
                (0, -2, 0, 4)),
        Mistake("without the bias: it changes by t at every update, together with the weights", (1, -3, 0, 8)),
        Mistake("without the tie: a score of 0 is a mistake, at the start too", (0, 0, 0, 0)),
    ],
)

# --- 01.3 The bound ---------------------------------------------------------------------------------------------------


def bound_cases(rng):
    """Separable data with a separator that is not of length 1."""
    cases = []
    for n, d in ((7, 2), (5, 4), (9, 3)):
        w = 3 * rng.normal(size=d)
        X = rng.normal(size=(n, d))
        t = np.where(np.arange(n) % 3, 1, -1)
        X = X + np.outer(t * (0.3 + rng.random(n)) - X @ w / (w @ w), w)  # each row at its own distance from the line
        cases.append((X, t, w))
    return cases


def bound(X, t, w):
    """The reference: (R / gamma)**2."""
    return np.max(np.sum(X * X, axis=1)) / np.min(t * (X @ w) / np.linalg.norm(w)) ** 2


BOUND = Exercise(
    "01.3",
    "the bound",
    2,
    15,
    OBJECTIVES[1],
    expected=bound,
    cases=bound_cases,
    mistakes=[
        Mistake("the margin is a distance: divide w by its length first", lambda X, t, w: bound(X, t, w) / (w @ w)),
        Mistake("the square is missing: the bound is (R / gamma)**2", lambda X, t, w: np.sqrt(bound(X, t, w))),
        Mistake("the margin is the distance of the nearest row, not the mean distance",
                lambda X, t, w: np.max(np.sum(X * X, axis=1)) / np.mean(t * (X @ w) / np.linalg.norm(w)) ** 2),
        Mistake("R is the length of the longest row, not of the whole table",
                lambda X, t, w: np.sum(X * X) / np.min(t * (X @ w) / np.linalg.norm(w)) ** 2),
        Mistake("R is the length of the longest row, not its largest entry",
                lambda X, t, w: np.max(X * X) / np.min(t * (X @ w) / np.linalg.norm(w)) ** 2),
        Mistake("the targets are missing: a negative row on its own side has a positive distance",
                lambda X, t, w: np.max(np.sum(X * X, axis=1)) / np.min((X @ w) / np.linalg.norm(w)) ** 2),
    ],
)

# --- 01.4 Find the bug ------------------------------------------------------------------------------------------------


def average_cases(rng):
    """Overlapping data, so that mistakes go on, and one to three passes."""
    return [(*examples(rng, n, d), epochs) for n, d, epochs in ((8, 2, 1), (11, 3, 2), (6, 4, 3))]


def visits(X, t, epochs):
    """Yield the weights before each example, those after it, and whether it was a mistake."""
    w = np.zeros(X.shape[1])
    for _ in range(epochs):
        for x, target in zip(X, t, strict=True):
            before, wrong = w, target * (w @ x) <= 0
            w = w + target * x if wrong else w
            yield before, w, wrong


def averaged_weights(X, t, epochs):
    """The reference, by definition: the mean of the weights after each example."""
    return np.mean([after for _, after, _ in visits(X, t, epochs)], axis=0)


def mistakes_counted(X, t, epochs):
    """The bug that the notebook plants: `seen` counts mistakes only."""
    w, u, seen = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0
    for before, after, wrong in visits(X, t, epochs):
        w = after
        if wrong:
            u = u + seen * (after - before)
            seen += 1
    return w - u / seen


def counted_first(X, t, epochs):
    """`seen` goes up before the update, so that every update counts once too little."""
    u = np.zeros(X.shape[1])
    for seen, (before, after, _) in enumerate(visits(X, t, epochs), 1):
        u, w = u + seen * (after - before), after
    return w - u / seen


def started_at_one(X, t, epochs):
    """`seen` begins at 1, so that it counts one example too many all along."""
    T = epochs * len(X)
    w, mean = list(visits(X, t, epochs))[-1][1], averaged_weights(X, t, epochs)
    return w - (T * (w - mean) + w) / (T + 1)


AVERAGE = Exercise(
    "01.4",
    "find the bug",
    2,
    15,
    OBJECTIVES[2],
    expected=averaged_weights,
    cases=average_cases,
    mistakes=[
        Mistake("this is still the function with the bug: it averages over mistakes, not over examples", mistakes_counted),
        Mistake("off by one: this is the mean of the weights before each example; let seen go up after the update",
                counted_first),
        Mistake("seen begins at 0: nothing has been seen before the first example", started_at_one),
        Mistake("these are the last weights, not their mean", lambda X, t, epochs: list(visits(X, t, epochs))[-1][1]),
        Mistake("this is the mean of the weights at the end of each pass; the mean is over every example",
                lambda X, t, epochs: np.mean([after for _, after, _ in visits(X, t, epochs)][len(X) - 1 :: len(X)], axis=0)),
    ],
)

# --- 01.5 The delta rule with a brake ---------------------------------------------------------------------------------


def delta_cases(rng):
    """Random weights and data of unequal shapes, with unequal rates."""
    return [(rng.normal(size=d), *examples(rng, n, d), lr, decay) for n, d, lr, decay in ((7, 3, 0.3, 0.2), (5, 4, 0.05, 1.5))]


def delta(w, X, t, lr, decay):
    """The reference: one batch step on half the mean squared error with decay."""
    return w + lr * (X.T @ (t - X @ w) / len(X) - decay * w)


DELTA = Exercise(
    "01.5",
    "the delta rule with a brake",
    2,
    20,
    OBJECTIVES[3],
    expected=delta,
    cases=delta_cases,
    mistakes=[
        Mistake("off by 1/N: the loss is a mean over the examples",
                lambda w, X, t, lr, decay: delta(w, X, t, lr * len(X), decay / len(X))),
        Mistake("the brake has the wrong sign: it pushes the weights away from zero",
                lambda w, X, t, lr, decay: delta(w, X, t, lr, -decay)),
        Mistake("the 2 of the square cancels against the 2 below the mean",
                lambda w, X, t, lr, decay: delta(w, X, t, 2 * lr, decay / 2)),
        Mistake("the brake is missing",
                lambda w, X, t, lr, decay: delta(w, X, t, lr, 0)),
        Mistake("the step climbs: go against the gradient",
                lambda w, X, t, lr, decay: delta(w, X, t, -lr, decay)),
        Mistake("off by a factor of 2 in the brake: the derivative of w**2 / 2 is w",
                lambda w, X, t, lr, decay: delta(w, X, t, lr, decay / 2)),
        Mistake("the error is taken from the sign of the score; ADALINE compares the target with the score itself",
                lambda w, X, t, lr, decay: w + lr * (X.T @ (t - np.sign(X @ w)) / len(X) - decay * w)),
    ],
)

# --- 01.6 Make XOR separable ------------------------------------------------------------------------------------------


def noisy_xor(rng, n):
    """Points (n, 2) at least 0.3 from both axes, and +1 where the signs of the inputs differ."""
    X = rng.choice([-1, 1], (n, 2)) * rng.uniform(0.3, 2, (n, 2))
    return X, np.where(X[:, 0] * X[:, 1] < 0, 1, -1)


def judge_features(features):
    """None where a perceptron converges on the features of noisy XOR, else what is wrong."""
    X, t = noisy_xor(np.random.default_rng(4), 120)
    made = features(X.copy())
    if made is None or made is ...:
        raise NotImplementedError
    made = np.asarray(made, dtype=float)
    if made.ndim != 2 or len(made) != len(X):
        return f"features must have one row for each of the {len(X)} points, got shape {made.shape}"
    if not np.isfinite(made).all():
        return "some features are NaN or infinite"
    order = np.random.default_rng(5).permutation(len(X))[:50]
    if not np.allclose(features(X[order].copy()), made[order]):
        return "a row's features change with the other rows: compute each row from its own two inputs alone"
    linear = np.column_stack([X, np.ones(len(X))])
    if np.allclose(linear @ np.linalg.lstsq(linear, made, rcond=None)[0], made):
        return "these features are linear in the inputs, and a line of lines is a line: something must bend"
    bent = np.column_stack([X[:, 0] * X[:, 1], made])
    bent -= linear @ np.linalg.lstsq(linear, bent, rcond=None)[0]  # what is not linear in the product and the features
    product, *bent = bent.T[[True, *(np.ptp(bent[:, 1:], axis=0) > 1e-9)]]
    if any(abs(np.corrcoef(f, product)[0, 1]) > 1 - 1e-9 for f in bent):
        return "that is the product of the inputs, which the notebook has used already; find another way"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Perceptron(max_epochs=1000).fit(made, t)
    if not model.converged_:
        return f"a perceptron on these features still makes {model.mistakes_[-1]} mistakes of {len(X)}: they do not separate XOR"
    return None


def solve_xor(X):
    """The reference: |a + b| is the larger one where the signs agree, |a - b| where they differ."""
    return np.abs(np.column_stack([X[:, 0] + X[:, 1], X[:, 0] - X[:, 1]]))


XOR = Exercise(
    "01.6",
    "make XOR separable",
    2,
    20,
    OBJECTIVES[4],
    expected=solve_xor,
    judge=judge_features,
    mistakes=[
        Mistake("these features are linear in the inputs, and a line of lines is a line: something must bend",
                lambda X: np.column_stack([X, X[:, 0] + X[:, 1]])),
        Mistake("that is the product of the inputs, which the notebook has used already; find another way",
                lambda X: np.column_stack([X, 3 * X[:, 0] * X[:, 1] + X[:, 0]])),
        Mistake("a row's features change with the other rows: compute each row from its own two inputs alone",
                lambda X: np.abs(solve_xor(X) - solve_xor(X).mean(0))),
        Mistake("features must have one row for each of the 120 points, got shape (2, 120)", lambda X: solve_xor(X).T),
        Mistake("some features are NaN or infinite", lambda X: np.full(X.shape, np.nan)),
    ],
)

# --- 01.7 Open: association units -------------------------------------------------------------------------------------


def random_units(images, units=2000, wires=10, seed=7):
    """Association units: each sums `wires` random pixels of `images` (N, 28, 28) with random signs; on if positive."""
    rng = np.random.default_rng(seed)
    wiring = np.zeros((784, units))
    for unit in range(units):
        wiring[rng.choice(784, wires, replace=False), unit] = rng.choice([-1, 1], wires)
    return (images.reshape(-1, 784).astype(float) @ wiring > 0).astype(float)


def read_digits():
    """The reference: an averaged perceptron on random association units reads the test digits."""
    digits, model = datasets.mnist_embedded(), Perceptron(averaged=True)
    features = random_units(digits.x_train)
    for _ in range(5):
        model.partial_fit(features, digits.y_train)
    return model.predict(random_units(digits.x_test))


def judge_digits(predicted):
    """None where at least 93 % of the test digits are right, else what is wrong."""
    truth, predicted = datasets.mnist_embedded().y_test, np.asarray(predicted)
    if predicted.shape == (len(truth), 10):
        return "these are scores, (10000, 10); the prediction is the class with the highest score"
    if predicted.shape != truth.shape:
        return f"pass one predicted digit for each test picture, shape {truth.shape}; got {predicted.shape}"
    accuracy = np.mean(predicted == truth)
    if accuracy > 0.999:
        return "these are the test labels themselves; predict them from the pictures"
    if np.mean(predicted == datasets.mnist_embedded().y_train) > 0.5:
        return "these are predictions for the training pictures; the target is on x_test"
    if accuracy < 0.93:
        return f"{accuracy:.1%} of the test digits are right; the target is 93 %"
    return None


TRUTH = datasets.mnist_embedded()
OPEN = Exercise(
    "01.7",
    "open: association units",
    3,
    45,
    OBJECTIVES[4],
    expected=read_digits,
    judge=judge_digits,
    mistakes=[
        Mistake("these are the test labels themselves; predict them from the pictures", TRUTH.y_test),
        Mistake("these are predictions for the training pictures; the target is on x_test", TRUTH.y_train),
        Mistake("these are scores, (10000, 10); the prediction is the class with the highest score", np.eye(10)[TRUTH.y_test]),
        Mistake("90.0% of the test digits are right; the target is 93 %",
                np.where(np.arange(10_000) % 10, TRUTH.y_test, (TRUTH.y_test + 1) % 10)),
        Mistake("pass one predicted digit for each test picture, shape (10000,); got (9999,)", TRUTH.y_test[1:]),
    ],
)

EXERCISES = [STEP, PREDICT, BOUND, AVERAGE, DELTA, XOR, OPEN]
