"""Every notebook obeys the rules of notebook_style.py, and every rule can say no."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from shared import CHAPTER_FOLDERS, checks, store_notebook
from shared import notebook_style as style
from shared.checks import Exercise

NOTEBOOKS = [path for folder in CHAPTER_FOLDERS for path in sorted(folder.glob("*.ipynb"))]
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
HEADING, HINT, LINK = "**{} Count** ★★ 10 minutes, objective {}", "<details>a hint</details>", "solutions.ipynb"
GOALS = "1. add (exercises 77.1 and 77.2),\n2. count (77.2, 77.3),\n3. stop (77.4, 77.5)."
SERVED = {"77.1": "1", "77.2": "1 and 2", "77.3": "2", "77.4": "3", "77.5": "3"}
EXERCISES = {f"77.{i}": Exercise(f"77.{i}", "count", 2, 10, "to count", expected=i) for i in range(1, 6)}


@pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.stem if path.stem != "solutions" else path.parent.name
)
def test_notebook_obeys_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    offences = [f"{rule.__name__}: {offence}" for rule in style.rules_for(path) for offence in rule(notebook, path)]
    assert not offences, "\n".join([str(path.name), *offences])


def code(source, id, *outputs, count=None):
    """A code cell with an id."""
    cell = new_code_cell(source, outputs=list(outputs), execution_count=count)
    cell["id"] = id
    return cell


def text(source, id):
    """A Markdown cell with an id."""
    cell = new_markdown_cell(source)
    cell["id"] = id
    return cell


def printed(words):
    """What `print` leaves behind in a cell."""
    return new_output("stream", name="stdout", text=words + "\n")


def picture(alt="A curve falls"):
    """A stored picture."""
    return new_output(
        "display_data", data={"image/png": "aGVsbG8="}, metadata={"image/png": {"alt": alt}} if alt else {}
    )


def good_notebook():
    """A small notebook that breaks no rule."""
    cells = [
        text("# A chapter\n\nIt promises $x^2$.", "title"),
        text(f"## At a glance\n\nSee [the module](module.py).\n\n{GOALS}", "glance"),
        code(style.SETUP, "setup"),
        text("Now a figure.", "figure-text"),
        code("fig, ax = plt.subplots()\nplt.show()", "figure", picture()),
        text("And a function.", "function-text"),
        code('#| export\ndef double(x):\n    """Twice x."""\n    return 2 * x', "double"),
        text("## Beside PyTorch", "beside"),
        text("## Bug clinic", "clinic"),
        text("## Exercises", "exercises"),
    ]
    for id in EXERCISES:
        hints = "<details>the idea</details>\n<details>the error</details>\n[solution](solutions.ipynb)"
        cells.append(text(f"{HEADING.format(id, SERVED[id])}\n\n{hints}", f"exercise-{id.replace('.', '-')}"))
        cells.append(code(f'check("{id}", ...)', f"stub-{id.replace('.', '-')}", printed(f"{id} not attempted yet")))
    cells.append(text("## Recap", "recap"))
    notebook = new_notebook(cells=cells, metadata=KERNEL)
    for count, cell in enumerate(style.code_cells(notebook), 1):
        cell.execution_count = count
    return notebook


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """The path of a notebook in a chapter folder that has what the good notebook links to."""
    folder = tmp_path / "77_Chapter"
    folder.mkdir()
    for name in ("module.py", "solutions.ipynb", "chapter.ipynb"):
        (folder / name).touch()
    monkeypatch.setattr(style, "exercises", lambda chapter: EXERCISES)
    return folder / "chapter.ipynb"


def test_the_good_notebook_is_good(chapter):
    assert [offence for rule in style.rules_for(chapter) for offence in rule(good_notebook(), chapter)] == []


def put(id, **changes):
    """A defect: the cell `id` gets other contents."""

    def change(notebook):
        next(cell for cell in notebook.cells if cell.id == id).update(changes)

    return change


def add(*cells):
    """A defect: cells are added at the end."""
    return lambda notebook: notebook.cells.extend(cells)


def drop(id):
    """A defect: the cell `id` is missing."""

    def change(notebook):
        notebook.cells = [cell for cell in notebook.cells if cell.id != id]

    return change


def swap(first, second):
    """A defect: two cells have changed places."""

    def change(notebook):
        i, j = ([cell.id for cell in notebook.cells].index(id) for id in (first, second))
        notebook.cells[i], notebook.cells[j] = notebook.cells[j], notebook.cells[i]

    return change


def many_lines(n):
    """A cell's text of n lines."""
    return "\n".join(f"x{i} = {i}" for i in range(n))


DEFECTS = [
    (style.stored_as_run_all_leaves_it, put("figure", execution_count=7)),
    (style.stored_as_run_all_leaves_it, put("figure", execution_count=None)),
    (style.stored_as_run_all_leaves_it, put("figure", metadata={"scrolled": True})),
    (
        style.stored_as_run_all_leaves_it,
        put("figure", outputs=[new_output("error", ename="E", evalue="", traceback=[])]),
    ),
    (style.stored_as_run_all_leaves_it, put("figure", outputs=[new_output("stream", name="stderr", text="careful")])),
    (style.stored_as_run_all_leaves_it, put("figure", outputs=[printed("one"), printed("two")])),
    (style.stored_as_run_all_leaves_it, add(code(" ", "nothing"))),
    (style.stored_as_run_all_leaves_it, lambda notebook: notebook.metadata.update(widgets={})),
    (style.readable_ids, lambda notebook: notebook.cells[0].update(id="1a2b3c4d")),
    (style.readable_ids, lambda notebook: notebook.cells[0].update(id="Not_Words")),
    (style.short_cells, add(code(many_lines(41), "long"))),
    (style.short_cells, add(code("#| export\n" + many_lines(41), "long"))),
    (style.short_cells, add(code("#| export\nclass A:\n    pass\n" + many_lines(58), "long"))),
    (style.narrow_code, add(code("x = 1  # " + 110 * "x", "wide"))),
    (style.prose_between_code, add(text("So:", "so"), *(code("1", f"cell-{i}") for i in range(5)))),
    (style.common_setup, put("setup", source=style.SETUP + "\nimport os")),
    (style.common_setup, drop("setup")),
    (style.seeded, put("figure", source="np.random.seed(0)")),
    (style.seeded, put("figure", source="x = np.random.randn(3)")),
    (style.seeded, put("figure", source="rng = np.random.default_rng()")),
    (style.figures_are_shown_and_described, put("figure", source="fig, ax = plt.subplots()")),
    (style.figures_are_shown_and_described, put("figure", outputs=[])),
    (style.figures_are_shown_and_described, put("figure", outputs=[picture(alt=None)])),
    (style.exported_code_is_quiet, put("double", source='#| export\ndef f():\n    """Doc."""\n    print(1)')),
    (style.exported_code_is_quiet, put("double", source='#| export\ndef f():\n    """Doc."""\n    plt.plot([1])')),
    (style.exported_code_is_quiet, put("double", source="#| export\ndef f():\n    return 1")),
    (style.plain_mathematics, put("title", source="# A\n\n\\(x\\)")),
    (style.plain_mathematics, put("title", source="# A\n\n\\begin{align}x\\end{align}")),
    (style.plain_mathematics, put("title", source="# A\n\nit costs $5")),
    (style.sober, put("title", source="# A \U0001f680")),
    (style.links_resolve, put("glance", source="## At a glance\n\n[gone](gone.py)")),
    (style.links_resolve, put("glance", source="## At a glance\n\n![x](https://example.org/x.png)")),
    (style.measured_percentages, put("title", source="# A\n\nIt reads 97.3 % of the digits.")),
    (style.measured_percentages, put("title", source="# A\n\nThe target is 97.3 %.\n\nIt reads 97.3%.")),
    (style.spine, put("title", source="No title")),
    (style.spine, drop("recap")),
    (style.spine, swap("clinic", "recap")),
    *((style.practised_objectives, put("glance", source=f"## At a glance\n\n{goals}")) for goals in (
        "You will count.", GOALS.replace("\n3.", "\n"), GOALS.replace("(77.2, 77.3)", ""), GOALS.replace("77.3", "77.1"),
        f"{GOALS}\n4. rest", f"{GOALS}\n4. rest (77.5)\n5. rest\n6. rest")),
    (style.practised_objectives, put("exercise-77-3", source=HEADING.format("77.3", 1))),
    (style.complete_exercises, drop("stub-77-1")),
    (style.complete_exercises, put("stub-77-2", outputs=[printed("77.2 passed")])),
    *(
        (style.complete_exercises, put("exercise-77-2", source=f"{heading}\n\n{hints}{link}"))
        for heading, hints, link in (
            (HEADING.format("77.2", 1), HINT, LINK),
            (HEADING.format("77.2", 1), HINT + HINT, ""),
            (HEADING.format("77.3", 1), HINT + HINT, LINK),
            ("**77.2 Count** ★ 10 minutes, objective 1", HINT + HINT, LINK),
            ("**77.2 Count** ★★★ 10 minutes, objective 1", HINT + HINT, LINK),
            ("**77.2 Count** ★★ 20 minutes, objective 1", HINT + HINT, LINK),
            ("**77.2 Count** ★★ 10 min, objective 1", HINT + HINT, LINK),
            ("**77.2 Count** ★★ 10 minutes", HINT + HINT, LINK),
            ("### 77.2 Count ★★ 10 minutes, objective 1", HINT + HINT, LINK),
            ("**77.2** ★★ 10 minutes, objective 1", HINT + HINT, LINK),
        )
    ),
]


@pytest.mark.parametrize(("rule", "defect"), DEFECTS, ids=lambda value: getattr(value, "__name__", "defect"))
def test_each_rule_rejects_its_defect(chapter, rule, defect):
    notebook = good_notebook()
    defect(notebook)
    assert list(rule(notebook, chapter))


def test_what_was_printed_is_stored_in_one_piece():
    outputs = store_notebook.joined([printed("one"), printed("two"), picture(), printed("three")])
    assert [output.get("text") for output in outputs] == ["one\ntwo\n", None, "three\n"]


def test_a_large_file_is_rejected(chapter):
    chapter.write_bytes(b" " * (style.LARGEST_FILE + 1))
    assert list(style.small_file(good_notebook(), chapter))


def test_a_class_may_be_longer_than_other_cells(chapter):
    notebook = good_notebook()
    add(code("#| export\nclass A:\n    pass\n" + many_lines(50), "class"))(notebook)
    assert list(style.short_cells(notebook, chapter)) == []


@pytest.mark.parametrize("words", ["97.3 % read", "accuracy 0.9731"])
def test_a_percentage_may_be_printed_in_either_form(chapter, words):
    notebook = good_notebook()
    put("title", source="# A\n\nIt reads 97.3 % of the digits.")(notebook)
    put("double", outputs=[printed(words)])(notebook)
    assert list(style.measured_percentages(notebook, chapter)) == []


def test_a_percentage_may_stand_in_the_record_of_a_training(chapter):
    notebook = good_notebook()
    put("title", source="# A\n\nIt reads 97.3 % of the digits.")(notebook)
    (chapter.parent / "checkpoints").mkdir()
    (chapter.parent / "checkpoints/network.json").write_text('{"test_accuracy": 0.9734}', encoding="utf-8")
    assert list(style.measured_percentages(notebook, chapter)) == []


def test_the_target_of_an_exercise_is_set_by_hand(chapter):
    notebook = good_notebook()
    put("title", source="# A\n\n**Target: 97.3 %** of the digits.")(notebook)
    assert list(style.measured_percentages(notebook, chapter)) == []


def test_solutions_must_pass_in_order(chapter):
    def solutions(ids, words="passed: count"):
        return new_notebook(
            cells=[code(f'check("{id}", 1)', f"solution-{i}", printed(f"{id} {words}")) for i, id in enumerate(ids)]
        )

    assert list(style.solutions_pass(solutions(EXERCISES), chapter)) == []
    assert list(style.solutions_pass(solutions(list(EXERCISES)[:-1]), chapter))
    assert list(style.solutions_pass(solutions(list(EXERCISES)[::-1]), chapter))
    assert list(style.solutions_pass(solutions(EXERCISES, "not yet: off by one"), chapter))


def test_every_rule_was_seen_to_reject():
    """A rule without a defect above would be a rule without teeth."""
    proved = {rule for rule, _ in DEFECTS} | {style.small_file, style.solutions_pass}
    assert proved == set(style.RULES + style.CHAPTER_RULES + style.SOLUTION_RULES)


def test_the_words_of_the_checker_are_those_the_rules_look_for():
    assert style.NOT_ATTEMPTED is checks.NOT_ATTEMPTED
