"""The exercises of chapter 02, their oracles, and the mistakes that learners make.

Answers are judged by what they do to Values of `shared.scalar_autograd`. A learner's own Values, from the notebook,
work as well: the backward pass asks a node only for its parents, derivatives and gradient.
"""

import math

import numpy as np

from shared.checks import Exercise, Mistake
from shared.scalar_autograd import Value, topological_order

OBJECTIVES = (
    "work out a gradient on paper from local derivatives and the chain rule",
    "check any gradient by numerical differences",
    "add an operation to the engine",
    "say why gradients are added up, and why the order matters",
    "let gradients drive a search for a minimum",
)


# --- 02.1 Predict, then run -------------------------------------------------------------------------------------------


def two_calls():
    """What the exercise's program prints."""
    a = Value(3.0)
    c = a * a + a
    c.backward()
    c.backward()
    return a.grad


PREDICT = Exercise(
    "02.1",
    "predict, then run",
    1,
    5,
    OBJECTIVES[0],
    expected=two_calls(),
    mistakes=[
        Mistake("that is the gradient after one call; a leaf adds what the second call brings", 7.0),
        Mistake("two arrows lead from a to a * a, and each of them brings 3", 8.0),
        Mistake("two arrows lead from a to a * a, and a second call adds to what a leaf has", 4.0),
        Mistake("two arrows lead to a * a, and a third one to the sum: it brings 1", 12.0),
        Mistake("nodes inside the graph start afresh in each call; only leaves add up", 20.0),
        Mistake("the root starts from 1 in each call, not from 1 more than it has; only leaves add up", 21.0),
        Mistake("the root and the nodes inside start afresh in each call; only leaves add up", 27.0),
    ],
)


# --- 02.2 Teach it the sine -------------------------------------------------------------------------------------------


NOT_NUMBERS = "a Value among the local derivatives"


def observe_sine(answer, a, b):
    """Data and gradients with a product below the answer, a square above it, and two calls for one argument."""
    a, b = Value(a), Value(b)
    x = a * b
    y = answer(x)
    if y is None:
        return None
    if not hasattr(y, "derivatives"):
        return "a plain number"
    (y * y * 3.0 + answer(x) * 0.5).backward()
    return NOT_NUMBERS if hasattr(a.grad, "derivatives") else (y.data, a.grad, b.grad)


def sine(x, value=math.sin, slope=math.cos):
    """The sine of a Value, with replaceable parts."""
    return Value(value(x.data), (x,), (slope(x.data),), "sin")


def product_cases(rng):
    """Pairs of numbers of either sign."""
    return [tuple(map(float, rng.uniform(-2, 2, 2))) for _ in range(6)]


SINE = Exercise(
    "02.2",
    "teach it the sine",
    2,
    15,
    OBJECTIVES[2],
    expected=sine,
    cases=product_cases,
    observe=observe_sine,
    mistakes=[
        Mistake(
            "the value is right, but no gradient gets through: the result has no parents", lambda x: Value(sine(x).data)
        ),
        Mistake(
            "the derivative is taken at the result; it is the cosine of the input",
            lambda x: sine(x, slope=lambda number: math.cos(math.sin(number))),
        ),
        Mistake("the derivative has the wrong sign", lambda x: sine(x, slope=lambda number: -math.cos(number))),
        Mistake("the local derivative is missing: it is 1 everywhere", lambda x: sine(x, slope=lambda number: 1.0)),
        Mistake("the local derivative is the sine itself; it should be the cosine", lambda x: sine(x, slope=math.sin)),
        Mistake("that is a plain number, and no gradient flows through it: wrap it in a Value with parents", math.sin),
        Mistake(
            "local derivatives are plain numbers, not Values: take the cosine of x.data",
            lambda x: sine(x, slope=lambda number: Value(math.cos(number))),
        ),
    ],
)


# --- 02.3 Half of what it should be -----------------------------------------------------------------------------------


def observe_edges(answer, a, b, square):
    """The gradients that the arrows bring to both factors, which may be one and the same Value."""
    a = Value(a)
    b = a if square else Value(b)
    arrows = answer(a, b)
    if arrows is None:
        return None
    for parent, derivative in arrows.items() if isinstance(arrows, dict) else arrows:
        parent.grad += derivative
    return NOT_NUMBERS if hasattr(a.grad, "derivatives") else (a.grad, b.grad)


def arrows_of_product(a, b):
    """Two arrows, whether or not they come from one node."""
    return [(a, b.data), (b, a.data)]


HALF = Exercise(
    "02.3",
    "half of what it should be",
    2,
    15,
    OBJECTIVES[3],
    expected=arrows_of_product,
    cases=lambda rng: [(*pair, square) for pair in product_cases(rng) for square in (False, True)],
    observe=observe_edges,
    mistakes=[
        Mistake(
            "this is the dictionary again: where both factors are one object, it has one entry for two arrows",
            lambda a, b: {a: b.data, b: a.data},
        ),
        Mistake(
            "doubling mends the square and spoils all other products",
            lambda a, b: [(a, 2 * b.data), (b, 2 * a.data)] if a is not b else [(a, 2 * a.data)],
        ),
        Mistake(
            "each factor gets its own value; a product hands on the other factor",
            lambda a, b: [(a, a.data), (b, b.data)],
        ),
        Mistake("there is only one arrow, to the first factor", lambda a, b: [(a, b.data)]),
        Mistake("local derivatives are plain numbers: b.data, not b", lambda a, b: [(a, b), (b, a)]),
        Mistake("pairs are asked for, (parent, derivative), one for each arrow", lambda a, b: [b.data, a.data]),
        Mistake("in each pair the parent comes first", lambda a, b: [(b.data, a), (a.data, b)]),
    ],
)


# --- 02.4 A share, on paper -------------------------------------------------------------------------------------------


def share_gradient(a, b):
    """The derivatives of a / (a + b)."""
    return b / (a + b) ** 2, -a / (a + b) ** 2


SHARE = Exercise(
    "02.4",
    "a share, on paper",
    1,
    10,
    OBJECTIVES[0],
    expected=share_gradient,
    cases=lambda rng: [tuple(map(float, rng.uniform(0.2, 3, 2))) for _ in range(5)],
    mistakes=[
        Mistake(
            "the derivative by a lacks the path through the sum: a stands in the denominator as well",
            lambda a, b: (1 / (a + b), -a / (a + b) ** 2),
        ),
        Mistake(
            "the derivative by b has the wrong sign: a larger b makes a's share smaller",
            lambda a, b: (b / (a + b) ** 2, a / (a + b) ** 2),
        ),
        Mistake("the denominator must be squared", lambda a, b: (b / (a + b), -a / (a + b))),
        Mistake(
            "the derivative by a lacks the direct path: a stands in the numerator as well",
            lambda a, b: (-a / (a + b) ** 2, -a / (a + b) ** 2),
        ),
        Mistake("the two derivatives have changed places", lambda a, b: share_gradient(a, b)[::-1]),
    ],
)


# --- 02.5 Six claims --------------------------------------------------------------------------------------------------

CLAIMS = {
    "a": (lambda x: x * math.exp(x), lambda x: (1 + x) * math.exp(x)),
    "b": (lambda x: math.log(x * x + 1), lambda x: 1 / (x * x + 1)),
    "c": (lambda x: math.tanh(x) ** 2, lambda x: 2 * math.tanh(x) * (1 - math.tanh(x) ** 2)),
    "d": (lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
    "e": (lambda x: x * abs(x), lambda x: 2 * x),
    "f": (lambda x: math.sqrt(1 + x * x), lambda x: x / math.sqrt(1 + x * x)),
}


def wrong_claims(points, h=1e-5):
    """The letters of the claims that differ from the numerical difference at one of the points."""
    return "".join(
        letter
        for letter, (f, claimed) in CLAIMS.items()
        if any(abs((f(x + h) - f(x - h)) / (2 * h) - claimed(x)) > 1e-6 for x in points)
    )


def judge_claims(answer):
    """What is wrong with the letters named, in whatever order and with whatever signs between them."""
    wrong = set(wrong_claims([-1.3, 0.4, 2.0]))
    if not isinstance(answer, str) or not (named := {letter for letter in answer.lower() if letter.isalpha()}):
        return 'give the letters as one string, such as "ace"'
    if named - set(CLAIMS):
        return "the claims have the letters a to f"
    if named == set(CLAIMS) - wrong:
        return "these are the right claims; the wrong ones are asked for"
    if named - wrong:
        return "a claim is named that is right: with too small a step you see rounding noise, with too large a one the bend"
    if "b" not in named:
        return "a claim is missing: does every claim hold at more than one point?"
    return None if named == wrong else "one claim more is wrong: test at negative points too"


CHECKED = Exercise(
    "02.5",
    "six claims",
    2,
    15,
    OBJECTIVES[1],
    judge=judge_claims,
    mistakes=[
        Mistake("test at negative points too", wrong_claims([0.4, 2.0])),
        Mistake("hold at more than one point", "e"),
        Mistake("these are the right claims", "acdf"),
        Mistake("rounding noise", wrong_claims([-1.3, 0.4], h=1e-13)),
        Mistake("as one string", ["b", "e"]),
        Mistake("the letters a to f", "b and e"),
    ],
)


# --- 02.6 Count the paths ---------------------------------------------------------------------------------------------


class Place:
    """A node that has nothing but parents, and whose graph allows only so many looks at them."""

    def __init__(self, parents, looks):
        self._parents, self._looks = parents, looks

    @property
    def parents(self):
        if not self._looks:
            raise RuntimeError("your function looks at the same nodes again and again; with so many paths it never ends")
        self._looks.pop()
        return self._parents


def observe_count(answer, recipe):
    """Build the graph of a recipe, which lists for each node the numbers of its parents, and ask for the count."""
    looks, places = [None] * (20 * len(recipe) + 20), []
    for numbers in recipe:
        places.append(Place(tuple(places[i] for i in numbers), looks))
    return answer(places[-1], places[0])


def count_recipes(rng):
    """A leaf alone, chains, diamonds (many), paths of different lengths, and random graphs."""
    forty = [(), *((i, i) for i in range(40))]
    tangled = [(), *(tuple(map(int, rng.integers(0, i, 1 + i % 3))) for i in range(1, 14))]
    return [([(), (0,), (1,)],), ([(), (0,), (1, 1, 0), (2, 1)],), (tangled,), (forty,), ([()],)]


def count_paths(root, leaf, order=topological_order):
    """The backward pass with all local derivatives 1."""
    paths = {root: 1}
    for node in reversed(order(root, lambda node: node.parents)):
        for parent in node.parents:
            paths[parent] = paths.get(parent, 0) + paths[node]
    return paths[leaf]


def level_by_level(root, parents):
    """What looks like a topological order, and is none where paths of different lengths meet."""
    levels = [root]
    for node in levels:
        levels += [parent for parent in dict.fromkeys(parents(node)) if parent not in levels]
    return levels[::-1]


def count_by_walking(root, leaf):
    """Correct, and exponential."""
    return 1 if root is leaf else sum(count_by_walking(parent, leaf) for parent in root.parents)


def count_distinct(root, leaf):
    """Two arrows between the same nodes counted as one."""
    paths = {root: 1}
    for node in reversed(topological_order(root, lambda node: node.parents)):
        for parent in dict.fromkeys(node.parents):
            paths[parent] = paths.get(parent, 0) + paths[node]
    return paths[leaf]


def count_from_the_front(root, leaf):
    """The order taken as it is, from the leaves to the root."""
    order = topological_order(root, lambda node: node.parents)
    paths = {node: float(node is root) for node in order}
    for node in order:
        for parent in node.parents:
            paths[parent] += paths[node]
    return paths[leaf]


COUNT = Exercise(
    "02.6",
    "count the paths",
    3,
    25,
    OBJECTIVES[3],
    expected=count_paths,
    cases=count_recipes,
    observe=observe_count,
    mistakes=[
        Mistake("it walks every single path: right, but 40 diamonds have 2**40 of them", count_by_walking),
        Mistake(
            "level by level, a node has its turn before all nodes that use it had theirs",
            lambda root, leaf: count_paths(root, leaf, level_by_level),
        ),
        Mistake("two arrows between the same two nodes are two paths", count_distinct),
        Mistake("that is whether there is a path, not how many", lambda root, leaf: 1),
        Mistake("walked from the front: the root, which has the first path, stands at the back", count_from_the_front),
    ],
)


# --- 02.7 Down the banana ---------------------------------------------------------------------------------------------

BUDGET, TARGET = 1000, 1e-3


class OutOfBudget(Exception):
    """The function was called too often."""


def banana(x, y):
    """Rosenbrock's valley, with its minimum 0 at (1, 1)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def judge_descent(answer):
    """None where the point found is good enough from both starting points, else what to try."""
    for start in ((-1.2, 1.0), (1.5, -0.5)):
        calls = []

        def counted(x, y, calls=calls):
            calls.append(None)
            if len(calls) > BUDGET:
                raise OutOfBudget
            return banana(x, y)

        try:
            point = answer(counted, *start)
        except OutOfBudget:
            return f"it calls f more than {BUDGET} times"
        except OverflowError:
            return "it diverged: the step is too large for the steep direction"
        if point is None:
            raise NotImplementedError
        x, y = (float(coordinate) for coordinate in point)
        if not calls:
            return "it never calls f: let the gradient find the minimum"
        if not (math.isfinite(x) and math.isfinite(y)) or max(abs(x), abs(y)) > 100:
            return "it diverged: the step is too large for the steep direction"
        if banana(x, y) >= TARGET:
            return f"from {start} it gets only as far as f = {banana(x, y):.2g}: it is too slow along the valley"
    return None


def descend(f, x, y, lr=0.0005, friction=0.95, steps=BUDGET):
    """Gradient descent with a velocity."""
    place, velocity = np.array([x, y], dtype=float), np.zeros(2)
    for _ in range(steps):
        leaves = [Value(number) for number in place]
        f(*leaves).backward()
        velocity = friction * velocity - lr * np.array([leaf.grad for leaf in leaves])
        place = place + velocity
    return tuple(place)


BANANA = Exercise(
    "02.7",
    "open: down the banana",
    3,
    30,
    OBJECTIVES[4],
    judge=judge_descent,
    mistakes=[
        Mistake("too slow along the valley", lambda f, x, y: descend(f, x, y, friction=0.0)),
        Mistake("it diverged", lambda f, x, y: descend(f, x, y, lr=0.005, steps=20)),
        Mistake(f"more than {BUDGET} times", lambda f, x, y: descend(f, x, y, steps=BUDGET + 1)),
        Mistake("it never calls f", lambda f, x, y: (1.0, 1.0)),
    ],
)


EXERCISES = [PREDICT, SINE, HALF, SHARE, CHECKED, COUNT, BANANA]
