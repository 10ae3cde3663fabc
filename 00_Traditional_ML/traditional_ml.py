"""Traditional machine learning: lines, neighbours, trees

Exported from 00_Traditional_ML/traditional_ml.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
from typing import NamedTuple

import numpy as np

__all__ = [
    "PCA",
    "DecisionTreeClassifier",
    "GaussianNB",
    "KMeans",
    "KNeighborsClassifier",
    "LinearRegression",
    "LogisticRegression",
    "NotFittedError",
    "Ridge",
    "StandardScaler",
    "Tree",
    "accuracy_score",
    "as_classes",
    "as_matrix",
    "confusion_matrix",
    "r2_score",
    "root_mean_squared_error",
    "train_test_split",
]


def train_test_split(*arrays, test_size=0.25, random_state=None, shuffle=True, stratify=None):
    """Split arrays (N, ...) row by row: returns a_train, a_test, b_train, b_test, and so on.

    `test_size` is the test part's fraction (rounded up) or its number of rows. An integer
    `random_state` gives the rows, in their order, that scikit-learn's function of this name gives.
    With labels `stratify` (N,) both parts hold the classes in nearly equal proportions.

    Raises ValueError where lengths differ, or a part would be empty.
    """
    lengths = {len(a) for a in arrays}
    if len(lengths) != 1:
        raise ValueError("train_test_split: expected arrays of one length, "
                         f"got {[len(a) for a in arrays]}")
    n = lengths.pop()
    n_test = test_size if isinstance(test_size, int | np.integer) else int(np.ceil(test_size * n))
    if not 0 < n_test < n:
        raise ValueError(f"train_test_split: test_size={test_size} of {n} rows leaves "
                         "the training or test part empty")
    if stratify is not None:
        if not shuffle or len(stratify) != n:
            raise ValueError("train_test_split: stratify needs shuffle=True and "
                             f"{n} labels, got {len(stratify)}")
        train, test = _stratified(stratify, n - n_test, n_test, np.random.RandomState(random_state))
    elif shuffle:
        order = np.random.RandomState(random_state).permutation(n)
        test, train = order[:n_test], order[n_test:]
    else:
        train, test = np.arange(n - n_test), np.arange(n - n_test, n)
    tables = [a.iloc if hasattr(a, "iloc") else np.asarray(a) for a in arrays]
    return [table[rows] for table in tables for rows in (train, test)]


def _stratified(labels, n_train, n_test, rng):
    """Shuffled rows for the two parts, class by class, in scikit-learn's order of random draws."""
    classes, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if counts.min() < 2 or min(n_train, n_test) < len(classes):
        raise ValueError("train_test_split: stratify needs two rows of each class, "
                         "and parts not smaller than classes")
    in_train = _shares(counts, n_train, rng)
    in_test = _shares(counts - in_train, n_test, rng)
    parts = [], []
    for k, (a, b) in enumerate(zip(in_train, in_test, strict=True)):
        rows = np.flatnonzero(index == k)[rng.permutation(counts[k])]
        parts[0].append(rows[:a])
        parts[1].append(rows[a : a + b])
    return [rng.permutation(np.concatenate(part)) for part in parts]


def _shares(counts, total, rng):
    """Share `total` out in proportion to `counts`, in whole numbers, largest remainders first."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact).astype(int)
    for remainder in np.unique(exact - shares)[::-1]:
        tied = np.flatnonzero(exact - np.floor(exact) == remainder)
        missing = min(total - shares.sum(), len(tied))
        if missing > 0:
            shares[rng.choice(tied, missing, replace=False)] += 1
    return shares


def _pair(y_true, y_pred, who):
    """Both as arrays (N,) or (N, T) of one shape."""
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if y_true.shape != y_pred.shape or y_true.size == 0:
        raise ValueError(f"{who}: y_true {y_true.shape} and y_pred {y_pred.shape} "
                         "must have one shape, and not be empty")
    return y_true, y_pred


def root_mean_squared_error(y_true, y_pred):
    """The square root of the mean squared difference, in the unit of `y`.

    Raises ValueError where shapes differ.
    """
    y_true, y_pred = _pair(y_true, y_pred, "root_mean_squared_error")
    return float(np.sqrt(np.mean(np.subtract(y_true, y_pred, dtype=float) ** 2)))


def r2_score(y_true, y_pred):
    """R squared: the part of the variance of `y_true` (N,) that the predictions (N,) explain.

    1 is perfect, 0 is as good as always predicting the mean, below 0 is worse than that. Where
    `y_true` is constant it is 1 for perfect predictions, else 0. Raises ValueError where shapes
    differ or there are fewer than two values.
    """
    y_true, y_pred = _pair(y_true, y_pred, "r2_score")
    if len(y_true) < 2:
        raise ValueError("r2_score: at least two values are needed, one has no variance")
    unexplained = (np.subtract(y_true, y_pred, dtype=float) ** 2).sum(0)  # bytes would wrap around
    total = ((y_true - y_true.mean(0)) ** 2).sum(0)
    score = 1 - unexplained / np.where(total == 0, 1, total)
    return float(np.mean(np.where(total == 0, unexplained == 0, score)))


class NotFittedError(ValueError, AttributeError):
    """`predict`, `transform` or `score` was called before `fit` (named as in scikit-learn)."""


class _Estimator:
    """What all models share: checks of their input, whose messages name model and argument."""

    def __repr__(self):
        settings = [k for k in vars(self) if not k.startswith("_") and not k.endswith("_")]
        shown = ", ".join(f"{k}={getattr(self, k)!r}" for k in settings)
        return f"{type(self).__name__}({shown})"

    def _require(self, condition, message):
        if not condition:
            raise ValueError(f"{type(self).__name__}.fit: {message}")

    def _read(self, X, method):
        """New data for a fitted model, as a float64 matrix (N, D)."""
        who = f"{type(self).__name__}.{method}"
        if not hasattr(self, "n_features_in_"):
            raise NotFittedError(f"{who}: this model has not been fitted yet, call fit first")
        X = as_matrix(X, who)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"{who}: X has {X.shape[1]} features, "
                             f"but fit saw {self.n_features_in_}")
        return X


def as_matrix(X, who):
    """`X` as a float64 matrix (N, D). Raises ValueError, with `who` in front, where it is not one.

    Whole numbers and booleans are converted, text is not. Nothing may be missing or infinite.
    """
    try:
        X = np.asarray(X)
        if X.dtype.kind not in "biufO":
            raise TypeError(f"got dtype {X.dtype}")
        X = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:  # also rows of unequal length
        raise ValueError(f"{who}: X must be a matrix (N, D) of real numbers: {error}") from None
    if X.ndim != 2:
        hint = "; X.reshape(-1, 1) turns one feature into a column" if X.ndim == 1 else ""
        raise ValueError(f"{who}: X must be a matrix (N, D), got shape {X.shape}{hint}")
    if X.size == 0:
        raise ValueError(f"{who}: X is empty, its shape is {X.shape}")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(f"{who}: X contains NaN or infinity, first at row {row}, column {column}")
    return X


def as_classes(y, count, who):
    """The sorted classes (K,) in the labels `y`, and the place among them of each label: (N,).

    Labels are whole numbers, booleans or strings, one for each of the `count` rows of X, of at
    least two classes. Raises ValueError, with `who` in front, where they are not.
    """
    y = np.asarray(y)
    if y.shape != (count,):
        raise ValueError(f"{who}: y must have one label for each of the {count} rows of X, "
                         f"got shape {y.shape}")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise ValueError(f"{who}: y must hold class labels, but it holds "
                         "NaN, infinity or fractions")
    if y.dtype.kind not in "biufUS" and not all(isinstance(label, str) for label in y):
        raise ValueError(f"{who}: y must hold numbers or strings as labels, and nothing missing")
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{who}: y must hold at least two classes, it holds only {classes[0]!r}")
    return classes, index


def _numbers(y, count, who):
    """Targets `y` of a regression as float64, (N,) or (N, T), for the `count` rows of X."""
    try:
        y = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: y must be numbers: {error}") from error
    if y.ndim not in (1, 2) or len(y) != count:
        raise ValueError(f"{who}: y must have one value for each of the {count} "
                         f"rows of X, got shape {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError(f"{who}: y contains NaN or infinity, first at row "
                         f"{np.argwhere(~np.isfinite(y))[0][0]}")
    return y


class StandardScaler(_Estimator):
    """Shift and scale each feature so that the training data have mean 0 and standard deviation 1.

    After `fit`: `mean_`, `var_` and `scale_` (D,); a constant feature has scale 1.
    """

    def fit(self, X, y=None):
        """Measure mean and standard deviation of each column of `X` (N, D).

        Raises ValueError on bad `X`.
        """
        X = as_matrix(X, "StandardScaler.fit")
        self.mean_, self.var_ = X.mean(0), X.var(0)
        deviation = np.sqrt(self.var_)
        rounding = 10 * len(X) * np.finfo(float).eps * np.abs(X).max(0)  # of a constant column
        self.scale_ = np.where(deviation <= rounding, 1, deviation)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        """The standardised features, (N, D)."""
        return (self._read(X, "transform") - self.mean_) / self.scale_

    def fit_transform(self, X, y=None):
        """`fit(X)`, then `transform(X)`."""
        return self.fit(X).transform(X)

    def inverse_transform(self, X):
        """From standardised features (N, D) back to the original units."""
        return self._read(X, "inverse_transform") * self.scale_ + self.mean_


class _Regressor(_Estimator):
    def score(self, X, y):
        """R squared of the predictions for `X` (N, D) against `y` (N,)."""
        return r2_score(y, self.predict(X))


class LinearRegression(_Regressor):
    """Least squares: the weights that minimise the mean of (X w + b - y)^2 over the training rows.

    `solver="normal"` solves the normal equations (Legendre 1805, Gauss 1809) by singular values;
    of several solutions it takes the shortest, as scikit-learn does. `solver="gd"` runs `max_iter`
    steps of gradient descent with rate `lr`, or fewer where no element of the gradient exceeds
    `tol`: standardise the features first.
    After `fit`: `coef_` (D,), `intercept_`, `n_features_in_`; with "gd" `n_iter_`, and
    `loss_curve_` (n_iter_,).
    """

    def __init__(self, *, fit_intercept=True, solver="normal", lr=0.1, max_iter=1000, tol=1e-8):
        self.fit_intercept, self.solver = fit_intercept, solver
        self.lr, self.max_iter, self.tol = lr, max_iter, tol

    def fit(self, X, y):
        """Fit to `X` (N, D) and `y` (N,), or (N, T) for T targets.

        Raises ValueError on bad data or settings.
        """
        X = as_matrix(X, "LinearRegression.fit")
        y = _numbers(y, len(X), "LinearRegression.fit")
        self._require(self.solver in ("normal", "gd"),
                      f"solver must be 'normal' or 'gd', got {self.solver!r}")
        X0, y0, finish = _centred(X, y, self.fit_intercept)
        solve = self._descend if self.solver == "gd" else _least_squares
        self.coef_, self.intercept_ = finish(solve(X0, y0))
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        """Predictions (N,) for `X` (N, D), in the unit of `y`."""
        return self._read(X, "predict") @ self.coef_.T + self.intercept_

    def _descend(self, X, y):
        """Gradient descent on the mean squared error of centred data.

        Returns the weights (D,) or (D, T).
        """
        self._require(self.lr > 0 and self.max_iter >= 1, "lr must be positive and max_iter at least 1")
        w, losses = np.zeros(X.shape[1:] + y.shape[1:]), []
        for _ in range(self.max_iter):
            error = X @ w - y  # (N,)
            losses.append(np.mean(error**2))
            if losses[-1] > 1e6 * losses[0]:
                limit = 2 / np.linalg.eigvalsh(2 / len(X) * X.T @ X)[-1]
                self._require(False, "gradient descent diverged; "
                                     f"lr={self.lr} must be below {limit:.3g} on these data")
            gradient = 2 / len(X) * X.T @ error  # (D,)
            if np.abs(gradient).max() <= self.tol:
                break
            w = w - self.lr * gradient
        self.n_iter_, self.loss_curve_ = len(losses), np.array(losses)
        return w


def _centred(X, y, fit_intercept):
    """Centred copies of `X` and `y`, and the way back from their weights to (coef, intercept).

    The best line goes through the centre of mass, so that the intercept need not be searched for.
    """
    x_mean, y_mean = np.zeros(X.shape[1]), np.zeros(y.shape[1:])
    if fit_intercept:
        x_mean, y_mean = X.mean(0), y.mean(0)
    return X - x_mean, y - y_mean, lambda w: (w.T, y_mean - x_mean @ w)


def _least_squares(X, y):
    return np.linalg.lstsq(X, y, rcond=None)[0]


class Ridge(_Regressor):
    """Least squares that charges for large weights: minimises sum (X w + b - y)^2 + `alpha` |w|^2.

    After `fit`: `coef_` (D,), `intercept_`, `n_features_in_`. The intercept is not penalised.
    Standardise the features first, else the penalty depends on their units. Hoerl and Kennard
    (1970), Ridge regression.
    """

    def __init__(self, alpha=1.0, *, fit_intercept=True):
        self.alpha, self.fit_intercept = alpha, fit_intercept

    def fit(self, X, y):
        """Fit to `X` (N, D) and `y` (N,) or (N, T).

        Raises ValueError on bad data, or where `alpha` is negative.
        """
        X = as_matrix(X, "Ridge.fit")
        y = _numbers(y, len(X), "Ridge.fit")
        self._require(self.alpha >= 0, f"alpha must be 0 or more, got {self.alpha}")
        X0, y0, finish = _centred(X, y, self.fit_intercept)
        U, s, Vt = np.linalg.svd(X0, full_matrices=False)
        keep = s > s[0] * max(X.shape) * np.finfo(float).eps  # where the data vary at all
        shrunk = s[keep] / (s[keep] ** 2 + self.alpha)
        self.coef_, self.intercept_ = finish(Vt[keep].T @ (shrunk * (U[:, keep].T @ y0).T).T)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        """Predictions (N,) for `X` (N, D), in the unit of `y`."""
        return self._read(X, "predict") @ self.coef_.T + self.intercept_


def _softmax(Z):
    """Probabilities from logits (N, K), row by row.

    The largest logit is subtracted first, so that exp never overflows.
    """
    E = np.exp(Z - Z.max(1, keepdims=True))
    return E / E.sum(1, keepdims=True)


class _LogisticLoss:
    """Mean cross-entropy plus `decay` / 2 times |w|^2, its gradient and curvature, at W (F, D + 1).

    The last column of W holds the intercepts, which are not penalised. With two classes the first
    one's logits are fixed at 0 and F is 1; with K > 2 classes F is K.
    """

    def __init__(self, X, Y, decay, fit_intercept):
        self.X = np.column_stack([X, np.full(len(X), float(fit_intercept))])  # (N, D + 1)
        self.Y = Y  # one-hot (N, K)
        self.first = int(Y.shape[1] == 2)  # the first class that has weights of its own
        self.decay = np.append(np.full(X.shape[1], decay), 0.0)

    def logits(self, W):
        free = self.X @ W.T
        return np.column_stack([np.zeros(len(free)), free]) if self.first else free  # (N, K)

    def value(self, W):
        Z = self.logits(W)
        top = Z.max(1)
        log_sum = top + np.log(np.exp(Z - top[:, None]).sum(1))
        return np.mean(log_sum - (Z * self.Y).sum(1)) + 0.5 * np.sum(self.decay * W * W)

    def pull_back(self, dZ, W):
        """From slopes by logits (N, K) to slopes by weights (F, D + 1), the penalty's included."""
        return dZ[:, self.first :].T @ self.X / len(self.X) + self.decay * W

    def gradient(self, W):
        self.P = _softmax(self.logits(W))
        return self.pull_back(self.P - self.Y, W)

    def curvature(self, V):
        """The Hessian at the last gradient's W, times a direction `V` (F, D + 1)."""
        dZ = self.logits(V)
        return self.pull_back(self.P * (dZ - (self.P * dZ).sum(1, keepdims=True)), V)


def _conjugate_gradient(product, b, tol, max_iter):
    """Solve A x = b for a positive semi-definite A of which only `product(v)`, A v, is known.

    Each step goes down to the bottom along a new direction, without spoiling the directions before
    it. Hestenes and Stiefel (1952).
    """
    x, r = np.zeros_like(b), b
    direction, size = r, np.sum(r * r)
    for _ in range(max_iter):
        if np.sqrt(size) <= tol:
            break
        Ad = product(direction)
        bend = np.sum(direction * Ad)
        if bend <= 1e-14 * np.sum(direction * direction):  # flat: nothing to gain
            break
        x, r = x + size / bend * direction, r - size / bend * Ad
        size, previous = np.sum(r * r), size
        direction = r + size / previous * direction
    return x


def _newton(loss, W, tol, max_iter):
    """Minimise by Newton's method: jump to the bottom of the parabola that touches the loss.

    Returns (W, steps).
    """
    before = np.inf
    for step in range(max_iter):
        gradient = loss.gradient(W)
        steepness = np.linalg.norm(gradient)
        if np.abs(gradient).max() <= tol:
            return W, step
        precision = min(0.1, np.sqrt(steepness)) * steepness
        jump = -_conjugate_gradient(loss.curvature, gradient, precision, 200)
        value, slope, length = loss.value(W), np.sum(gradient * jump), 1.0
        rounding = 1e-14 * abs(value)  # near the minimum the loss cannot tell better from worse
        if -slope < rounding and steepness >= before:  # nor does the gradient
            return W, step
        enough = 1e-4 * slope
        while loss.value(W + length * jump) > value + length * enough + rounding and length > 1e-9:
            length /= 2
        W, before = W + length * jump, steepness
    return W, max_iter


def accuracy_score(y_true, y_pred):
    """The fraction of labels (N,) that are predicted right.

    Raises ValueError where shapes differ.
    """
    y_true, y_pred = _pair(y_true, y_pred, "accuracy_score")
    return float(np.mean(y_true == y_pred))


def confusion_matrix(y_true, y_pred, labels=None):
    """Integers (K, K): entry [i, j] is how often class i was predicted as class j.

    Classes are `labels` in that order, or the sorted labels that occur. Labels that are not in
    `labels` do not count.
    Raises ValueError where shapes differ.
    """
    y_true, y_pred = _pair(y_true, y_pred, "confusion_matrix")
    labels = np.unique(np.concatenate([y_true, y_pred])) if labels is None else np.asarray(labels)
    rows, columns = y_true[:, None] == labels, y_pred[:, None] == labels  # one-hot, (N, K)
    return rows.T.astype(np.int64) @ columns


class _Classifier(_Estimator):
    def score(self, X, y):
        """The accuracy of the predictions for `X` (N, D) against the labels `y` (N,)."""
        return accuracy_score(y, self.predict(X))


class LogisticRegression(_Classifier):
    """Linear classifier with log-odds: minimises C times the summed cross-entropy plus |w|^2 / 2.

    Two classes share one weight vector; K > 2 classes have one each (multinomial, softmax).
    `C=np.inf` drops the penalty. `solver="newton-cg"` converges until no element of the gradient
    of the mean loss exceeds `tol` (tighter than scikit-learn's default); `solver="gd"` is plain
    gradient descent with rate `lr`.
    After `fit`: `classes_`, `coef_` (1 or K, D), `intercept_` (1 or K,), `n_iter_`,
    `n_features_in_`. Cox (1958), The regression analysis of binary sequences.
    """

    def __init__(
        self, C=1.0, *, fit_intercept=True, solver="newton-cg", lr=0.1, max_iter=100, tol=1e-12
    ):
        self.C, self.fit_intercept, self.solver = C, fit_intercept, solver
        self.lr, self.max_iter, self.tol = lr, max_iter, tol

    def fit(self, X, y):
        """Fit to `X` (N, D) and labels `y` (N,).

        Raises ValueError on bad data or settings, or a single class.
        """
        X = as_matrix(X, "LogisticRegression.fit")
        classes, index = as_classes(y, len(X), "LogisticRegression.fit")
        self._require(self.C > 0, f"C must be positive, got {self.C}")
        self._require(self.lr > 0 and self.max_iter >= 1, "lr must be positive and max_iter at least 1")
        self._require(self.solver in ("newton-cg", "gd"),
                      f"solver must be 'newton-cg' or 'gd', got {self.solver!r}")
        Y, decay = np.eye(len(classes))[index], 1 / (self.C * len(X))
        loss = _LogisticLoss(X, Y, decay, self.fit_intercept)
        W = np.zeros((1 if len(classes) == 2 else len(classes), X.shape[1] + 1))
        if self.solver == "newton-cg":
            W, self.n_iter_ = _newton(loss, W, self.tol, self.max_iter)
        else:
            for self.n_iter_ in range(1, self.max_iter + 1):  # noqa: B020
                W = W - self.lr * loss.gradient(W)
        self.classes_, self.coef_ = classes, W[:, :-1]
        self.intercept_ = W[:, -1] * self.fit_intercept
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X):
        """The logits: (N,) log-odds of the second of two classes, else (N, K)."""
        Z = self._read(X, "decision_function") @ self.coef_.T + self.intercept_
        return Z[:, 0] if len(self.classes_) == 2 else Z

    def predict_proba(self, X):
        """The probability of each class, (N, K)."""
        Z = self.decision_function(X)
        return _softmax(np.column_stack([np.zeros(len(Z)), Z]) if Z.ndim == 1 else Z)

    def predict(self, X):
        """The likeliest class for each row, (N,)."""
        Z = self.decision_function(X)
        return self.classes_[(Z > 0).astype(int) if Z.ndim == 1 else Z.argmax(1)]


class KNeighborsClassifier(_Classifier):
    """Classify by a vote of the `n_neighbors` training rows at the least Euclidean distance.

    `weights="distance"` lets a neighbour's vote count 1 / distance. A drawn vote goes to the
    smallest class.
    After `fit`: `classes_`, `n_features_in_`; the training data are kept. Cover and Hart (1967),
    Nearest neighbor pattern classification.
    """

    def __init__(self, n_neighbors=5, *, weights="uniform"):
        self.n_neighbors, self.weights = n_neighbors, weights

    def fit(self, X, y):
        """Keep `X` (N, D) and labels `y` (N,).

        Raises ValueError on bad data, or with fewer rows than neighbours.
        """
        X = as_matrix(X, "KNeighborsClassifier.fit")
        self._require(self.n_neighbors >= 1,
                      f"n_neighbors must be at least 1, got {self.n_neighbors}")
        self._require(len(X) >= self.n_neighbors,
                      f"n_neighbors={self.n_neighbors}, but X has only {len(X)} rows")
        self._require(self.weights in ("uniform", "distance"),
                      f"weights: 'uniform' or 'distance', not {self.weights!r}")
        self.classes_, self._index = as_classes(y, len(X), "KNeighborsClassifier.fit")
        self._X, self._square = X, (X * X).sum(1)
        self.n_features_in_ = X.shape[1]
        return self

    def predict_proba(self, X):
        """Each class's share of the vote, (N, K)."""
        distance, neighbours = self.kneighbors(X)
        if self.weights == "distance":
            exact = distance == 0
            votes = np.where(exact.any(1, keepdims=True), exact, 1 / np.where(exact, 1, distance))
        else:
            votes = np.ones_like(distance)
        rows = np.arange(len(votes))[:, None]
        share = np.zeros((len(votes), len(self.classes_)))
        np.add.at(share, (rows, self._index[neighbours]), votes)
        return share / share.sum(1, keepdims=True)

    def predict(self, X):
        """The class that wins the vote, (N,)."""
        share = self.predict_proba(X)
        return self.classes_[share.argmax(1)]

    def kneighbors(self, X, n_neighbors=None):
        """The nearest training rows: distances (N, k), nearest first, and their indices (N, k).

        Works in blocks of rows, so that only a few million distances exist at a time.
        """
        X, k = self._read(X, "kneighbors"), self.n_neighbors if n_neighbors is None else n_neighbors
        if not 1 <= k <= len(self._X):
            raise ValueError(f"KNeighborsClassifier.kneighbors: n_neighbors={k}, but there "
                             f"are {len(self._X)} training rows")
        size = max(1, 4_000_000 // max(len(self._X), k * X.shape[1]))
        blocks = [self._nearest(X[start : start + size], k) for start in range(0, len(X), size)]
        return tuple(np.concatenate(part) for part in zip(*blocks, strict=True))

    def _nearest(self, Q, k):
        ranking = self._square - 2 * Q @ self._X.T  # (B, N): |x - q|^2 without the |q|^2 that all share
        found = np.sort(np.argpartition(ranking, k - 1, axis=1)[:, :k], axis=1)
        distance = np.sqrt(((self._X[found] - Q[:, None]) ** 2).sum(2))  # exact where it counts: (B, k)
        order = np.argsort(distance, axis=1, kind="stable")
        return np.take_along_axis(distance, order, 1), np.take_along_axis(found, order, 1)


class GaussianNB(_Classifier):
    """Naive Bayes: within a class, features are independent and normally distributed.

    `var_smoothing` times the largest variance of a feature is added to all variances, so that none
    is 0.
    After `fit`: `classes_`, `class_prior_` (K,), `theta_` (means) and `var_` (K, D), `epsilon_`,
    `n_features_in_`. Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning,
    6.6.3.
    """

    def __init__(self, *, var_smoothing=1e-9):
        self.var_smoothing = var_smoothing

    def fit(self, X, y):
        """Measure each class's mean and variance on `X` (N, D), `y` (N,).

        Raises ValueError on bad data or settings.
        """
        X = as_matrix(X, "GaussianNB.fit")
        self._require(self.var_smoothing >= 0,
                      f"var_smoothing must be 0 or more, got {self.var_smoothing}")
        self.classes_, index = as_classes(y, len(X), "GaussianNB.fit")
        groups = [X[index == k] for k in range(len(self.classes_))]
        self.epsilon_ = self.var_smoothing * X.var(0).max()
        self.class_prior_ = np.array([len(group) for group in groups]) / len(X)
        self.theta_ = np.array([group.mean(0) for group in groups])
        self.var_ = np.array([group.var(0) for group in groups]) + self.epsilon_
        self._require((self.var_ > 0).all(),
                      "a feature is constant within a class; set var_smoothing above 0")
        self.n_features_in_ = X.shape[1]
        return self

    def predict_joint_log_proba(self, X):
        """log P(class) + log P(x | class), (N, K)."""
        X = self._read(X, "predict")
        log_density = [
            -0.5 * (np.log(2 * np.pi * var).sum() + ((X - mean) ** 2 / var).sum(1))
            for mean, var in zip(self.theta_, self.var_, strict=True)
        ]
        return np.stack(log_density, 1) + np.log(self.class_prior_)

    def predict_proba(self, X):
        """The probability of each class by Bayes' rule, (N, K)."""
        return _softmax(self.predict_joint_log_proba(X))

    def predict(self, X):
        """The likeliest class for each row, (N,)."""
        joint = self.predict_joint_log_proba(X)
        return self.classes_[joint.argmax(1)]


class Tree(NamedTuple):
    """A grown tree as arrays, one entry a node, the root first, named as in scikit-learn.

    A row with X[feature] <= threshold goes to `children_left`, else to `children_right`; leaves
    have -1 there and -2 in `feature` and `threshold`. `value` (nodes, K) holds the class
    frequencies, `impurity` their Gini impurity.
    """

    children_left: np.ndarray
    children_right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    impurity: np.ndarray
    n_node_samples: np.ndarray
    value: np.ndarray


def _best_split(values, labels, counts, min_leaf):
    """The best cut of sorted columns: (score, feature, position), or None where none is possible.

    `values` and `labels` (D, n) are each feature's values in rising order and the class of each,
    `counts` (K,) how many rows each class has. The score is sum_k left_k^2 / n_left + sum_k
    right_k^2 / n_right, which is the greater, the smaller the mean Gini impurity of the two sides.
    """
    D, n = values.shape
    possible = values[:, :-1] < values[:, 1:]  # no cut between equal values
    possible[:, : min_leaf - 1] = possible[:, n - min_leaf :] = False
    if not possible.any():
        return None
    # Moving a row of class k to the left side raises left_k^2 by 2 left_k + 1, where left_k is its
    # rank among its own class.
    by_class = np.argsort(labels, axis=1, kind="stable")
    rank = np.empty((D, n), dtype=np.int64)
    rank_in_class = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    np.put_along_axis(rank, by_class, np.broadcast_to(rank_in_class, (D, n)), 1)
    left = np.cumsum(2 * rank[:, :-1] + 1, axis=1)
    right = left + (counts**2).sum()  # the sum of (counts_k - left_k)^2, multiplied out
    right = right - 2 * np.cumsum(counts[labels[:, :-1]], axis=1)
    n_left = np.arange(1, n)
    score = np.where(possible, left / n_left + right / (n - n_left), -1.0)
    equal = score >= (1 - 1e-12) * score.max()  # but for rounding; the first of them is taken
    best = int(np.argmax(equal))
    return score.flat[best], best // (n - 1), best % (n - 1)


class DecisionTreeClassifier(_Classifier):
    """A tree of questions "is feature j at most t?", grown greedily to lower Gini impurity (CART).

    Grows until leaves are pure, `max_depth` is reached, or a split would leave fewer than
    `min_samples_leaf` rows or start from fewer than `min_samples_split`. All thresholds half-way
    between values are tried; of equally good splits the first feature and lowest threshold is
    taken (scikit-learn draws one).
    After `fit`: `classes_`, `tree_` (see Tree), `n_features_in_`.
    Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees.
    """

    def __init__(self, *, max_depth=None, min_samples_split=2, min_samples_leaf=1):
        self.max_depth, self.min_samples_split = max_depth, min_samples_split
        self.min_samples_leaf = min_samples_leaf

    def fit(self, X, y):
        """Grow the tree on `X` (N, D), labels `y` (N,).

        Raises ValueError on bad data, settings, or a single class.
        """
        X = as_matrix(X, "DecisionTreeClassifier.fit")
        self.classes_, index = as_classes(y, len(X), "DecisionTreeClassifier.fit")
        deep = self.max_depth is None or self.max_depth >= 1
        self._require(deep, f"max_depth must be 1 or more: {self.max_depth}")
        self._require(self.min_samples_leaf >= 1,
                      f"min_samples_leaf must be 1 or more, got {self.min_samples_leaf}")
        self._require(self.min_samples_split >= 2,
                      f"min_samples_split must be 2 or more: {self.min_samples_split}")
        self.tree_ = self._grow(np.ascontiguousarray(X.T), index)
        self.n_features_in_ = X.shape[1]
        return self

    def apply(self, X):
        """The leaf in which each row ends, as an index into `tree_`, (N,)."""
        X = self._read(X, "apply")
        tree = self.tree_
        node, active = np.zeros(len(X), dtype=int), np.arange(len(X))
        # all rows go down one level at a time
        while len(active := active[tree.feature[node[active]] >= 0]):
            at = node[active]
            left = X[active, tree.feature[at]] <= tree.threshold[at]
            node[active] = np.where(left, tree.children_left[at], tree.children_right[at])
        return node

    def predict_proba(self, X):
        """The class frequencies in the leaf of each row, (N, K)."""
        leaf = self.apply(X)
        return self.tree_.value[leaf]

    def predict(self, X):
        """The most frequent class in the leaf of each row, (N,)."""
        frequencies = self.predict_proba(X)
        return self.classes_[frequencies.argmax(1)]

    def _grow(self, columns, index):
        """The Tree for features `columns` (D, N) and class indices (N,).

        Each feature is sorted once, at the root.
        """
        K = len(self.classes_)
        kind = np.uint8 if K <= 256 else np.int64  # NumPy sorts bytes in linear time
        nodes, todo = [], [(np.argsort(columns, axis=1, kind="stable").astype(np.int32), 0, None, None)]
        while todo:
            order, depth, parent, side = todo.pop()  # order (D, n): rows sorted by each feature
            n = order.shape[1]
            counts = np.bincount(index[order[0]], minlength=K)
            node = dict(left=-1, right=-1, feature=-2, threshold=-2.0, n=n, value=counts / n)
            if parent is not None:
                parent[side] = len(nodes)
            nodes.append(node)
            deep = self.max_depth is not None and depth >= self.max_depth
            if deep or counts.max() == n or n < max(self.min_samples_split, 2 * self.min_samples_leaf):
                continue
            cut = self._search(columns, index.astype(kind), order, counts)
            if cut is None:
                continue
            feature, low, high = cut
            threshold = low / 2 + high / 2
            node.update(feature=feature, threshold=threshold if threshold < high else low)
            goes_left = columns[feature] <= node["threshold"]
            for branch, rows in (("right", ~goes_left), ("left", goes_left)):
                todo.append((order[rows[order]].reshape(len(order), -1), depth + 1, node, branch))
        value = np.array([node["value"] for node in nodes])
        names = ("left", "right", "feature", "threshold", "n")
        left, right, feature, threshold, n = (np.array([v[name] for v in nodes]) for name in names)
        return Tree(left, right, feature, threshold, 1 - (value**2).sum(1), n, value)

    def _search(self, columns, index, order, counts):
        """The best cut of a node's rows: (feature, the values below and above it), or None.

        Works in blocks of features.
        """
        D, n = order.shape
        best, size = (-1.0, None), max(1, 500_000 // n)
        for start in range(0, D, size):
            block = order[start : start + size]
            values = np.take_along_axis(columns[start : start + size], block, 1)
            varies = np.flatnonzero(values[:, 0] < values[:, -1])  # a constant feature cannot be cut
            if len(varies) == 0:
                continue
            found = _best_split(values[varies], index[block[varies]], counts, self.min_samples_leaf)
            if found and found[0] > (1 + 1e-12) * best[0]:
                score, j, i = found
                best = score, (start + int(varies[j]), *values[varies[j], i : i + 2].tolist())
        return best[1]

    def get_depth(self):
        """The largest number of questions from the root to a leaf."""
        depth = np.zeros(len(self.tree_.feature), dtype=int)
        for node in np.flatnonzero(self.tree_.feature >= 0):  # parents come before their children
            depth[[self.tree_.children_left[node], self.tree_.children_right[node]]] = depth[node] + 1
        return int(depth.max())

    def get_n_leaves(self):
        """The number of leaves."""
        return int((self.tree_.feature < 0).sum())

    @property
    def feature_importances_(self):
        """How much each feature's splits lower the impurity, as shares of 1 (D,): rows times Gini."""
        tree, inner = self.tree_, np.flatnonzero(self.tree_.feature >= 0)
        weighted = tree.n_node_samples * tree.impurity
        left, right = tree.children_left[inner], tree.children_right[inner]
        gain = weighted[inner] - weighted[left] - weighted[right]
        total = np.bincount(tree.feature[inner], gain, self.n_features_in_)
        return total / total.sum() if total.any() else total


def _squared_distances(X, centres):
    """All squared distances between rows, (N, K), without a negative one from rounding."""
    cross = (X * X).sum(1)[:, None] - 2 * X @ centres.T + (centres * centres).sum(1)
    return np.maximum(cross, 0)


class KMeans(_Estimator):
    """Divide rows into `n_clusters` groups, to lower the summed squared distance to their means.

    `init` is "k-means++", which draws starting centres far from one another, or the centres (K,
    D). The best of `n_init` starts is kept (one, where the centres are given). Lloyd's rounds stop
    when no row changes its cluster, or the centres' squared moves sum to at most `tol` times the
    mean variance of the features.
    After `fit`: `cluster_centers_` (K, D), `labels_` (N,), `inertia_`, `n_iter_`,
    `n_features_in_`. Lloyd (1982), Least squares quantization in PCM; Arthur and Vassilvitskii
    (2007), k-means++.
    """

    def __init__(
        self, n_clusters=8, *, init="k-means++", n_init=10, max_iter=300, tol=1e-4,
        random_state=None,
    ):
        self.n_clusters, self.init, self.n_init = n_clusters, init, n_init
        self.max_iter, self.tol, self.random_state = max_iter, tol, random_state

    def fit(self, X, y=None):
        """Find the clusters of `X` (N, D).

        Raises ValueError on bad data, or with more clusters than rows.
        """
        X = as_matrix(X, "KMeans.fit")
        self._require(1 <= self.n_clusters <= len(X),
                      f"n_clusters={self.n_clusters}, but X has {len(X)} rows")
        self._require(self.n_init >= 1 and self.max_iter >= 1,
                      "n_init and max_iter must be at least 1")
        mean = X.mean(0)
        rng = np.random.default_rng(self.random_state)
        X = X - mean  # centred numbers suffer less from rounding
        runs = [self._lloyd(X, start) for start in self._starts(X, mean, rng)]
        centres, self.labels_, self.inertia_, self.n_iter_ = min(runs, key=lambda run: run[2])
        self.cluster_centers_ = centres + mean
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        """The index of the nearest centre for each row, (N,)."""
        return _squared_distances(self._read(X, "predict"), self.cluster_centers_).argmin(1)

    def fit_predict(self, X, y=None):
        """`fit(X)`, then the cluster of each row, (N,)."""
        return self.fit(X).labels_

    def transform(self, X):
        """The distance of each row to each centre, (N, K)."""
        return np.sqrt(_squared_distances(self._read(X, "transform"), self.cluster_centers_))

    def _starts(self, X, mean, rng):
        """The starting centres of each run."""
        if isinstance(self.init, str):
            self._require(self.init == "k-means++",
                          f"init must be 'k-means++' or an array (K, D), got {self.init!r}")
            return (_k_means_plus_plus(X, self.n_clusters, rng) for _ in range(self.n_init))
        centres, shape = as_matrix(self.init, "KMeans.fit: init"), (self.n_clusters, X.shape[1])
        self._require(centres.shape == shape, f"init must have the shape {shape}, got {centres.shape}")
        return [centres - mean]

    def _lloyd(self, X, centres):
        """Rounds of assigning rows and moving centres: (centres, labels, inertia, rounds)."""
        enough, labels, rows = self.tol * X.var(0).mean(), None, np.arange(len(X))
        for rounds in range(1, self.max_iter + 1):  # noqa: B007
            distance = _squared_distances(X, centres)
            previous, labels = labels, distance.argmin(1)
            if np.array_equal(labels, previous):
                break
            moved = labels.copy()
            empty = np.flatnonzero(np.bincount(labels, minlength=self.n_clusters) == 0)
            if len(empty):  # an empty cluster starts anew at the rows that are worst off
                moved[np.argsort(-distance[rows, labels], kind="stable")[: len(empty)]] = empty
            member = (moved == np.arange(self.n_clusters)[:, None]).astype(float)  # (K, N)
            old, centres = centres, member @ X / np.maximum(member.sum(1, keepdims=True), 1)
            if ((centres - old) ** 2).sum() <= enough:
                labels = _squared_distances(X, centres).argmin(1)
                break
        return centres, labels, float(((X - centres[labels]) ** 2).sum()), rounds


def _k_means_plus_plus(X, n_clusters, rng):
    """Starting centres (K, D): rows, drawn in proportion to their squared distance to earlier ones."""
    centres = X[rng.integers(len(X))][None]
    for _ in range(n_clusters - 1):
        distance = _squared_distances(X, centres).min(1)
        share = distance / distance.sum() if distance.any() else None  # None: all rows are centres
        centres = np.vstack([centres, X[rng.choice(len(X), p=share)]])
    return centres


class PCA(_Estimator):
    """Principal components: the orthogonal directions in which centred data vary most.

    `n_components` is a number of components, a fraction of the variance to keep (0 < fraction <
    1), or None for all.
    After `fit`: `components_` (M, D), `explained_variance_`, `explained_variance_ratio_` and
    `singular_values_` (M,), `mean_` (D,), `n_components_`, `n_features_in_`. As in scikit-learn,
    the element of a component that is largest in magnitude is positive. Pearson (1901), On lines
    and planes of closest fit; Hotelling (1933).
    """

    def __init__(self, n_components=None):
        self.n_components = n_components

    def fit(self, X, y=None):
        """Find the components of `X` (N, D).

        Raises ValueError on bad data, fewer than two rows, or too many components.
        """
        X = as_matrix(X, "PCA.fit")
        self._require(len(X) >= 2, "X must have at least two rows, one has no variance")
        self.mean_ = X.mean(0)
        R = np.linalg.qr(X - self.mean_, mode="r")  # small, and with the same s and V
        _, s, Vt = np.linalg.svd(R, full_matrices=False)
        Vt *= np.sign(Vt[np.arange(len(Vt)), np.abs(Vt).argmax(1)])[:, None]
        variance = s**2 / (len(X) - 1)
        ratio = variance / variance.sum() if variance.any() else variance
        M = len(s) if self.n_components is None else self.n_components
        if 0 < M < 1:
            M = int(np.searchsorted(np.cumsum(ratio), M, side="right")) + 1
        self._require(int(M) == M and 1 <= M <= len(s),
                      f"n_components={M}, but X {X.shape} has 1 to {len(s)}")
        M = int(M)
        self.components_, self.singular_values_ = Vt[:M], s[:M]
        self.explained_variance_, self.explained_variance_ratio_ = variance[:M], ratio[:M]
        self.n_components_, self.n_features_in_ = M, X.shape[1]
        return self

    def transform(self, X):
        """The coordinates along the components, (N, M)."""
        return (self._read(X, "transform") - self.mean_) @ self.components_.T

    def fit_transform(self, X, y=None):
        """`fit(X)`, then `transform(X)`."""
        return self.fit(X).transform(X)

    def inverse_transform(self, X):
        """From coordinates (N, M) back to features (N, D), as well as the kept components can."""
        if not hasattr(self, "n_components_"):
            raise NotFittedError("PCA.inverse_transform: this model has not been "
                                 "fitted yet, call fit first")
        X = as_matrix(X, "PCA.inverse_transform")
        if X.shape[1] != self.n_components_:
            raise ValueError(f"PCA.inverse_transform: X has {X.shape[1]} columns, but there "
                             f"are {self.n_components_} components")
        return X @ self.components_ + self.mean_
