"""The exercise checker: ``check("00.2", answer)`` says *passed*, *not attempted yet*, or what probably went wrong.

Each chapter's ``exercises.py`` lists its exercises as `Exercise` objects. An exercise is either

* a comparison: the answer is called on random cases and must do what `expected` does. Where it does not, but does
  exactly what one of the `mistakes` does, the learner reads that mistake's diagnosis;
* a plain value (no `cases`): the answer must equal `expected`, and wrong values are diagnosed in the same way;
* judged: `judge(answer)` returns None where the answer passes and otherwise says why not. It suits open experiments.

`mistakes` serve twice: they diagnose, and a test proves that each of them is rejected with its own diagnosis.
"""

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from shared import CHAPTER_FOLDERS

__all__ = ["Exercise", "Mistake", "Verdict", "check", "exercises", "grade"]

NOT_ATTEMPTED = "not attempted yet"


def call(answer, *case):
    """The usual observation: call the answer on the case."""
    return answer(*case)


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer, and what to tell the learner who gives it."""

    diagnosis: str
    answer: Any


@dataclass(frozen=True)
class Exercise:
    """One exercise, its oracle and its typical mistakes.

    Parameters
    ----------
    id, title : chapter and number, such as "00.2", and a few words.
    stars, minutes, objective : difficulty from 1 to 3, minutes for a typical learner, the objective it serves.
    expected : a function that does what the answer should do, or, without `cases`, the value itself.
    cases : function from a random generator to a list of argument tuples. Unequal shapes, nothing symmetric.
    observe : function of an answer and one case that returns what is compared: a number, a string, an array, or a
        tuple of these. By default the answer is called on the case.
    judge : replaces the comparison where there is no single right answer.
    mistakes : at least three wrong answers with their diagnoses.
    rtol, atol : tolerances of the comparison.
    """

    id: str
    title: str
    stars: int
    minutes: int
    objective: str
    expected: Any = None
    cases: Callable[[np.random.Generator], Sequence[tuple]] | None = None
    observe: Callable[..., Any] = call
    judge: Callable[[Any], str | None] | None = None
    mistakes: Sequence[Mistake] = ()
    rtol: float = 1e-6
    atol: float = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What the checker found: `passed` is True, False, or None where nothing was attempted."""

    passed: bool | None
    message: str


class NotAttempted(Exception):
    """The answer is still the stub."""


def is_stub(value):
    """Whether a value is what an untouched stub gives: nothing."""
    return value is None or value is ...


def outcome(exercise, answer, case):
    """What is observed when `answer` meets a private copy of `case`, in two words, such as ("gave", value).

    The others are ("raised", the exception), ("changed", a complaint) and ("nothing", None).
    """
    private = copy.deepcopy(case)
    try:
        value = exercise.observe(answer, *private) if exercise.cases else answer
    except NotImplementedError as error:
        raise NotAttempted from error
    except Exception as error:  # whatever the learner's code raises is reported to the learner
        return "raised", error
    if is_stub(value):
        return "nothing", None
    if exercise.cases and not same(private, case, 0, 0):
        return "changed", "it changes its arguments in place; work on a copy"
    return "gave", value


def same(a, b, rtol, atol):
    """Whether two observations agree: in structure, in shape, and in value up to the tolerances."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and not isinstance(a, str):
        return len(a) == len(b) and all(same(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    if isinstance(a, bytes) or isinstance(b, bytes):
        return a == b
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a.strip().lower() == b.strip().lower()
    try:
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return False
        if a.dtype == object or b.dtype == object:
            return all(x is y or x == y for x, y in zip(a.flat, b.flat, strict=True))
        return bool(np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True))
    except (TypeError, ValueError):  # ragged, or not numbers
        return False


def agree(exercise, first, second):
    """Whether two outcomes are the same: equal values, or exceptions of one type."""
    if first[0] != second[0]:
        return False
    if first[0] == "nothing":
        return True
    if first[0] == "gave":
        return same(first[1], second[1], exercise.rtol, exercise.atol)
    return type(first[1]) is type(second[1])


def differs(got, wanted):
    """Say in one sentence how an observed outcome differs from the wanted one."""
    if got[0] == "raised":
        return f"it raised {type(got[1]).__name__}: {got[1]}"
    if got[0] == "changed":
        return got[1]
    if got[0] == "nothing":
        return "in some cases it returns nothing (None); say what to return in every case"
    if wanted[0] != "gave":
        return f"it returned a value where {type(wanted[1]).__name__} was expected"
    got, wanted = got[1], wanted[1]
    if isinstance(wanted, tuple) and isinstance(got, tuple) and len(got) == len(wanted):
        part = next(i for i, (g, w) in enumerate(zip(got, wanted, strict=True)) if not same(g, w, 1e-6, 1e-9))
        return f"part {part} of the result: " + differs(("gave", got[part]), ("gave", wanted[part]))
    if isinstance(wanted, tuple) and isinstance(got, tuple | list) and len(got) != len(wanted):
        return f"it returned {len(got)} {'thing' if len(got) == 1 else 'things'}, expected {len(wanted)}"
    if isinstance(got, str | tuple | list) != isinstance(wanted, str | tuple | list) or isinstance(wanted, str):
        return (
            f"expected {'text' if isinstance(wanted, str) else type(wanted).__name__}, and a different one than {got!r}"
        )
    try:
        got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    except (TypeError, ValueError):
        return f"a result of type {type(got).__name__} cannot be compared with the expected {type(wanted).__name__}"
    if got.shape != wanted.shape:
        return f"the shape is {got.shape}, expected {wanted.shape}"
    worst = np.unravel_index(np.argmax(np.abs(got - wanted)), got.shape)
    place = f" at index {tuple(map(int, worst))}" if got.ndim else ""
    return f"got {got[worst]:.6g}{place}, expected {wanted[worst]:.6g}"


def grade(exercise, answer):
    """Judge an answer to an exercise and return the Verdict. An answer may be wrong in any way: nothing is raised."""
    try:
        if is_stub(answer):
            raise NotAttempted
        problem = judged(exercise, answer) if exercise.judge else compared(exercise, answer)
    except NotAttempted:
        return Verdict(None, NOT_ATTEMPTED)
    return Verdict(problem is None, problem or "passed")


def judged(exercise, answer):
    """What the exercise's own judge has to say: None, or what is wrong."""
    try:
        return exercise.judge(answer)
    except NotImplementedError as error:
        raise NotAttempted from error
    except Exception as error:  # whatever the learner's code raises is reported to the learner
        return f"it raised {type(error).__name__}: {error}"


def compared(exercise, answer):
    """Compare with the oracle on every case: None, or the diagnosis."""
    cases = exercise.cases(np.random.default_rng(20)) if exercise.cases else [()]
    wanted = [outcome(exercise, exercise.expected, case) for case in cases]
    got = [outcome(exercise, answer, case) for case in cases]
    if all(kind == "nothing" for kind, _ in got):
        raise NotAttempted
    wrong = [pair for pair in zip(got, wanted, strict=True) if not agree(exercise, *pair)]
    if not wrong:
        return None
    for mistake in exercise.mistakes:
        typical = [outcome(exercise, mistake.answer, case) for case in cases]
        if all(agree(exercise, *pair) for pair in zip(got, typical, strict=True)):
            return mistake.diagnosis
    return differs(*wrong[0]) if exercise.cases else misses(answer, exercise.expected)


def misses(value, wanted):
    """Say that a plain value is not the wanted one, without giving the wanted one away."""
    if isinstance(wanted, tuple | list) and isinstance(value, tuple | list) and len(value) == len(wanted):
        parts = [str(i + 1) for i, (v, w) in enumerate(zip(value, wanted, strict=True)) if not same(v, w, 1e-6, 1e-9)]
        return f"{value!r} is not right yet; look at number {' and '.join(parts)} of the {len(wanted)}"
    if isinstance(wanted, float) and same(value, wanted, 0.05, 0):
        return f"{value!r} is close, but not close enough: give three digits, or a fraction"
    return f"{value!r} is not right yet, and is not one of the usual mistakes; go through it once more"


@cache
def exercises(chapter):
    """The exercises of a chapter, such as "00", as a table from id to Exercise.

    Raises ValueError where there is no such chapter, or it has no exercises.
    """
    path = next((folder / "exercises.py" for folder in CHAPTER_FOLDERS if folder.name.startswith(f"{chapter}_")), None)
    if path is None or not path.exists():
        raise ValueError(
            f"check: there are no exercises for chapter {chapter!r}; they lie beside the notebooks of the course"
        )
    spec = importlib.util.spec_from_file_location(f"exercises_{chapter}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {exercise.id: exercise for exercise in module.EXERCISES}


def check(id, answer):
    """Print whether `answer` solves the exercise `id`: passed, not attempted yet, or a diagnosis.

    Raises ValueError where there is no such exercise.
    """
    table = exercises(str(id).split(".")[0])
    if id not in table:
        raise ValueError(f"check: no exercise {id!r}; this chapter has {', '.join(table)}")
    verdict = grade(table[id], answer)
    print(f"{id} {'not yet: ' if verdict.passed is False else ''}{verdict.message}")
