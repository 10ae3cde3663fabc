"""The perceptron: learning from mistakes alone

Exported from 01_Perceptrons_Rosenblatt/perceptron.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import warnings

import numpy as np

from shared.traditional_ml import NotFittedError, accuracy_score, as_classes, as_matrix

__all__ = [
    "Adaline",
    "ConvergenceWarning",
    "Perceptron",
    "convergence_bound",
    "margin",
]


def _two_classes(y, count, who):
    """The two classes of the labels `y`, and targets (N,): -1 for the first, +1 for the second."""
    classes, index = as_classes(y, count, who)
    if len(classes) > 2:
        raise ValueError(f"{who}: y must hold two classes, got {len(classes)}")
    return classes, 2.0 * index - 1.0


def margin(X, y, coef, intercept=0.0):
    """Geometric margin of a separator: the least signed distance of a point, in the units of `X`.

    X : (N, D) points. y : (N,) labels of two classes; the larger one is the positive side.
    coef, intercept : weights (D,), or (1, D) as in `Perceptron.coef_`, and bias of the line
    w.x + b = 0.
    Positive exactly where every point lies on its own side. Raises ValueError on bad shapes and on
    zero weights.
    Source: Novikoff (1962); "The convergence theorem" in this chapter's notebook.
    """
    X = as_matrix(X, "margin")
    _, t = _two_classes(y, len(X), "margin")
    w, b = np.ravel(coef).astype(float), np.ravel(intercept).astype(float)
    if w.shape != (X.shape[1],) or b.shape != (1,):
        raise ValueError(f"margin: X has {X.shape[1]} columns, so coef needs as many weights "
                         f"(and intercept one number); got {w.size} and {b.size}")
    length = np.linalg.norm(w)
    if not (np.isfinite(length) and np.isfinite(b[0]) and length > 0):
        raise ValueError("margin: coef and intercept must be finite, and coef not all zero, "
                         "which has no direction")
    return float(np.min(t * (X @ w + b)) / length)


def convergence_bound(X, y, coef, intercept=None):
    """The most updates that the perceptron can make before it separates the data: (R / gamma)**2.

    X, y, coef, intercept : as for `margin`; any separator will do, and the one of widest margin
    gives the best bound.
    With an intercept the bias is the weight of an extra input that is always 1: R is then the
    largest length of (x, 1), and gamma the margin of (coef, intercept) on these. Without one
    (None), R and gamma are those of `X` itself.
    Raises ValueError where the line does not separate the classes. Source: Novikoff (1962); Block
    (1962).
    """
    X, w = as_matrix(X, "convergence_bound"), np.ravel(coef)
    if intercept is not None:
        X, w = np.column_stack([X, np.ones(len(X))]), np.append(w, intercept)
    gamma = margin(X, y, w)
    if gamma <= 0:
        raise ValueError("convergence_bound: coef and intercept do not separate the classes "
                         f"(margin {gamma:.3g})")
    return float(np.max(np.sum(X * X, axis=1)) / gamma**2)


class ConvergenceWarning(UserWarning):
    """A perceptron still made mistakes after `max_epochs`: perhaps no line separates the data."""


def _positive_integer(value, name):
    """Raise ValueError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


class _LinearClassifier:
    """What a fitted linear classifier does with `coef_` (K, D), `intercept_` (K,), `classes_`."""

    def decision_function(self, X):
        """Scores of `X` (N, D): (N,) for two classes, positive for the second; (N, K) for more."""
        who = f"{type(self).__name__}.decision_function"
        if not hasattr(self, "coef_"):
            raise NotFittedError(f"{who}: nothing has been learnt yet, call fit first")
        X = as_matrix(X, who)
        if X.shape[1] != self.coef_.shape[1]:
            raise ValueError(f"{who}: X has {X.shape[1]} columns, fit saw {self.coef_.shape[1]}")
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X):
        """The class of each row of `X` (N, D), as an array (N,).

        Raises ValueError as `decision_function` does.
        """
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    def score(self, X, y):
        """Fraction of the rows of `X` (N, D) that get their own label of `y` (N,)."""
        return accuracy_score(y, self.predict(X))


class Perceptron(_LinearClassifier):
    """Rosenblatt's perceptron for two or more classes: its weights change at mistakes only.

    Parameters
    ----------
    averaged : keep the mean of the weights after every example seen, in place of the last ones.
    max_epochs : passes over the data after which `fit` gives up and warns.
    fit_intercept : learn a bias, as the weight of an extra input that is always 1.
    shuffle, random_state : visit the examples in a new random order each epoch, drawn from this
    seed.

    After `fit`: `coef_` (K, D), `intercept_` (K,), with one row where there are two classes, as in
    scikit-learn; `classes_`; `mistakes_`, their number in each epoch; `n_iter_`, epochs;
    `converged_`, whether the last was clean (with `averaged` this is said of the weights that
    learn: their mean may still err on the data).
    Raises ValueError on parameters out of range.
    Sources: Rosenblatt (1958, 1962); Freund and Schapire (1999) for the average; Crammer and
    Singer (2003) for many classes.
    """

    def __init__(
        self, *, averaged=False, max_epochs=100, fit_intercept=True, shuffle=False, random_state=0
    ):
        _positive_integer(max_epochs, "Perceptron: max_epochs")
        self.averaged, self.max_epochs, self.fit_intercept = averaged, max_epochs, fit_intercept
        self.shuffle, self.random_state = shuffle, random_state

    def fit(self, X, y):
        """Learn from `X` (N, D), labels `y` (N,) until an epoch is without mistake; returns self.

        Warns (ConvergenceWarning) where `max_epochs` do not suffice. Raises ValueError on bad input.
        """
        X = as_matrix(X, "Perceptron.fit")
        classes, index = as_classes(y, len(X), "Perceptron.fit")
        self._start(classes, X.shape[1])
        while self.n_iter_ < self.max_epochs and not self.converged_:
            self._epoch(X, index)
        if not self.converged_:
            warnings.warn(f"Perceptron.fit: stopped after max_epochs={self.max_epochs} with "
                          f"{self.mistakes_[-1]} mistakes in the last epoch; perhaps no linear "
                          f"separator exists", ConvergenceWarning, stacklevel=2)
        return self

    def _start(self, classes, width):
        """Forget everything: zero weights, one row a class, the bias in the last column."""
        self.classes_, self.mistakes_, self.n_iter_, self.converged_ = classes, [], 0, False
        self._weights = np.zeros((len(classes), width + 1))
        self._late = np.zeros_like(self._weights)  # updates times the number of examples before
        self._seen = 0
        self._rng = np.random.default_rng(self.random_state)

    def partial_fit(self, X, y, classes=None):
        """One epoch over `X` (N, D) and `y` (N,) from where the weights stand; returns self.

        The first call begins at zero and needs all `classes` that may ever occur, unless `y` holds
        them all.
        Raises ValueError on bad input and on a label that is not among the classes.
        """
        who = "Perceptron.partial_fit"
        X = as_matrix(X, who)
        if not hasattr(self, "classes_"):
            classes = as_classes(y, len(X), who)[0] if classes is None else np.unique(classes)
            if len(classes) < 2:
                raise ValueError(f"{who}: classes must name at least two classes, "
                                 f"got {classes.tolist()}")
            self._start(classes, X.shape[1])
        if X.shape[1] + 1 != self._weights.shape[1]:
            raise ValueError(f"{who}: X has {X.shape[1]} columns, "
                             f"the first call saw {self._weights.shape[1] - 1}")
        if np.shape(y) != (len(X),) or not np.isin(y, self.classes_).all():
            raise ValueError(f"{who}: y must hold {len(X)} labels, "
                             f"all among {self.classes_.tolist()}")
        self._epoch(X, np.searchsorted(self.classes_, y))
        return self

    def _epoch(self, X, index):
        """Visit every row of `X` (N, D) once, of the classes with numbers `index` (N,), and learn."""
        bias_input = np.full(len(X), float(self.fit_intercept))  # the bias is the weight of a constant
        X = np.column_stack([X, bias_input])
        order = self._rng.permutation(len(X)) if self.shuffle else range(len(X))
        mistakes = 0
        for i in order:
            own, row = index[i], X[i]
            scores = self._weights @ row
            own_score, scores[own] = scores[own], -np.inf
            rival = scores.argmax()
            if own_score <= scores[rival]:  # a tie is a mistake too: at zero weights everything ties
                for k, sign in ((own, 1), (rival, -1)):
                    self._weights[k] += sign * row
                    self._late[k] += sign * self._seen * row
                mistakes += 1
            self._seen += 1
        self.mistakes_.append(mistakes)
        self.n_iter_, self.converged_ = len(self.mistakes_), mistakes == 0
        weights = self._weights - self._late / self._seen if self.averaged else self._weights.copy()
        if len(self.classes_) == 2:  # of the two rows, one is the other's negative
            weights = weights[1:]
        self.coef_, self.intercept_ = weights[:, :-1], weights[:, -1]


class Adaline(_LinearClassifier):
    """ADALINE, the adaptive linear neuron: descends the squared error of scores, for two classes.

    Parameters
    ----------
    lr : learning rate, above 0.
    epochs : passes over the data.
    online : change the weights after every example (the delta rule of 1960) instead of once an
    epoch with the mean.
    shuffle, random_state : with `online`, a new random order each epoch, drawn from this seed.

    After `fit`: `coef_` (1, D), `intercept_` (1,), `classes_`, and `losses_` (epochs + 1,): half
    the mean squared error, before the first epoch and after each. Raises ValueError on parameters
    out of range.
    Source: Widrow and Hoff (1960), Adaptive switching circuits.
    """

    def __init__(self, *, lr=0.01, epochs=100, online=False, shuffle=False, random_state=0):
        _positive_integer(epochs, "Adaline: epochs")
        number = isinstance(lr, int | float | np.number) and not isinstance(lr, bool)
        if not (number and 0 < lr < np.inf):
            raise ValueError(f"Adaline: lr must be a positive number, got {lr!r}")
        self.lr, self.epochs, self.online = lr, epochs, online
        self.shuffle, self.random_state = shuffle, random_state

    def fit(self, X, y):
        """Learn from `X` (N, D) and labels `y` (N,) of two classes; returns self.

        Raises ValueError on bad input, and where the loss grows because `lr` is too large.
        """
        X = as_matrix(X, "Adaline.fit")
        self.classes_, t = _two_classes(y, len(X), "Adaline.fit")
        X = np.column_stack([X, np.ones(len(X))])  # the bias is the weight of a constant input
        w, rng = np.zeros(X.shape[1]), np.random.default_rng(self.random_state)
        self.losses_ = [np.mean(t**2) / 2]
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported in words
            for _ in range(self.epochs):
                if self.online:
                    for i in rng.permutation(len(X)) if self.shuffle else range(len(X)):
                        w += self.lr * (t[i] - X[i] @ w) * X[i]
                else:
                    w += self.lr * (t - X @ w) @ X / len(X)
                self.losses_.append(np.mean((t - X @ w) ** 2) / 2)
                self._refuse_divergence(X)
        self.coef_, self.intercept_ = w[None, :-1], w[-1:]
        return self

    def _refuse_divergence(self, X):
        """Raise ValueError where the last loss shows that `lr` is too large for `X` (N, D + 1)."""
        # below 2 / lambda_max every full step descends; a single example's step may climb, but not far
        highest = 10 * self.losses_[0] if self.online else self.losses_[-2] + 1e-9
        if self.losses_[-1] <= highest:
            return
        steepest = np.linalg.norm(X, 2) ** 2 / len(X)  # the largest eigenvalue of X^T X / N
        if self.online:
            steepest = np.max(np.sum(X * X, axis=1))  # the same for a single example
        raise ValueError(f"Adaline.fit: the loss rose to {self.losses_[-1]:.3g} in epoch "
                         f"{len(self.losses_) - 1}, lr={self.lr:g} is too large: for these inputs, "
                         f"steps are safe below {2 / steepest:.3g}")
