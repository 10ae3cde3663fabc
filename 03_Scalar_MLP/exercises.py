"""The exercises of chapter 03 and their checks, see `shared.checks`."""

import numpy as np

from shared.checks import Exercise, Mistake
from shared.scalar_autograd import Value
from shared.scalar_mlp import MLP, Layer, Module, make_spirals

# ---- 03.1 predict, then run ----

BIASES = "(a) counts weights only; every neuron also has a bias"
COUNT = "(a) is not the number of parameters; go layer by layer: (inputs + 1) times neurons"
NO_SERIES = "(b) is the first step; the velocity goes on growing: add up 1 + 0.9 + 0.81 + ..."
NO_RATE = "(b) is the velocity; the step is the learning rate times the velocity"
LENGTH = "(b) is not the limit of the step: lr times g / (1 - momentum)"
TIED = "(c) counts the numbers that exist; a state_dict lists a shared one under each of its names"
ENTRIES = "(c) is not the number of entries: take the names of one neuron, twice"


def judge_predictions(answer):
    """The three predictions one by one, without giving the others away."""
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        return "return three numbers: (parameters, length of the step, entries)"
    parameters, length, entries = answer
    if parameters != 54:
        return BIASES if parameters == 43 else COUNT
    if abs(length - 2) > 1e-9:
        return {0.2: NO_SERIES, 20.0: NO_RATE}.get(round(length, 6), LENGTH)
    if entries != 8:
        return TIED if entries == 4 else ENTRIES
    return None


# ---- 03.2 softmax ----


def softmax(z):
    """Probabilities from scores, shifted by the largest score, through which no gradient need flow."""
    top = max(v.data for v in z)
    powers = [(v - top).exp() for v in z]
    total = sum(powers)
    return [power / total for power in powers]


def softmax_unshifted(z):
    powers = [v.exp() for v in z]
    total = sum(powers)
    return [power / total for power in powers]


def softmax_detached(z):
    top = max(v.data for v in z)
    powers = [(v - top).exp() for v in z]
    total = sum(power.data for power in powers)
    return [power / total for power in powers]


def softmax_floats(z):
    return [p.data for p in softmax(z)]


def softmax_values_only(z):
    return [Value(p.data) for p in softmax(z)]


def softmax_cases(rng):
    """Scores and upstream gradients of several lengths, with very large and very small scores among them."""
    cases = [(rng.normal(0, 2, n).tolist(), rng.normal(0, 1, n).tolist()) for n in (1, 2, 3, 5)]
    return [*cases, ([1000.0, 998.5, -3.0], [0.3, -1.2, 2.0]), ([-800.0, -801.0], [1.0, -0.4])]


def observe_softmax(answer, scores, upstream):
    """The probabilities, and the gradients of their sum weighted with `upstream`."""
    z = [Value(s) for s in scores]
    p = answer(z)
    if p is None:
        return None
    if not all(hasattr(q, "derivatives") for q in p):
        return "plain numbers"
    sum(u * q for u, q in zip(upstream, p, strict=True)).backward()
    return [q.data for q in p], [v.grad for v in z]


# ---- 03.3 its gradient ----


def softmax_gradient(p, g):
    """The gradient by the scores: p_j (g_j - sum_i p_i g_i)."""
    mean = sum(a * b for a, b in zip(p, g, strict=True))
    return [a * (b - mean) for a, b in zip(p, g, strict=True)]


def gradient_cases(rng):
    """Probabilities and upstream gradients of several lengths."""
    return [(rng.dirichlet(np.ones(n)).tolist(), rng.normal(0, 1, n).tolist()) for n in (2, 3, 4, 7)]


# ---- 03.4 XOR with two hidden units ----

NOT_A_NETWORK = "return the network itself: an MLP, with parameters() and evaluate(x)"
TOO_WIDE = "the network has more than 9 parameters: two hidden neurons and one output, MLP(2, [2, 1])"
STUCK = "not all four corners lie on their side of zero: try another seed, train longer, or set the numbers by hand"
TIMID = "all four corners are right, but a score lies within 1 of zero: train longer, or enlarge the last layer's weights"


def by_hand(scale):
    """Two hidden units that mean "at least one" and "both"; `scale` stretches the score."""
    model = MLP(2, [2, 1], rng=0)
    numbers = [6, 6, -3, 6, 6, -9, scale, -scale, -scale]
    model.load_state_dict(dict(zip(model.state_dict(), numbers, strict=True)))
    return model


def judge_xor(answer):
    """Whether the returned network has at most 9 parameters and separates the four corners by a margin of 1."""
    model = answer()
    if model is None:
        raise NotImplementedError
    if not (hasattr(model, "evaluate") and hasattr(model, "parameters")):
        return NOT_A_NETWORK
    if len(list(model.parameters())) > 9:
        return TOO_WIDE
    sides = model.evaluate(np.array([[0, 0], [0, 1], [1, 0], [1, 1]])) * [-1, 1, 1, -1]
    return STUCK if not np.all(sides > 0) else TIMID if np.any(sides < 1) else None


# ---- 03.5 the wandering parameters ----


def momentum_step(data, grads, velocities, lr, momentum):
    """One step of gradient descent with momentum: a velocity for each parameter."""
    velocities = [momentum * v + g for v, g in zip(velocities, grads, strict=True)]
    return [p - lr * v for p, v in zip(data, velocities, strict=True)], velocities


def one_velocity_for_all(data, grads, velocities, lr, momentum):
    data, velocity = list(data), velocities[0]
    for i, g in enumerate(grads):
        velocity = momentum * velocity + g
        data[i] -= lr * velocity
    return data, [velocity] * len(data)


def damped(data, grads, velocities, lr, momentum):
    velocities = [momentum * v + (1 - momentum) * g for v, g in zip(velocities, grads, strict=True)]
    return [p - lr * v for p, v in zip(data, velocities, strict=True)], velocities


def forgetful(data, grads, velocities, lr, momentum):
    return momentum_step(data, grads, velocities, lr, momentum)[0], velocities


def old_velocity(data, grads, velocities, lr, momentum):
    return [p - lr * v for p, v in zip(data, velocities, strict=True)], momentum_step(data, grads, velocities, lr, momentum)[1]


def momentum_cases(rng):
    """Start, three gradients, learning rate and momentum, for one to four parameters."""
    return [(rng.normal(0, 1, n).tolist(), rng.normal(0, 1, (3, n)).tolist(), lr, momentum)
            for n, lr, momentum in ((1, 0.1, 0.9), (2, 0.3, 0.5), (4, 0.05, 0.8))]


def observe_momentum(answer, data, gradients, lr, momentum):
    """Parameters and velocities after three steps from rest."""
    velocities = [0.0] * len(data)
    for grads in gradients:
        moved = answer(data, grads, velocities, lr, momentum)
        if moved is None:
            return None
        data, velocities = moved
    return list(data), list(velocities)


# ---- 03.6 a residual block ----


class Residual(Module):
    """Two layers and a path around them."""

    def __init__(self, width, rng):
        self.first = Layer(width, width, "tanh", rng=rng)
        self.second = Layer(width, width, "linear", rng=rng)

    def forward(self, x):
        return [a + b for a, b in zip(x, self.second(self.first(x)), strict=True)]


class WithoutSkip(Residual):
    def forward(self, x):
        return self.second(self.first(x))


class Joined(Residual):
    def forward(self, x):
        return x + self.second(self.first(x))


class BentTwice(Residual):
    def __init__(self, width, rng):
        super().__init__(width, rng)
        for neuron in self.second.neurons:
            neuron.activation = "tanh"


class Hidden(Residual):
    def __init__(self, width, rng):
        super().__init__(width, rng)
        first, second = vars(self).pop("first"), vars(self).pop("second")
        self.body = lambda x: second(first(x))

    def forward(self, x):
        return [a + b for a, b in zip(x, self.body(x), strict=True)]


class SecondFirst(Residual):
    def __init__(self, width, rng):
        self.second = Layer(width, width, "linear", rng=rng)
        self.first = Layer(width, width, "tanh", rng=rng)


class SameTwice(Residual):
    def __init__(self, width, rng):
        super().__init__(width, rng)
        self.second = self.first


def observe_residual(answer, x, seed):
    """The names of the parameters, the outputs, and the gradients of the weighted outputs by inputs and parameters."""
    block = answer(len(x), np.random.default_rng(seed))
    inputs = [Value(v) for v in x]
    outputs = None if block is None else block(inputs)
    if outputs is None:
        return None
    sum((i + 1) * v for i, v in enumerate(outputs)).backward()
    names, parameters = zip(*block.named_parameters(), strict=True) if list(block.parameters()) else ((), ())
    return " ".join(names), [v.data for v in outputs], [v.grad for v in inputs], [p.grad or 0.0 for p in parameters]


def residual_cases(rng):
    """Inputs of several widths, and a seed for the weights."""
    return [(rng.normal(0, 1, width).tolist(), seed) for width, seed in ((1, 3), (2, 4), (4, 5))]


# ---- 03.7 the leanest spiral ----

TARGET = 41
TOO_LARGE = f"that network has more than {TARGET} parameters; which layer can be narrower?"
NOT_SEPARATED = "fewer than 98 % of the fresh spiral points are right; the checker feeds make_spirals(1000, rng=1) as it is"


def judge_spiral(answer):
    """Whether the returned network is small enough and right often enough on fresh points."""
    model = answer()
    if model is None:
        raise NotImplementedError
    if not (hasattr(model, "evaluate") and hasattr(model, "parameters")):
        return NOT_A_NETWORK
    if len(list(model.parameters())) > TARGET:
        return TOO_LARGE
    x, y = make_spirals(1000, rng=1)
    return None if np.mean((model.evaluate(x) > 0) == (y > 0)) >= 0.98 else NOT_SEPARATED


EXERCISES = [
    Exercise(
        "03.1", "Predict, then run", 1, 10, "parameters are found and named", judge=judge_predictions,
        mistakes=[
            Mistake(BIASES, (43, 2.0, 8)),
            Mistake(COUNT, (60, 2.0, 8)),
            Mistake(NO_SERIES, (54, 0.2, 8)),
            Mistake(NO_RATE, (54, 20.0, 8)),
            Mistake(LENGTH, (54, 1.8, 8)),
            Mistake(TIED, (54, 2.0, 4)),
            Mistake(ENTRIES, (54, 2.0, 6)),
        ],
    ),
    Exercise(
        "03.2", "Softmax on scalars", 2, 20, "a loss that does not overflow", softmax, softmax_cases, observe_softmax,
        mistakes=[
            Mistake("right for small scores, but a score of 1000 overflows: subtract the largest one first", softmax_unshifted),
            Mistake("the probabilities are right, the gradients are not: the sum in the denominator must be a Value, "
                    "not a bare number", softmax_detached),
            Mistake("the probabilities are right, but no gradient reaches the scores: compute with the Values themselves",
                    softmax_values_only),
            Mistake("these are plain numbers, which have left the graph: v.exp() instead of math.exp(v)", softmax_floats),
            Mistake("each score was treated alone (a sigmoid): the probabilities must add up to 1",
                    lambda z: [v.sigmoid() for v in z]),
        ],
    ),
    Exercise(
        "03.3", "The gradient of softmax, by hand", 2, 25, "derive a gradient", softmax_gradient, gradient_cases,
        mistakes=[
            Mistake("only the diagonal, i = j: each score also lowers the other probabilities",
                    lambda p, g: [a * (1 - a) * b for a, b in zip(p, g, strict=True)]),
            Mistake("the sum over i is missing: subtract the mean of g, weighted with p",
                    lambda p, g: [a * b for a, b in zip(p, g, strict=True)]),
            Mistake("the sum over i is not weighted with p_i",
                    lambda p, g: [a * (b - sum(g)) for a, b in zip(p, g, strict=True)]),
            Mistake("the mean of g must be weighted with p_i",
                    lambda p, g: [a * (b - sum(g) / len(g)) for a, b in zip(p, g, strict=True)]),
            Mistake("the sign is reversed", lambda p, g: [-v for v in softmax_gradient(p, g)]),
        ],
    ),
    Exercise(
        "03.4", "XOR with two hidden units", 2, 20, "train a network that solves its task", judge=judge_xor,
        mistakes=[
            Mistake(NOT_A_NETWORK, lambda: [6, 6, -3, 6, 6, -9, 5, -5, -5]),
            Mistake(TOO_WIDE, lambda: MLP(2, [3, 1], rng=0)),
            Mistake(STUCK, lambda: MLP(2, [2, 1], rng=0)),
            Mistake(TIMID, lambda: by_hand(0.9)),
        ],
    ),
    Exercise(
        "03.5", "Find the bug: the wandering parameters", 2, 20, "gradient descent with momentum", momentum_step,
        momentum_cases, observe_momentum,
        mistakes=[
            Mistake("still one velocity for all parameters: each needs its own", one_velocity_for_all),
            Mistake("the gradient was multiplied by (1 - momentum), a running mean; this rule adds it in full", damped),
            Mistake("the velocities of the step before are returned: nothing is remembered", forgetful),
            Mistake("the parameters were moved by the old velocity: renew it first", old_velocity),
        ],
    ),
    Exercise(
        "03.6", "A residual block", 2, 20, "make a model out of parts", Residual, residual_cases, observe_residual,
        mistakes=[
            Mistake("the path around the layers is missing: add the input", WithoutSkip),
            Mistake("the lists were joined, not added: add element by element", Joined),
            Mistake("the second layer bends too: it is linear", BentTwice),
            Mistake("the output is right, but the layers cannot be found: keep them in attributes, not in a function", Hidden),
            Mistake("make first before second: they draw from rng in this order", SecondFirst),
            Mistake("one layer is used twice: first and second have weights of their own", SameTwice),
        ],
    ),
    Exercise(
        "03.7", "Open: the leanest spiral", 3, 60, "train and diagnose", judge=judge_spiral,
        mistakes=[
            Mistake(NOT_A_NETWORK, lambda: {"layers.0.neurons.0.bias": 0.0}),
            Mistake(TOO_LARGE, lambda: MLP(2, [8, 8, 1], rng=0)),
            Mistake(NOT_SEPARATED, lambda: MLP(2, [10, 1], rng=0)),
        ],
    ),
]
