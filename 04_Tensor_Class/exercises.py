"""The exercises of chapter 04, their oracles, and the mistakes that learners make.

Answers are plain NumPy functions, or values; where gradients are judged, they are judged on arrays, so that it does not
matter whether a learner's tensors come from the notebook or from `shared.tensor`.
"""

import numpy as np

from shared.checks import Exercise, Mistake
from shared.scalar_mlp import make_spirals

OBJECTIVES = (
    "derive the gradient of an array operation in index form and in matrix form",
    "undo broadcasting and indexing in a backward pass",
    "add an operation to the engine and prove it right",
    "train a network on arrays",
)


# --- 04.1 All against all ---------------------------------------------------------------------------------------------

DIFFERENCES = Exercise(
    "04.1",
    "all against all",
    1,
    10,
    OBJECTIVES[1],
    expected=lambda G: (G.sum(1), -G.sum(0)),
    cases=lambda rng: [(rng.normal(size=shape),) for shape in ((3, 5), (4, 2), (1, 6))],
    mistakes=[
        Mistake("summed over the wrong axes: a_i appears in all of row i", lambda G: (G.sum(0), -G.sum(1))),
        Mistake("b enters with a minus, and so does its gradient", lambda G: (G.sum(1), G.sum(0))),
        Mistake("not summed over the broadcast axis: each gradient has the shape of its array", lambda G: (G, -G)),
        Mistake("averaged over the broadcast axis: influences add up", lambda G: (G.mean(1), -G.mean(0))),
    ],
)


# --- 04.2 A linear layer ----------------------------------------------------------------------------------------------

LINEAR = Exercise(
    "04.2",
    "a linear layer",
    2,
    15,
    OBJECTIVES[0],
    expected=lambda X, W, G: (G @ W, G.T @ X, G.sum(0)),
    cases=lambda rng: [
        (rng.normal(size=(n, c)), rng.normal(size=(d, c)), rng.normal(size=(n, d))) for n, c, d in ((5, 3, 2), (2, 4, 6))
    ],
    mistakes=[
        Mistake("the gradient of W is transposed: weights are (out, in)", lambda X, W, G: (G @ W, X.T @ G, G.sum(0))),
        Mistake("the gradient of b is not summed over the examples", lambda X, W, G: (G @ W, G.T @ X, G)),
        Mistake("off by 1/N: no mean stands in Y = X W^T + b", lambda X, W, G: (G @ W, G.T @ X / len(X), G.mean(0))),
        Mistake("the gradient of X goes back through W, not through its transpose", lambda X, W, G: (G @ W.T, G.T @ X, G.sum(0))),
        Mistake("the gradient of b is averaged over the examples: they add up", lambda X, W, G: (G @ W, G.T @ X, G.mean(0))),
        Mistake("b passes on what arrives: its gradient is made of G, not of ones",
                lambda X, W, G: (G @ W, G.T @ X, np.ones(len(W)))),
    ],
)


# --- 04.3 Predict, then run -------------------------------------------------------------------------------------------

PREDICT = Exercise(
    "04.3",
    "predict, then run",
    1,
    5,
    OBJECTIVES[1],
    expected=[2.0, 0.0, 5.0],
    mistakes=[
        Mistake("the last element is picked twice, and each time brings 2", [2.0, 0.0, 3.0]),
        Mistake("the maximum is a path as well: it brings 1 to the largest element", [2.0, 0.0, 4.0]),
        Mistake("the index [0, 2, 2] never picks the middle element", [2.0, 2.0, 3.0]),
        Mistake("the elements picked are multiplied by 2, so each pick brings 2", [1.0, 0.0, 3.0]),
    ],
)


# --- 04.4 The gradient of a lookup ------------------------------------------------------------------------------------


def lookup_gradient(tokens, G, V):
    """Gradients of repeated tokens added up."""
    d = np.zeros((V, G.shape[-1]))
    np.add.at(d, tokens, G)
    return d


def lookup_assigned(tokens, G, V):
    """Only the last gradient of each token kept."""
    d = np.zeros((V, G.shape[-1]))
    d[tokens] = G
    return d


def lookup_averaged(tokens, G, V):
    """The mean gradient of each token."""
    counts = np.bincount(tokens.ravel(), minlength=V)
    return lookup_gradient(tokens, G, V) / np.maximum(counts, 1)[:, None]


LOOKUP = Exercise(
    "04.4",
    "the gradient of a lookup",
    2,
    15,
    OBJECTIVES[1],
    expected=lookup_gradient,
    cases=lambda rng: [
        (rng.integers(0, 3, size=(4, 5)), rng.normal(size=(4, 5, 2)), 4),
        (rng.integers(0, 7, size=(2, 3)), rng.normal(size=(2, 3, 5)), 9),
    ],
    mistakes=[
        Mistake("assigned, not added: only one gradient of a repeated token is kept (+= does the same)", lookup_assigned),
        Mistake("averaged over the repetitions: they add up", lookup_averaged),
        Mistake(
            "rows of tokens that never occur are missing: the gradient has the table's shape",
            lambda tokens, G, V: lookup_gradient(tokens, G, V)[np.unique(tokens)],
        ),
    ],
)


# --- 04.5 Add an operation --------------------------------------------------------------------------------------------


class NotAPair(TypeError):
    """An operation returned something else than its value and its pullback."""


def value_and_pullback(result):
    """The two parts of what an operation returns; the pullback may come in a tuple. Raises NotAPair for anything else."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise NotAPair("the value, and a function from its gradient to that of x")
    value, pullback = result
    return value, pullback[0] if isinstance(pullback, tuple) else pullback


def observe_operation(answer, x, g):
    """The value, and what the pullback makes of g."""
    result = answer(x)
    if result is None:
        return None
    value, pullback = value_and_pullback(result)
    return value, pullback(g.copy())


def rms_norm(x, *, eps=1e-6, through=1, share=True, axis=-1, centre=False, last=np.divide):
    """Root mean square normalisation, with replaceable parts."""
    count = x.shape[-1] if axis == -1 else x.size
    r = np.sqrt(((x - centre * x.mean(-1, keepdims=True)) ** 2).sum(axis, keepdims=True) / count + eps)
    y = x / r

    def pullback(g):
        part = (g * y).sum(axis, keepdims=True) / (count if share else 1)
        return last(g - through * y * part, r)

    return y, pullback


def rms_alone(x):
    """Each element as if it alone made up r."""
    y, _ = rms_norm(x)
    return y, lambda g: g * (1 - y * y / x.shape[-1]) * y / x


def wrong_rms(**options):
    """The operation with a mistake."""
    return lambda x: rms_norm(x, **options)


RMS = Exercise(
    "04.5",
    "add an operation",
    3,
    25,
    OBJECTIVES[2],
    expected=rms_norm,
    cases=lambda rng: [(rng.normal(size=shape), rng.normal(size=shape)) for shape in ((3, 4), (2, 3, 5), (7,))],
    observe=observe_operation,
    mistakes=[
        Mistake("the path through r is missing: r depends on x as well", wrong_rms(through=0)),
        Mistake("off by 1/D in the part that goes through r", wrong_rms(share=False)),
        Mistake("the part through r has the wrong sign: a larger r makes y smaller", wrong_rms(through=-1)),
        Mistake("the last division by r is missing in the pullback", wrong_rms(last=lambda d, r: d)),
        Mistake("through r each x_j reaches all y_i of its row: sum g_i y_i over the row", rms_alone),
        Mistake("normalised over all axes instead of the last one", wrong_rms(axis=None)),
        Mistake("that is the standard deviation: the root mean square subtracts no mean", wrong_rms(centre=True)),
        Mistake("eps is missing: it stands under the root", wrong_rms(eps=0.0)),
        Mistake("return two things: the value, and a function from its gradient to that of x", lambda x: rms_norm(x)[0]),
    ],
)


# --- 04.6 The gradient of every einsum --------------------------------------------------------------------------------


def einsum_cases(rng):
    """Equations, the number of an operand, the gradient of the result, and the other operand."""
    sizes = dict(zip("abijk", (2, 6, 3, 4, 5), strict=True))
    cases = []
    for equation in ("ij,jk->ik", "bij,bjk->bik", "i,j->ij", "ij,ij->", "ijk,kj->i", "aij,bj->abi"):
        terms, out = equation.split("->")
        first, second = terms.split(",")
        for k in (0, 1):
            if set((first, second)[k]) <= set(out) | set((second, first)[k]):
                g, other = (rng.normal(size=[sizes[letter] for letter in term]) for term in (out, (second, first)[k]))
                cases.append((equation, k, g, other))
    return cases


def observe_einsum(answer, equation, k, g, other):
    """The gradient that the answer's equation gives; the equation itself where it does not fit the two arrays."""
    found = answer(equation, k)
    if found is None:
        return None
    try:
        return np.einsum(found, g, other)
    except ValueError:
        return found


def einsum_gradient(equation, k, order=lambda own, other, out: f"{out},{other}->{own}"):
    """The three terms with changed places."""
    terms, out = equation.split("->")
    first, second = terms.split(",")
    return order(*((first, second) if k == 0 else (second, first)), out)


EINSUM = Exercise(
    "04.6",
    "the gradient of every einsum",
    2,
    20,
    OBJECTIVES[0],
    expected=einsum_gradient,
    cases=einsum_cases,
    observe=observe_einsum,
    mistakes=[
        Mistake(
            "transposed: after the arrow stands the operand's own term, letter by letter",
            lambda equation, k: einsum_gradient(equation, k, lambda own, other, out: f"{out},{other}->{own[::-1]}"),
        ),
        Mistake(
            "that is the gradient of the first operand, whatever k says",
            lambda equation, k: einsum_gradient(equation, 0),
        ),
        Mistake(
            "the result's term stands after the arrow still: what is wanted has the operand's indices",
            lambda equation, k: einsum_gradient(equation, k, lambda own, other, out: f"{own},{other}->{out}"),
        ),
        Mistake(
            "G comes first and the other operand second, whatever k says",
            lambda equation, k: einsum_gradient(
                equation, k, lambda own, other, out: f"{other},{out}->{own}" if k else f"{out},{other}->{own}"
            ),
        ),
        Mistake(
            "the other operand comes first there: G is the first one",
            lambda equation, k: einsum_gradient(equation, k, lambda own, other, out: f"{other},{out}->{own}"),
        ),
        Mistake(
            "that is the gradient of the other operand: k = 0 asks for the first one's",
            lambda equation, k: einsum_gradient(equation, 1 - k),
        ),
        Mistake(
            "the other operand keeps its indices as they are: the letters do the transposing",
            lambda equation, k: einsum_gradient(equation, k, lambda own, other, out: f"{out},{other[::-1]}->{own}"),
        ),
    ],
)


# --- 04.7 Find the bug ------------------------------------------------------------------------------------------------


def observe_pullback(answer, x, g):
    """The value, two answers of the pullback to one gradient, and what became of that gradient."""
    result = answer(x)
    if result is None:
        return None
    value, pullback = value_and_pullback(result)
    first = np.array(pullback(g))
    return value, first, np.array(pullback(g)), g.copy()


def scaled_tanh(x, *, scale=2.0, slope=lambda scale, y: scale * (1 - y * y), harm=False):
    """scale * tanh(x), with replaceable parts."""
    y = np.tanh(x)

    def pullback(g):
        if not harm:
            return g * slope(scale, y)
        g *= slope(scale, y)
        return g

    return scale * y, pullback


BUG = Exercise(
    "04.7",
    "find the bug",
    2,
    15,
    OBJECTIVES[2],
    expected=scaled_tanh,
    cases=lambda rng: [(rng.normal(size=shape), rng.normal(size=shape)) for shape in ((3,), (2, 4))],
    observe=observe_pullback,
    mistakes=[
        Mistake(
            "it still changes its arguments in place: the pullback writes into g, which others hold",
            lambda x: scaled_tanh(x, harm=True),
        ),
        Mistake("the scale belongs into the derivative as well", lambda x: scaled_tanh(x, slope=lambda scale, y: 1 - y * y)),
        Mistake(
            "1 - y*y needs the tanh itself; after scaling it is another number",
            lambda x: scaled_tanh(x, slope=lambda scale, y: scale * (1 - (scale * y) ** 2)),
        ),
    ],
)


# --- 04.8 Open: three turns -------------------------------------------------------------------------------------------

TARGET = 0.98


def judge_spirals(answer):
    """None where the learned function classifies new points well enough, else what may be the matter."""
    points, labels = make_spirals(300, turns=3.0, rng=11)
    new_points, new_labels = make_spirals(1000, turns=3.0, rng=12)
    learned = answer(points.copy(), labels.copy(), np.random.default_rng(0))
    if learned is None:
        raise NotImplementedError

    def scores_of(x):
        result = learned(x)
        return np.asarray(getattr(result, "data", result))

    scores = scores_of(new_points)
    if scores.shape != (len(new_points),):
        return f"the scores have shape {scores.shape}, expected ({len(new_points)},): one score for each point"
    if not np.isfinite(scores).all():
        return "some scores are not finite: the training diverged, make its steps smaller"
    if len(set(scores > 0)) == 1:
        return "it gives one class to all points: scores need both signs"
    accuracy = np.mean((scores > 0) == new_labels)
    if accuracy < 0.75:
        return f"{accuracy:.1%} of new points right, hardly better than a coin: is the loss still near 0.69?"
    if accuracy < TARGET:
        by_heart = np.mean((scores_of(points) > 0) == labels) > 0.99
        why = "those you gave it are all learned, so bend more smoothly, or ask several networks" if by_heart else "train on"
        return f"{accuracy:.1%} of new points right, the target is {TARGET:.0%}: {why}"
    return None


def nearest(new, points, labels):
    """The score that the nearest known point suggests for each new one, and how far that point is, squared."""
    squares = ((new[:, None] - points) ** 2).sum(-1)  # (M, N)
    return 2.0 * labels[squares.argmin(1)] - 1, squares.min(1)


def learn_some(points, labels, rng):
    """The nearest of 150 points: too few to be right everywhere."""
    return lambda new: nearest(new, points[:150], labels[:150])[0]


def learn_by_heart(points, labels, rng):
    """The same, but right on every point that it was given."""

    def scores(new):
        known, squares = nearest(new, points, labels)
        return np.where(squares < 1e-12, known, learn_some(points, labels, rng)(new))

    return scores


SPIRALS = Exercise(
    "04.8",
    "open: three turns",
    3,
    40,
    OBJECTIVES[3],
    judge=judge_spirals,
    mistakes=[
        Mistake("it gives one class to all points", lambda points, labels, rng: lambda new: np.ones(len(new))),
        Mistake("hardly better than a coin", lambda points, labels, rng: lambda new: new[:, 0]),
        Mistake("those you gave it are all learned", learn_by_heart),
        Mistake("train on", learn_some),
        Mistake("expected (1000,)", lambda points, labels, rng: lambda new: np.ones((len(new), 1))),
        Mistake("the training diverged", lambda points, labels, rng: lambda new: np.full(len(new), np.nan)),
    ],
)


EXERCISES = [DIFFERENCES, LINEAR, PREDICT, LOOKUP, RMS, EINSUM, BUG, SPIRALS]
