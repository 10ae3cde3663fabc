"""The exercises of chapter 05, their oracles, and the mistakes that learners make."""

import numpy as np

from shared import datasets
from shared.checks import Exercise, Mistake
from shared.traditional_ml import LinearRegression, root_mean_squared_error, train_test_split

OBJECTIVES = (
    "derive and write the gradient of a layer and of a loss",
    "choose a beginning and predict what it does to the signal",
    "derive an optimiser, find what is wrong with one, and write a schedule",
    "regularise, and keep training apart from evaluation",
    "train on real data against a baseline",
)


# --- 05.1 The gradient of a gated layer -------------------------------------------------------------------------------


def gated_backward(x, W, V, g, *, inner=lambda a, s: a * s * (1 - s), gate=True, both=(1, 1), turned=False):
    """The gradients by input and both weights; the options make the mistakes below."""
    a, s = x @ W.T, 1 / (1 + np.exp(-x @ V.T))
    da, db = g * s if gate else g, g * inner(a, s)
    dW, dV = da.T @ x, db.T @ x
    return both[0] * (da @ W) + both[1] * (db @ V), dW.T if turned else dW, dV.T if turned else dV


def wrong_gate(**options):
    """The gated layer with a mistake."""
    return lambda x, W, V, g: gated_backward(x, W, V, g, **options)


def exchanged(gradients):
    """The last two of three gradients have changed places."""
    dx, dW, dV = gradients
    return dx, dV, dW


GATED = Exercise(
    "05.1",
    "the gradient of a gated layer",
    2,
    20,
    OBJECTIVES[0],
    expected=lambda x, W, V, g: gated_backward(x, W, V, g),
    cases=lambda rng: [
        tuple(rng.normal(size=shape) for shape in ((n, d), (o, d), (o, d), (n, o))) for n, d, o in ((5, 3, 4), (2, 6, 3))
    ],
    mistakes=[
        Mistake("dx lacks the path through the gate: x feeds both halves", wrong_gate(both=(1, 0))),
        Mistake("dx lacks the path through W: x feeds both halves", wrong_gate(both=(0, 1))),
        Mistake("the slope of the sigmoid, s (1 - s), is missing on the way to V", wrong_gate(inner=lambda a, s: a)),
        Mistake("dV lacks the other half: by the product rule the gate's gradient is g times x W^T",
                wrong_gate(inner=lambda a, s: s * (1 - s))),
        Mistake("dW lacks the gate: what the gate holds back has no influence", wrong_gate(gate=False)),
        Mistake("dW and dV are transposed: they have the shape of the weights, (O, D)", wrong_gate(turned=True)),
        Mistake("s (1 - s) is the slope of the sigmoid; 1 - s^2 is that of tanh", wrong_gate(inner=lambda a, s: a * (1 - s * s))),
        Mistake("dW and dV have changed places: return (dx, dW, dV)", lambda x, W, V, g: exchanged(gated_backward(x, W, V, g))),
        Mistake("the sigmoid is on the wrong half: V makes the gate", lambda x, W, V, g: exchanged(gated_backward(x, V, W, g))),
        Mistake("g is missing: every path begins with what arrives from above",
                lambda x, W, V, g: gated_backward(x, W, V, np.ones_like(g))),
    ],
)


# --- 05.2 Cross-entropy with smoothing --------------------------------------------------------------------------------


def probabilities(logits):
    """Softmax that does not overflow."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def smoothed_targets(logits, target, smoothing):
    """What each row aims at."""
    classes = logits.shape[1]
    return (1 - smoothing) * np.eye(classes)[target] + smoothing / classes


def smoothed_gradient(logits, target, smoothing):
    """Softmax minus target, averaged."""
    return (probabilities(logits) - smoothed_targets(logits, target, smoothing)) / len(logits)


def unstable_gradient(logits, target, smoothing):
    """The same without the shift, which overflows."""
    with np.errstate(all="ignore"):
        e = np.exp(logits)
        return (e / e.sum(1, keepdims=True) - smoothed_targets(logits, target, smoothing)) / len(logits)


def towards(aim):
    """The gradient with other targets than the right ones, which `aim` makes of an array of shares, (N, C)."""

    def gradient(logits, target, smoothing):
        shares = np.full(logits.shape, smoothing / logits.shape[1])
        aim(shares, target, 1 - smoothing)
        return (probabilities(logits) - shares) / len(logits)

    return gradient


def put_in_columns(shares, target, rest):
    """The slip of indexing whole columns instead of one element a row."""
    shares[:, target] += rest


def put_alone(shares, target, rest):
    """The right class gets what the others leave, without its own share."""
    shares[np.arange(len(target)), target] = rest


def shifted_by_one_number(logits, target, smoothing):
    """The largest logit of all rows subtracted from every row."""
    with np.errstate(all="ignore"):
        e = np.exp(logits - logits.max())
        return (e / e.sum(1, keepdims=True) - smoothed_targets(logits, target, smoothing)) / len(logits)


def smoothed_elsewhere(logits, target, smoothing):
    """The share goes to the wrong classes only."""
    n, classes = logits.shape
    aim = np.full((n, classes), smoothing / (classes - 1))
    aim[np.arange(n), target] = 1 - smoothing
    return (probabilities(logits) - aim) / n


SMOOTHED = Exercise(
    "05.2",
    "cross-entropy with smoothing",
    2,
    20,
    OBJECTIVES[0],
    expected=smoothed_gradient,
    cases=lambda rng: [
        (rng.normal(size=(5, 3)), rng.integers(0, 3, 5), 0.1),
        (rng.normal(size=(3, 7)), rng.integers(0, 7, 3), 0.0),
        (1000 * rng.normal(size=(4, 3)), rng.integers(0, 3, 4), 0.2),
    ],
    mistakes=[
        Mistake("off by 1/N: the loss is a mean over the rows", lambda z, y, s: len(z) * smoothed_gradient(z, y, s)),
        Mistake("exp overflows at logits of 1,000: subtract each row's largest first", unstable_gradient),
        Mistake("the smoothing is missing: you have softmax minus one-hot", lambda z, y, s: smoothed_gradient(z, y, 0.0)),
        Mistake("the smoothed share goes to all classes, the right one included", smoothed_elsewhere),
        Mistake("the sign is turned: the gradient is softmax minus target", lambda z, y, s: -smoothed_gradient(z, y, s)),
        Mistake("the right class keeps its own share as well, 1 - eps + eps/C: a row of targets sums to 1", towards(put_alone)),
        Mistake("q[:, target] writes into whole columns; one element a row is q[np.arange(N), target]", towards(put_in_columns)),
        Mistake("the mean is over the N rows, not over all N C elements",
                lambda z, y, s: smoothed_gradient(z, y, s) / z.shape[1]),
        Mistake("the largest logit of the whole table leaves nothing of other rows: subtract each row's own",
                shifted_by_one_number),
    ],
)


# --- 05.3 Predict, then run -------------------------------------------------------------------------------------------

PREDICT = Exercise(
    "05.3",
    "predict, then run",
    1,
    10,
    OBJECTIVES[1],
    expected=0.5**12,
    rtol=0.02,
    mistakes=[
        Mistake("that is the root of the mean square; the question is about the mean square itself", 0.5**6),
        Mistake("ReLU throws half of the mean square away, in each of the twelve layers", 1.0),
        Mistake("that is one layer; there are twelve", 0.5),
        Mistake("that is eleven layers: the last one has its ReLU, too", 0.5**11),
        Mistake("the halves multiply, they do not add up", 0.5 / 12),
        Mistake("the signal shrinks: the factor is below 1", 2.0**12),
    ],
)


# --- 05.4 Find the bug ------------------------------------------------------------------------------------------------


def adam_step(theta, g, m, v, t, lr=0.1, b1=0.9, b2=0.999, eps=1e-8, *, correct=(True, True), keep=False,
              power=lambda t: t, late_root=True):
    """One step of Adam; the arguments after the star make the mistakes below."""
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    mean = m / (1 - b1 ** power(t)) if correct[0] else m
    square = v / (1 - b2 ** power(t)) if correct[1] else v
    root = np.sqrt(square) if late_root else np.sqrt(v) / (1 - b2**t)
    theta = theta - lr * mean / (root + eps)
    return (theta, mean, square) if keep else (theta, m, v)


class NotThree(TypeError):
    """A step returned something else than theta, m and v."""


def three_steps(answer, theta, gradients):
    """Parameters, and what is remembered, after three steps."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        result = answer(theta, g, m, v, t)
        if result is None:
            return None
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise NotThree("(theta, m, v)")
        theta, m, v = result
    return theta, m, v


def wrong_adam(**options):
    """Adam with a mistake."""
    return lambda theta, g, m, v, t: adam_step(theta, g, m, v, t, **options)


ADAM = Exercise(
    "05.4",
    "find the bug",
    2,
    20,
    OBJECTIVES[2],
    expected=lambda theta, g, m, v, t: adam_step(theta, g, m, v, t),
    cases=lambda rng: [(rng.normal(size=5), rng.normal(size=(3, 5))), (rng.normal(size=2), 100 * rng.normal(size=(3, 2)))],
    observe=three_steps,
    atol=1e-5,  # where eps counts is a matter of taste
    mistakes=[
        Mistake("this is still the colleague's step: both means start at zero, and nobody makes up for it",
                wrong_adam(correct=(False, False))),
        Mistake("only m is corrected; v starts at zero as well", wrong_adam(correct=(True, False))),
        Mistake("only v is corrected; m starts at zero as well", wrong_adam(correct=(False, True))),
        Mistake("the corrected means are remembered; correct copies, and return m and v as they are", wrong_adam(keep=True)),
        Mistake("the powers are off by one: at the first step t is 1", wrong_adam(power=lambda t: t + 1)),
        Mistake("the power t is missing: 1 - b1 corrects the first step only", wrong_adam(power=lambda t: 1)),
        Mistake("correct v first, then take the root", wrong_adam(late_root=False)),
        Mistake("return three things: theta, m and v", lambda theta, g, m, v, t: adam_step(theta, g, m, v, t)[0]),
    ],
)


# --- 05.5 Warm-up and cosine ------------------------------------------------------------------------------------------


def warmup_cosine(count, warmup, total):
    """Up a ramp, down a wave, then zero."""
    if count < warmup:
        return count / warmup
    share = min((count - warmup) / (total - warmup), 1.0)
    return (1 + np.cos(np.pi * share)) / 2


def whole_schedule(answer, warmup, total):
    """The factors of all steps and of some beyond the last."""
    values = [answer(count, warmup, total) for count in range(total + total // 2)]
    return None if all(value is None for value in values) else np.array(values, dtype=float)


def wave_again(count, warmup, total):
    """Nothing stops the wave."""
    return count / warmup if count < warmup else (1 + np.cos(np.pi * (count - warmup) / (total - warmup))) / 2


def wave_from_zero(count, warmup, total):
    """The wave starts at step 0, so the factor jumps down at the end of the warm-up."""
    return count / warmup if count < warmup else (1 + np.cos(np.pi * min(count / total, 1.0))) / 2


def then(fall):
    """The right ramp, and after it `fall` of the share of the way, from 0 to 1."""
    return lambda c, w, t: c / w if c < w else fall(min((c - w) / (t - w), 1.0))


SCHEDULE = Exercise(
    "05.5",
    "warm-up and cosine",
    2,
    15,
    OBJECTIVES[2],
    expected=warmup_cosine,
    cases=lambda rng: [(4, 20), (7, 31)],
    observe=whole_schedule,
    atol=1e-8,
    mistakes=[
        Mistake("the cosine rises again after `total`; the factor should stay 0", wave_again),
        Mistake("there is a jump at the end of the warm-up: the wave begins there, not at step 0", wave_from_zero),
        Mistake("the ramp begins one step late or early: it is 0 at count 0 and 1 at count `warmup`",
                lambda c, w, t: (c + 1) / w if c < w else warmup_cosine(c, w, t)),
        Mistake("the wave is missing: this falls in a straight line", then(lambda share: 1 - share)),
        Mistake("that is a quarter of a wave: cos runs from 1 to -1 over pi, and (1 + cos) / 2 from 1 to 0",
                then(lambda share: np.cos(np.pi / 2 * share))),
        Mistake("cos runs from 1 to -1: add 1 and halve it", then(lambda share: np.cos(np.pi * share))),
        Mistake("a whole wave comes up again: half of one is pi, not 2 pi",
                then(lambda share: (1 + np.cos(2 * np.pi * share)) / 2)),
        Mistake("the wave takes total - warmup steps, not total: it does not reach 0 in time",
                lambda c, w, t: warmup_cosine(c, w, t + w)),
        Mistake("the warm-up is missing", lambda c, w, t: (1 + np.cos(np.pi * min(c / t, 1.0))) / 2),
    ],
)


# --- 05.6 Dropout, both ways ------------------------------------------------------------------------------------------


def dropout_with_gradient(x, g, p, mask, training):
    """Kept numbers and their gradients are divided by the probability of being kept."""
    factor = mask / (1 - p) if training else np.ones_like(x)
    return x * factor, g * factor


def factors(forward, backward):
    """Dropout whose output and gradient take the factors that these functions of (p, mask, training) give."""
    return lambda x, g, p, mask, training: (x * forward(p, mask, training), g * backward(p, mask, training))


def right(p, mask, training):
    """The right factor."""
    return mask / (1 - p) if training else 1.0


DROPOUT = Exercise(
    "05.6",
    "dropout, both ways",
    2,
    15,
    OBJECTIVES[3],
    expected=dropout_with_gradient,
    cases=lambda rng: [
        (rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), 0.3, rng.random((4, 6)) > 0.3, True),
        (rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), 0.8, rng.random((3, 2)) > 0.8, True),
        (rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), 0.5, rng.random((3, 5)) > 0.5, False),
    ],
    mistakes=[
        Mistake("the mean is not kept: divide what is kept by 1 - p",
                factors(lambda p, m, t: m if t else 1.0, lambda p, m, t: m if t else 1.0)),
        Mistake("divided by p; the probability of being kept is 1 - p",
                factors(lambda p, m, t: m / p if t else 1.0, lambda p, m, t: m / p if t else 1.0)),
        Mistake("the gradient is not masked: what was dropped has no influence on the loss",
                factors(right, lambda p, m, t: 1 / (1 - p) if t else 1.0)),
        Mistake("the gradient is not scaled: y is x times mask / (1 - p), and so is dx",
                factors(right, lambda p, m, t: m if t else 1.0)),
        Mistake("multiplied by 1 - p, which shrinks the mean further: divide",
                factors(lambda p, m, t: m * (1 - p) if t else 1.0, lambda p, m, t: m * (1 - p) if t else 1.0)),
        Mistake("dx is g as it came: what was dropped has no influence, what was kept has 1 / (1 - p)",
                factors(right, lambda p, m, t: 1.0)),
        Mistake("the mask is turned round: it is True where a number is kept",
                factors(lambda p, m, t: right(p, ~m, t), lambda p, m, t: right(p, ~m, t))),
        Mistake("dx is the slope alone: the chain rule multiplies it by g",
                lambda x, g, p, m, t: (x * right(p, m, t), np.ones_like(x) * right(p, m, t))),
        Mistake("in evaluation dropout does nothing, so the gradient passes as it is",
                factors(right, lambda p, m, t: right(p, m, t) if t else 0.0)),
        Mistake("it drops in evaluation, too",
                factors(lambda p, m, t: m / (1 - p), lambda p, m, t: m / (1 - p))),
        Mistake("in evaluation nothing is scaled: training has made up for it already",
                factors(lambda p, m, t: m if t else 1 - p, lambda p, m, t: m if t else 1 - p)),
    ],
)


# --- 05.7 Open: sell houses -------------------------------------------------------------------------------------------


def judge_prices(answer):
    """Run the answer on the chapter's split, and say what its error suggests."""
    table = datasets.ames_housing()
    features, price = table.drop(columns="Sale_Price").to_numpy(float), table["Sale_Price"].to_numpy(float)
    x_train, x_test, y_train, y_test = train_test_split(features, price, test_size=0.2, random_state=0)
    guess = answer(x_train.copy(), y_train.copy(), x_test.copy())
    if guess is None or guess is ...:
        raise NotImplementedError
    guess = np.asarray(guess, dtype=float)
    if guess.shape != y_test.shape:
        return f"expected prices of shape {y_test.shape}, got {guess.shape}"
    if not np.isfinite(guess).all():
        return "some prices are NaN or infinite: did the training diverge?"
    error = root_mean_squared_error(y_test, guess)
    if np.abs(guess).max() < 100:
        return "these look like logarithms, or like standardised prices: undo both before you return them"
    if error > 60_000:
        return f"{error:,.0f} dollars is about what always guessing the mean price gives"
    if error > 30_000:
        return f"{error:,.0f} dollars; a straight line gets 27,728: is every feature standardised, in both tables alike?"
    if error >= 21_000:
        return f"{error:,.0f} dollars; the target is below 21,000. A straight line gets 27,728"
    return None


HOUSES = Exercise(
    "05.7",
    "open: sell houses",
    3,
    60,
    OBJECTIVES[4],
    judge=judge_prices,
    mistakes=[
        Mistake("always guessing the mean price", lambda x, y, z: np.full(len(z), y.mean())),
        Mistake("these look like logarithms", lambda x, y, z: np.full(len(z), np.log(y).mean())),
        Mistake("is every feature standardised", lambda x, y, z: LinearRegression().fit(x[:, 9:10], y).predict(z[:, 9:10])),
        Mistake("A straight line gets 27,728", lambda x, y, z: LinearRegression().fit(x, y).predict(z)),
        Mistake("got (585, 1)", lambda x, y, z: np.full((len(z), 1), y.mean())),
        Mistake("did the training diverge", lambda x, y, z: np.full(len(z), np.nan)),
    ],
)

EXERCISES = [GATED, SMOOTHED, PREDICT, ADAM, SCHEDULE, DROPOUT, HOUSES]
