"""The exercises of chapter 07, their oracles, and the mistakes that learners make."""

import numpy as np

from shared.checks import Exercise, Mistake

OBJECTIVES = (
    "follow every shape through attention, from ids to logits",
    "derive attention's gradient, and extend it",
    "give tokens positions, and keep a deep network's signal and gradient in shape",
    "cut text into tokens, assemble a GPT and count what it costs",
    "train one, make it write, and find what is wrong with it",
)


# --- 07.1 Predict, then run -------------------------------------------------------------------------------------------


def shapes(*, thirds=3, order="heads first", diagonal=False, texts=3, heads=6, biases=True, size=8, output=True):
    """Shapes, hidden weights and parameters of MultiHeadAttention(48, 6) on (3, 10, 48); the settings make the mistakes."""
    q = (3, 6, 10, size) if order == "heads first" else (3, 10, 6, size)
    hidden = texts * heads * (10 * 11 if diagonal else 10 * 9) // 2
    parameters = (4 if output else 3) * 48 * 48 + ((4 if output else 3) * 48 if biases else 0)
    return (3, 10, thirds * 48), q, (3, 6, 10, 10), hidden, parameters


PREDICT = Exercise(
    "07.1",
    "predict, then run",
    1,
    10,
    OBJECTIVES[0],
    expected=shapes(),
    mistakes=[
        Mistake("c_attn makes queries, keys and values at once: three times the width", shapes(thirds=1)),
        Mistake("the heads stand in front of the letters, (B, H, T, D), so that each is a matrix product of its own",
                shapes(order="letters first")),
        Mistake("a letter hears itself: the diagonal is not hidden", shapes(diagonal=True)),
        Mistake("the mask hides these weights in each of the three texts", shapes(texts=1)),
        Mistake("that is one table of weights: every head of every text has its own", shapes(texts=1, heads=1)),
        Mistake("both linear layers have a bias", shapes(biases=False)),
        Mistake("the heads share the width: each has 48/6 columns", shapes(size=48)),
        Mistake("queries, keys and values lie apart by now: those of a head have 48/6 columns each", shapes(size=24)),
        Mistake("c_proj, which mixes the heads, has parameters, too", shapes(output=False)),
    ],
)


# --- 07.2 A bias for each distance ------------------------------------------------------------------------------------


def biased_backward(q, k, v, b, g, *, biased=True, masked=True, centred=True, scaled=True, once=False, late=0, crossed=False):
    """The gradients of causal attention with b[i - j] added to its scores; the settings make the mistakes below."""
    (length, width), rows = q.shape, np.arange(len(q))
    scale = width**-0.5
    past = np.tri(length, dtype=bool) if masked else np.ones((length, length), bool)
    distance = rows[:, None] - rows
    distance = np.maximum(distance, 0) if masked else distance % length  # NumPy counts negative places from the end
    s = np.where(past, q @ k.T * scale + (b[distance] if biased else 0), -np.inf)
    a = np.exp(s - s.max(1, keepdims=True))
    a /= a.sum(1, keepdims=True)
    ds = a * (g @ v.T - ((g * (a @ v)).sum(1, keepdims=True) if centred else 0))
    db = np.zeros(length + 1)
    if once:
        db[distance[past]] = ds[past]
    else:
        np.add.at(db, distance + late, ds)
    dq, dk = (ds.T @ k, ds @ q) if crossed else (ds @ k, ds.T @ q)
    factor = scale if scaled else 1
    return dq * factor, dk * factor, a.T @ g, db[:length]


def scaled_bias(*case):
    """The bias's gradient carries the scale, too."""
    dq, dk, dv, db = biased_backward(*case)
    return dq, dk, dv, db * case[0].shape[1] ** -0.5


BIASED = Exercise(
    "07.2",
    "a bias for each distance",
    3,
    40,
    OBJECTIVES[1],
    expected=biased_backward,
    cases=lambda rng: [
        (rng.normal(size=(t, d)), rng.normal(size=(t, d)), rng.normal(size=(t, e)), rng.normal(size=t), rng.normal(size=(t, e)))
        for t, d, e in ((6, 3, 4), (9, 5, 2))
    ],
    mistakes=[
        Mistake("the weights must be computed with the bias in the scores", lambda *c: biased_backward(*c, biased=False)),
        Mistake("the head is causal: no letter hears a later one", lambda *c: biased_backward(*c, masked=False)),
        Mistake("the softmax's own term is missing: subtract g_i . y_i from g_i . v_j",
                lambda *c: biased_backward(*c, centred=False)),
        Mistake("the scale is missing in dq and dk", lambda *c: biased_backward(*c, scaled=False)),
        Mistake("the bias is added after the scaling: its gradient carries no scale", scaled_bias),
        Mistake("a bias stands at many places of its diagonal: their gradients add up, the last does not win",
                lambda *c: biased_backward(*c, once=True)),
        Mistake("b[0] belongs to the diagonal: yours is one place late", lambda *c: biased_backward(*c, late=1)),
        Mistake("dS is transposed in the wrong one: dq = dS K, dk = dS^T Q", lambda *c: biased_backward(*c, crossed=True)),
    ],
)


# --- 07.3 Rotations by halves -----------------------------------------------------------------------------------------


def rotate_halves(x, positions, base, *, sign=1, speed=1, counted=False, neighbours=False, woven=False, mirrored=False):
    """x with columns i and i + D / 2 turned together; the settings make the mistakes below."""
    half = x.shape[1] // 2
    t = np.arange(len(x)) if counted else positions
    angle = sign * t[:, None] * base ** (-speed * np.arange(half) / half)
    first, second = (x[:, 0::2], x[:, 1::2]) if neighbours else (x[:, :half], x[:, half:])
    cos, sin = np.cos(angle), np.sin(angle)
    turned = first * cos + (second if mirrored else -second) * sin, first * sin + second * cos
    return np.stack(turned, 2).reshape(x.shape) if neighbours or woven else np.concatenate(turned, 1)


def turned_in_place(x, positions, base):
    """Writes the first half before it reads it for the second."""
    half = x.shape[1] // 2
    angle, out = positions[:, None] * base ** (-np.arange(half) / half), x.copy()
    out[:, :half] = out[:, :half] * np.cos(angle) - out[:, half:] * np.sin(angle)
    out[:, half:] = out[:, :half] * np.sin(angle) + out[:, half:] * np.cos(angle)
    return out


HALVES = Exercise(
    "07.3",
    "rotations by halves",
    2,
    20,
    OBJECTIVES[2],
    expected=rotate_halves,
    cases=lambda rng: [
        (rng.normal(size=(5, 8)), np.arange(3, 8), 10000.0),
        (rng.normal(size=(4, 6)), np.array([7, 0, 2, 40]), 100.0),
    ],
    mistakes=[
        Mistake("you turn backwards: the minus belongs to the first half's line", lambda *c: rotate_halves(*c, sign=-1)),
        Mistake("neighbouring columns are paired; here column i goes with column i + D/2",
                lambda *c: rotate_halves(*c, neighbours=True)),
        Mistake("the halves are read right and written back as neighbours", lambda *c: rotate_halves(*c, woven=True)),
        Mistake("one of the rotation's two lines has a minus: x' = x cos - y sin, y' = x sin + y cos",
                lambda *c: rotate_halves(*c, mirrored=True)),
        Mistake("the second half was turned with the first half's new values: it needs the old ones", turned_in_place),
        Mistake("the speeds are base^(-2i/D), not base^(-i/D)", lambda *c: rotate_halves(*c, speed=0.5)),
        Mistake("the speeds must fall from pair to pair: the exponent is negative", lambda *c: rotate_halves(*c, speed=-1)),
        Mistake("the positions are given and need not count from 0", lambda *c: rotate_halves(*c, counted=True)),
    ],
)


# --- 07.4 The gradient of RMS norm ------------------------------------------------------------------------------------


def rms_norm_backward(x, weight, g, eps, *, way=True, centred=False, weighted=True, factor=True, summed=True, total=False,
                      last=False, twice=False):
    """The gradients by x and weight; the settings make the mistakes below."""
    r = 1 / np.sqrt((x * x).mean(1, keepdims=True) + eps)
    n, h = x * r, g * weight if weighted and not last else g
    along = (h * n).sum(1, keepdims=True) if total else (h * n).mean(1, keepdims=True)
    dx = h - (n * along if way else 0) - (h.mean(1, keepdims=True) if centred else 0)
    dweight = (h if twice else g) * n
    return dx * (r if factor else 1) * (weight if last else 1), dweight.sum(0) if summed else dweight


RMS = Exercise(
    "07.4",
    "the gradient of RMS norm",
    2,
    25,
    OBJECTIVES[2],
    expected=rms_norm_backward,
    cases=lambda rng: [
        (2 * rng.normal(size=(4, 3)) + 1, rng.normal(size=3), rng.normal(size=(4, 3)), 1e-5),
        (rng.normal(size=(2, 6)), rng.normal(size=6), rng.normal(size=(2, 6)), 0.1),
    ],
    mistakes=[
        Mistake("the way through r is missing: x changes its own size", lambda *c: rms_norm_backward(*c, way=False)),
        Mistake("that is layer norm's gradient: without a mean in the forward pass no mean is subtracted here",
                lambda *c: rms_norm_backward(*c, centred=True)),
        Mistake("the mean of squares carries 1/C: the second term has a mean, not a sum",
                lambda *c: rms_norm_backward(*c, total=True)),
        Mistake("what arrives at n is g times the weight", lambda *c: rms_norm_backward(*c, weighted=False)),
        Mistake("the weight comes too late: g is multiplied by it before the mean is taken",
                lambda *c: rms_norm_backward(*c, last=True)),
        Mistake("y = w n: the gradient by w is g times n, without w", lambda *c: rms_norm_backward(*c, twice=True)),
        Mistake("the factor r is missing: n is x times r", lambda *c: rms_norm_backward(*c, factor=False)),
        Mistake("dweight is not summed over the rows: the weight was broadcast, so its gradient is a sum",
                lambda *c: rms_norm_backward(*c, summed=False)),
    ],
)


# --- 07.5 Encode with merges ------------------------------------------------------------------------------------------


def merged(ids, pair, new):
    """Every occurrence of the pair, from the left, replaced."""
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == tuple(pair):
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def bpe_encode(ids, merges):
    """The merges one after the other, in the order in which they were learned."""
    ids = list(ids)
    for i, pair in enumerate(merges):
        ids = merged(ids, pair, 256 + i)
    return ids


def once_each(ids, merges):
    """Each merge replaces its first occurrence only."""
    ids = list(ids)
    for new, pair in enumerate(merges, 256):
        for i in range(len(ids) - 1):
            if tuple(ids[i : i + 2]) == tuple(pair):
                ids[i : i + 2] = [new]
                break
    return ids


def overlapping(ids, merges):
    """Pairs that share an id are merged both."""
    ids = list(ids)
    for new, pair in enumerate(merges, 256):
        hit = [tuple(ids[i : i + 2]) == tuple(pair) for i in range(len(ids))]
        ids = [new if hit[i] else ids[i] for i in range(len(ids)) if hit[i] or not (i and hit[i - 1])]
    return ids


def leftmost_first(ids, merges):
    """Goes from left to right and merges whatever fits, whichever was learned first."""
    ids, table, i = list(ids), {tuple(pair): 256 + n for n, pair in enumerate(merges)}, 0
    while i < len(ids) - 1:
        new = table.get(tuple(ids[i : i + 2]))
        if new is None:
            i += 1
        else:
            ids[i : i + 2] = [new]
            i = max(0, i - 1)
    return ids


def single_walk(ids, merges):
    """Goes through the word once, and merges whatever fits."""
    out, table, i = [], {tuple(pair): 256 + n for n, pair in enumerate(merges)}, 0
    while i < len(ids):
        new = table.get(tuple(ids[i : i + 2]))
        out.append(ids[i] if new is None else new)
        i += 1 if new is None else 2
    return out


def bytes_only(ids, merges):
    """Forgets that a merge may use the result of an earlier one."""
    return bpe_encode(ids, [pair if max(pair) < 256 else (-1, -1) for pair in merges])


def random_word(rng, letters=3, length=14, count=7):
    """A word of few letters, so that pairs abound, and merges as they could have been learned: no pair comes twice."""
    word, merges = rng.integers(97, 97 + letters, length).tolist(), []
    while len(merges) < count:
        known = [*range(97, 97 + letters), *range(256, 256 + len(merges))]
        pair = (int(rng.choice(known)), int(rng.choice(known)))
        if pair not in merges:
            merges.append(pair)
    return word, merges


ENCODE = Exercise(
    "07.5",
    "encode with merges",
    2,
    20,
    OBJECTIVES[3],
    expected=bpe_encode,
    cases=lambda rng: [
        ([97, 97, 97, 97, 97], [(97, 97), (256, 97)]),
        ([98, 97, 98, 97, 97, 98], [(97, 98), (98, 97), (257, 256)]),
        ([99, 97, 98, 99, 97, 98], [(97, 98), (99, 97), (99, 256)]),
        *(random_word(rng) for _ in range(8)),
        ([120], [(97, 98)]),
    ],
    mistakes=[
        Mistake("each merge is applied to the first place only: it replaces every occurrence", once_each),
        Mistake("in a run such as aaa the pairs overlap: an id that was merged is used up", overlapping),
        Mistake("you merge what comes first in the word: what was learned first comes first", leftmost_first),
        Mistake("one walk through the word is not enough: each merge walks through it anew", single_walk),
        Mistake("merges that use the result of an earlier merge are missing", bytes_only),
        Mistake("the first merged pair becomes 256, the number of bytes",
                lambda ids, merges: [i + 1 if i > 255 else i for i in bpe_encode(ids, merges)]),
    ],
)


# --- 07.6 Predict, then run -------------------------------------------------------------------------------------------

BLOCKS, WIDTH, PLACES, LETTERS = 6, 384, 256, 65
TRAINED = BLOCKS * (12 * WIDTH**2 + 2 * WIDTH) + WIDTH + 2 * LETTERS * WIDTH

COUNT = Exercise(
    "07.6",
    "predict, then run: parameters",
    1,
    10,
    OBJECTIVES[3],
    expected=TRAINED,
    rtol=0,
    atol=0.5,
    mistakes=[
        Mistake("the output layer has a table of its own here, it is not tied", TRAINED - LETTERS * WIDTH),
        Mistake("rotary positions have no table to train", TRAINED + PLACES * WIDTH),
        Mistake("the norm behind the last block is missing", TRAINED - WIDTH),
        Mistake("there are two norms in each block", TRAINED - BLOCKS * WIDTH),
        Mistake("an RMS norm has a gain and no shift", TRAINED + (2 * BLOCKS + 1) * WIDTH),
        Mistake("there are no biases: neither in the linear layers nor in the norms", TRAINED + BLOCKS * 11 * WIDTH + WIDTH),
        Mistake("the linear layers have no biases here", TRAINED + BLOCKS * 9 * WIDTH),
        Mistake("the gains of the norms are trained, too", TRAINED - (2 * BLOCKS + 1) * WIDTH),
        Mistake("the two tables of letters are trained, too", TRAINED - 2 * LETTERS * WIDTH),
        Mistake("the feed-forward network is missing: two matrices of 4 C^2", TRAINED - BLOCKS * 8 * WIDTH**2),
        Mistake("that is the count of section 11.2, with biases, a table of positions and a single table of letters",
                BLOCKS * (12 * WIDTH**2 + 13 * WIDTH) + (LETTERS + PLACES + 2) * WIDTH),
    ],
)


# --- 07.7 Find the bug ------------------------------------------------------------------------------------------------


def attend(q, k, v, *, late=None, scale=None, axis=1, after=False):
    """Causal attention of the last L of S positions; the options make the mistakes below."""
    late = len(k) - len(q) if late is None else late(len(q), len(k))
    scores = q @ k.T / (np.sqrt(q.shape[1]) if scale is None else scale)
    hidden = ~np.tri(len(q), len(k), late, dtype=bool)
    if not after:
        scores[hidden] = -np.inf
    with np.errstate(invalid="ignore"):  # a query that sees nothing, in some of the mistakes
        e = np.exp(scores - scores.max(1, keepdims=True))
        weights = e / e.sum(axis, keepdims=True)
    if after:
        weights[hidden] = 0
    return weights @ v


ATTEND = Exercise(
    "07.7",
    "find the bug: the mask behind a cache",
    2,
    20,
    OBJECTIVES[4],
    expected=attend,
    cases=lambda rng: [
        (rng.normal(size=(size, 4)), rng.normal(size=(known, 4)), rng.normal(size=(known, 3)))
        for size, known in ((2, 5), (3, 7), (1, 4), (4, 4))
    ],
    mistakes=[
        Mistake("that is the mask as it was: query 0 stands behind S - L earlier positions and sees them, too",
                lambda q, k, v: attend(q, k, v, late=lambda a, b: 0)),
        Mistake("no mask at all: the new letters see those after them", lambda q, k, v: attend(q, k, v, late=lambda a, b: b)),
        Mistake("the mask is one place too generous: each query sees the next letter",
                lambda q, k, v: attend(q, k, v, late=lambda a, b: b - a + 1)),
        Mistake("the mask is one place too strict: a letter hears itself",
                lambda q, k, v: attend(q, k, v, late=lambda a, b: b - a - 1)),
        Mistake("the mask is shifted by the number of queries; it is shifted by the S - L positions before them",
                lambda q, k, v: attend(q, k, v, late=lambda a, b: a)),
        Mistake("the weights of a query add up to 1: sum over the keys, axis 1", lambda q, k, v: attend(q, k, v, axis=0)),
        Mistake("the scores are not divided by the root of the width D", lambda q, k, v: attend(q, k, v, scale=1.0)),
        Mistake("the mask comes after the softmax: the rows no longer add up to 1", lambda q, k, v: attend(q, k, v, after=True)),
    ],
)


# --- 07.8 Open: teach it to add ---------------------------------------------------------------------------------------


def sums():
    """All pairs of numbers from 0 to 99 in random order, the first nine tenths for training, and a thousand of the rest."""
    pairs = np.random.default_rng(0).permutation(10_000)
    a, b = pairs // 100, pairs % 100
    return (a[:9000], b[:9000]), (a[9000:], b[9000:])


def share_right(guess, a, b):
    """Which share of the sums is right."""
    return float(np.mean(np.asarray(guess) == a + b))


def turned(numbers):
    """Three digits the other way round."""
    numbers = np.asarray(numbers)
    return numbers % 10 * 100 + numbers // 10 % 10 * 10 + numbers // 100


def judge_adder(train_adder):
    """Train on nine tenths of all pairs, ask for a thousand others."""
    (a, b), (c, d) = sums()
    add = train_adder(a.copy(), b.copy())
    if add is None:
        raise NotImplementedError
    guess = np.asarray(add(c.copy(), d.copy()))
    if guess.shape != c.shape or guess.dtype.kind not in "iu":
        return f"add must return {len(c)} integers, an array of shape {c.shape}; got {guess.dtype} of shape {guess.shape}"
    reached = share_right(guess, c, d)
    if reached >= 0.99:
        return None
    if share_right(turned(guess), c, d) > 0.9:
        return "the answers are written from the last digit: turn them back into numbers"
    if np.mean(guess == (c + d) % 100) > 0.9:
        return "the hundreds are missing: the answer has three digits, from 000 to 198"
    last_right, missed = guess % 10 == (c + d) % 10, np.abs(guess - c - d)[guess != c + d]
    if np.mean(last_right) > 0.9 and np.mean(np.isin(missed, (10, 90, 100, 110))) > 0.8:
        return "the last digits are right and the carries are not: train longer, or let the model write the last digit first"
    if np.mean(last_right) < 0.5:
        return (f"{reached:.1%} of the sums are right: the last digits are not learned yet. They come late and suddenly: "
                "train longer, or take a wider model")
    return f"{reached:.1%} of the sums are right, the target is 99 %"


def without_carry(a, b):
    """Adds digit by digit and never carries."""
    return (a // 10 + b // 10) % 10 * 10 + (a + b) % 10


ADDER = Exercise(
    "07.8",
    "open: teach it to add",
    3,
    60,
    OBJECTIVES[4],
    judge=judge_adder,
    mistakes=[
        Mistake("the answers are written from the last digit: turn them back into numbers",
                lambda a, b: lambda c, d: turned(c + d)),
        Mistake("the last digits are right and the carries are not: train longer, or let the model write the last digit first",
                lambda a, b: without_carry),
        Mistake("the hundreds are missing: the answer has three digits, from 000 to 198",
                lambda a, b: lambda c, d: (c + d) % 100),
        Mistake("the last digits are not learned yet", lambda a, b: lambda c, d: (c + d) // 10 * 10),
        Mistake("of the sums are right, the target is 99 %", lambda a, b: lambda c, d: c + d + 3 * (c % 5 == 0)),
        Mistake("add must return 1000 integers, an array of shape (1000,); got float64 of shape (1000,)",
                lambda a, b: lambda c, d: (c + d) / 1),
    ],
)


EXERCISES = [PREDICT, BIASED, HALVES, RMS, ENCODE, COUNT, ATTEND, ADDER]
