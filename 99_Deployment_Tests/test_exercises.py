"""The exercise checker, and every exercise of the course: right answers pass, each typical mistake is told apart."""

import numpy as np
import pytest

from shared import CHAPTER_FOLDERS
from shared.checks import NOT_ATTEMPTED, Exercise, Mistake, check, exercises, grade
from shared.transformers import BPETokenizer

CHAPTERS = [folder.name[:2] for folder in CHAPTER_FOLDERS if (folder / "exercises.py").exists()]
ALL = [exercise for chapter in CHAPTERS for exercise in exercises(chapter).values()]
STARS = {1, 2, 3}


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_exercise(exercise):
    """The oracle passes, nothing is not an answer, and each of three or more mistakes gets its own diagnosis."""
    if exercise.judge is None:
        assert grade(exercise, exercise.expected).passed is True
    for nothing in (None, ..., *([lambda *case: None] if exercise.cases else [])):
        assert grade(exercise, nothing).passed is None
    assert len(exercise.mistakes) >= 3
    said = []
    for mistake in exercise.mistakes:
        verdict = grade(exercise, mistake.answer)
        assert verdict.passed is False, mistake.diagnosis
        assert mistake.diagnosis in verdict.message
        said.append(verdict.message)
    assert len(set(said)) == len(said), "two mistakes get the same words"
    assert exercise.stars in STARS and exercise.minutes > 0 and exercise.title and exercise.objective


def test_the_tokeniser_of_chapter_07_solves_its_own_exercise():
    """It looks for the pair that was learned first among those present; the solution applies merge after merge."""
    def encode(ids, merges):
        return BPETokenizer(merges).encode(bytes(ids).decode("ascii")).tolist()

    assert grade(exercises("07")["07.5"], encode).passed is True


def test_a_step_of_adam_may_change_its_averages_in_place_and_add_eps_where_the_paper_does():
    def step(theta, g, m, v, t):
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        return theta - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v

    def as_the_paper_computes_it(theta, g, m, v, t):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        return theta - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8), m, v

    assert grade(exercises("05")["05.4"], step).passed is True
    assert grade(exercises("05")["05.4"], as_the_paper_computes_it).passed is True


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_ids_are_numbered_within_their_chapter(chapter):
    assert list(exercises(chapter)) == [f"{chapter}.{i + 1}" for i in range(len(exercises(chapter)))]


def mean_gradient(x, y):
    """The oracle of the example below."""
    return 2 * (x.T @ y) / len(x)


EXAMPLE = Exercise(
    "77.1",
    "a gradient",
    stars=2,
    minutes=10,
    objective="to derive a gradient",
    expected=mean_gradient,
    cases=lambda rng: [(rng.normal(size=(5, 3)), rng.normal(size=5)), (rng.normal(size=(2, 4)), rng.normal(size=2))],
    mistakes=[
        Mistake("off by 1/N: the loss is a mean", lambda x, y: 2 * (x.T @ y)),
        Mistake("the square gives a factor of two", lambda x, y: x.T @ y / len(x)),
        Mistake("transposed", lambda x, y: x @ y),
    ],
)


@pytest.mark.parametrize(
    ("answer", "passed", "words"),
    [
        (mean_gradient, True, "passed"),
        (lambda x, y: mean_gradient(x, y).tolist(), True, "passed"),
        (None, None, NOT_ATTEMPTED),
        (lambda x, y: None, None, NOT_ATTEMPTED),
        (lambda x, y: ..., None, NOT_ATTEMPTED),
        (lambda x, y: 2 * (x.T @ y), False, "off by 1/N"),
        (lambda x, y: x @ y, False, "transposed"),
        (lambda x, y: mean_gradient(x, y) + 1, False, "expected"),
        (lambda x, y: mean_gradient(x, y)[:, None], False, "the shape is (3, 1), expected (3,)"),
        (lambda x, y: "text", False, "expected"),
        (lambda x, y: {"a": 1}, False, "cannot be compared"),
        (lambda x, y: mean_gradient(x, y) * np.nan, False, "got nan"),
        (lambda x, y: 1 / 0, False, "ZeroDivisionError"),
        (lambda x: x, False, "TypeError"),
        (lambda x, y: x.fill(0) or mean_gradient(x, y), False, "changes its arguments"),
        ("a string", False, "TypeError"),
    ],
)
def test_verdicts(answer, passed, words):
    verdict = grade(EXAMPLE, answer)
    assert verdict.passed is passed
    assert words in verdict.message


def test_a_stub_may_raise_not_implemented():
    def stub(x, y):
        raise NotImplementedError

    assert grade(EXAMPLE, stub).passed is None


def test_plain_values_are_compared_and_diagnosed():
    exercise = Exercise(
        "77.2", "a word", 1, 2, "to predict", expected="diverges", mistakes=[Mistake("too small a step", "converges")]
    )
    assert grade(exercise, " Diverges").passed is True
    assert grade(exercise, "converges").message == "too small a step"
    assert grade(exercise, "sleeps").passed is False
    assert grade(exercise, 3).passed is False
    number = Exercise("77.3", "a number", 1, 2, "to predict", expected=0.5)
    assert grade(number, 0.5).passed is True
    assert grade(number, 0.6).passed is False
    assert grade(number, 0).passed is False


def test_a_plain_value_is_never_given_away():
    """A reader who guesses wrong is told where to look, not what to write."""
    number = Exercise("77.6", "a number", 1, 2, "to predict", expected=3 / 14)
    pair = Exercise("77.7", "two numbers", 1, 2, "to predict", expected=(-3, 7))
    for exercise, guess in ((number, 5), (number, 0.21), (number, "x"), (pair, (-3, 8)), (pair, (1, 2, 3)), (pair, 0)):
        verdict = grade(exercise, guess)
        assert verdict.passed is False
        assert "0.214" not in verdict.message and "7" not in verdict.message
    assert "close" in grade(number, 0.21).message
    assert "number 2 of the 2" in grade(pair, (-3, 8)).message


def test_an_answer_that_returns_nothing_in_some_cases_has_been_attempted():
    exercise = Exercise(
        "77.8", "a sign", 1, 2, "to branch", expected=np.sign, cases=lambda rng: [(-1.0,), (2.0,)], mistakes=[]
    )
    verdict = grade(exercise, lambda x: 1.0 if x > 0 else None)
    assert verdict.passed is False and "returns nothing" in verdict.message
    assert grade(exercise, lambda x: None).passed is None


def test_a_judge_decides_open_experiments():
    exercise = Exercise(
        "77.4", "a target", 3, 30, "to experiment", judge=lambda answer: None if answer > 0.9 else "below 90 %"
    )
    assert grade(exercise, 0.95).passed is True
    assert grade(exercise, 0.5).message == "below 90 %"
    assert grade(exercise, ...).passed is None
    assert "TypeError" in grade(exercise, "a word").message


def test_bytes_are_compared_to_the_letter():
    exercise = Exercise("77.9", "turn", 1, 2, "to turn", expected=lambda raw: raw[::-1], cases=lambda rng: [(b"ab",), (b"abc",)])
    assert grade(exercise, lambda raw: bytes(reversed(raw))).passed is True
    assert grade(exercise, lambda raw: raw.upper()[::-1]).passed is False


def test_tuples_are_compared_part_by_part():
    exercise = Exercise(
        "77.5", "two", 1, 5, "both", expected=lambda x: (x.sum(), 2 * x), cases=lambda rng: [(rng.normal(size=3),)]
    )
    assert grade(exercise, lambda x: (x.sum(), 2 * x)).passed is True
    assert "part 1" in grade(exercise, lambda x: (x.sum(), 3 * x)).message
    assert "returned 1 thing, expected 2" in grade(exercise, lambda x: (x.sum(),)).message
    assert "returned 3 things, expected 2" in grade(exercise, lambda x: (x.sum(), 2 * x, x)).message


def test_check_prints_one_line_and_names_unknown_exercises(monkeypatch, capsys):
    monkeypatch.setattr("shared.checks.exercises", lambda chapter: {"77.1": EXAMPLE})
    for answer in (mean_gradient, None, lambda x, y: x @ y):
        check("77.1", answer)
    assert capsys.readouterr().out == f"77.1 passed\n77.1 {NOT_ATTEMPTED}\n77.1 not yet: transposed\n"
    with pytest.raises(ValueError, match=r"no exercise '77\.9'.*77\.1"):
        check("77.9", None)


def test_a_chapter_without_exercises_is_named():
    with pytest.raises(ValueError, match="no exercises for chapter '88'"):
        check("88.1", None)
