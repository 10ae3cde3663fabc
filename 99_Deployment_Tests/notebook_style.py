"""The rules that every notebook of the course obeys; test_notebook_style.py proves that each rule can say no.

A rule is a function of a notebook (parsed by nbformat) and its path that yields one sentence for each offence. `RULES`
hold for every notebook, `CHAPTER_RULES` for the narrative notebook of a chapter.
"""

import ast
import re
from itertools import pairwise

from shared.checks import NOT_ATTEMPTED, exercises

SETUP = """\
import matplotlib.pyplot as plt
import numpy as np

from shared import datasets, plots
from shared.checks import check

plots.use_course_style()"""

LONGEST_CELL, LONGEST_CLASS, LONGEST_LINE, LONGEST_RUN, LARGEST_FILE = 40, 60, 118, 4, 1_500_000
SPINE = ["at a glance", "beside", "bug clinic", "exercises", "recap"]
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u2604\u2607-\u26ff\u2705\u2728\u274c\u2757]")
CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d\.\d+)["']""")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NUMBER, PERCENTAGE = re.compile(r"\d+\.?\d*"), re.compile(r"(?<![\w.,])(\d+\.(\d+))\s?%")


def code_cells(notebook):
    """The code cells that hold anything."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook):
    """All Markdown of the notebook, as one text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def stored_as_run_all_leaves_it(notebook, path):
    """Counts run from 1 to n, nothing failed but what is tagged to, nothing stands on stderr, what was printed is in one
    piece, no stray metadata."""
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "the execution counts do not run from 1 to n: store the notebook again"
    for cell in notebook.cells:
        if set(cell.metadata) - {"tags"}:
            yield f"cell {cell.id!r} has stray metadata: {sorted(set(cell.metadata) - {'tags'})}"
        if cell.cell_type == "code" and not cell.source.strip():
            yield f"cell {cell.id!r} is empty"
        for output in cell.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                yield f"cell {cell.id!r} stores an error: {output.ename}"
            if output.get("name") == "stderr":
                yield f"cell {cell.id!r} wrote to stderr"
        names = [output.get("name") for output in cell.get("outputs", [])]
        if any(first == second == "stdout" for first, second in pairwise(names)):
            yield f"cell {cell.id!r} stores what it printed in pieces: store the notebook again"
    if set(notebook.metadata) != {"kernelspec", "language_info"} or set(notebook.metadata.language_info) != {"name"}:
        yield "the notebook has stray metadata: store it again"


def readable_ids(notebook, path):
    """Cell ids are words, so that a diff and an error message say which cell is meant."""
    for cell in notebook.cells:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id) or re.fullmatch(r"[0-9a-f]{8}", cell.id):
            yield f"cell id {cell.id!r} is not made of readable words"


def short_cells(notebook, path):
    """One idea a cell: at most 40 lines of code, 60 where a class is exported."""
    for cell in code_cells(notebook):
        lines = sum(bool(line.strip()) for line in cell.source.split("\n"))
        exported_class = cell.source.startswith("#| export") and re.search(r"^class ", cell.source, re.MULTILINE)
        if lines > (LONGEST_CLASS if exported_class else LONGEST_CELL):
            yield f"cell {cell.id!r} has {lines} lines of code"


def narrow_code(notebook, path):
    """A line of 118 characters fits JupyterLab's cell on a screen of 1400 pixels; for a longer one the reader scrolls."""
    for cell in code_cells(notebook):
        for number, line in enumerate(cell.source.split("\n"), 1):
            if len(line) > LONGEST_LINE:
                yield f"cell {cell.id!r} has {len(line)} characters in line {number}"


def prose_between_code(notebook, path):
    """Never more than four code cells in a row."""
    run = 0
    for cell in notebook.cells:
        run = run + 1 if cell.cell_type == "code" else 0
        if run == LONGEST_RUN + 1:
            yield f"cell {cell.id!r} is the fifth code cell in a row without prose"


def small_file(notebook, path):
    """A stored notebook stays under 1.5 MB."""
    if path.stat().st_size > LARGEST_FILE:
        yield f"{path.stat().st_size / 1e6:.2f} MB stored, over {LARGEST_FILE / 1e6:.1f}"


def common_setup(notebook, path):
    """Every notebook has the course's setup cell, letter for letter."""
    if not any(cell.id == "setup" and cell.source == SETUP for cell in notebook.cells):
        yield "there is no cell 'setup' that is the course's setup cell, letter for letter"


def seeded(notebook, path):
    """Random numbers come from a seeded generator that is passed along, never from the global state."""
    for cell in code_cells(notebook):
        for name in re.findall(r"\bnp\.random\.(\w+)", cell.source):
            if name not in {"default_rng", "Generator", "RandomState", "SeedSequence", "SFC64"}:
                yield f"cell {cell.id!r} draws from NumPy's global state: np.random.{name}"
        if re.search(r"\b(default_rng|SFC64)\(\s*\)", cell.source):
            yield f"cell {cell.id!r} makes a generator without a seed"


def figures_are_shown_and_described(notebook, path):
    """A figure ends with plt.show(), comes out as a picture, and the picture has alternative text."""
    for cell in code_cells(notebook):
        drawn = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        if (
            re.search(r"\bplt\.(figure|subplots)\(", cell.source)
            and "def " not in cell.source
            and "plt.show()" not in cell.source
        ):
            yield f"cell {cell.id!r} draws a figure and does not end with plt.show()"
        if "plt.show()" in cell.source and "def " not in cell.source and not drawn:
            yield f"cell {cell.id!r} shows a figure, but stores no picture"
        for output in drawn:
            if not output.metadata.get("image/png", {}).get("alt"):
                yield f"cell {cell.id!r} stores a picture without alternative text"


def exported_code_is_quiet(notebook, path):
    """Exported code prints nothing and draws nothing, and each public name has a docstring."""
    for cell in code_cells(notebook):
        if not cell.source.startswith("#| export"):
            continue
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
                yield f"cell {cell.id!r} is exported and prints"
            if isinstance(node, ast.Name) and node.id == "plt":
                yield f"cell {cell.id!r} is exported and draws"
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                yield f"cell {cell.id!r} exports {node.name} without a docstring"


def plain_mathematics(notebook, path):
    """`$...$` and `$$...$$` only, without macros, so that every viewer shows it."""
    for match in re.findall(r"\\\(|\\\[|\\newcommand|\\def\b|\\begin\{(?:equation|align)\*?\}", prose(notebook)):
        yield f"mathematics that not every viewer shows: {match}"
    for cell in notebook.cells:
        text = re.sub(r"```.*?```|`[^`]*`|\\\$", "", cell.source, flags=re.DOTALL)
        if cell.cell_type == "markdown" and text.count("$") % 2:
            yield f"cell {cell.id!r} has a dollar sign without its partner"


def sober(notebook, path):
    """No emoji."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and EMOJI.search(cell.source):
            yield f"cell {cell.id!r} has an emoji"


def links_resolve(notebook, path):
    """Every link to a file of the course leads to a file, and pictures are not fetched from the network."""
    for link in LINK.findall(prose(notebook)):
        if not re.match(r"[a-z]+:", link):
            target = link.split("#")[0]
            if target and not (path.parent / target).exists():
                yield f"the link to {link} leads nowhere"
    for picture in re.findall(r"!\[[^\]]*\]\((https?:[^)]+)\)|<img[^>]+src=.(https?:[^\"']+)", prose(notebook)):
        yield f"a picture is fetched from the network: {''.join(picture)}"


def printed(notebook):
    """What the stored outputs show in words: what was printed, results, and what stands in the titles of figures."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield output.get("data", {}).get("text/plain", "")
            yield output.get("metadata", {}).get("image/png", {}).get("alt", "")


def measured_percentages(notebook, path):
    """A percentage with decimals, such as 97.3 %, is one that a cell printed or that the record of a training holds, as
    a percentage or as a share; only the target of an exercise may be set by hand."""
    records = [record.read_text(encoding="utf-8") for record in path.parent.parent.glob("*/checkpoints/*.json")]
    numbers = {float(number) for text in [*printed(notebook), *records] for number in NUMBER.findall(text)}
    for cell in notebook.cells:
        for paragraph in cell.source.split("\n\n") if cell.cell_type == "markdown" else []:
            for percentage, decimals in PERCENTAGE.findall(paragraph):
                known = any(f"{x * factor:.{len(decimals)}f}" == percentage for x in numbers for factor in (1, 100))
                if not known and "target" not in paragraph.lower():
                    yield f"cell {cell.id!r} says {percentage} %, which no cell printed and no record holds"


def spine(notebook, path):
    """A chapter has a title, a glance ahead, a comparison, a bug clinic, exercises and a recap, in this order."""
    headings = [
        line.lstrip("#").strip().lower()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.split("\n")
        if re.match(r"#{1,3} ", line)
    ]
    if not notebook.cells or not notebook.cells[0].source.startswith("# "):
        yield "the first cell is not the title"
    found = [next((i for i, heading in enumerate(headings) if part in heading), None) for part in SPINE]
    for part, place in zip(SPINE, found, strict=True):
        if place is None:
            yield f"no heading says {part!r}"
    places = [place for place in found if place is not None]
    if places != sorted(places):
        yield f"the headings {SPINE} are out of order"


def exercise_cells(notebook):
    """The cells that check an exercise, as (id, the cell, the Markdown cell above it)."""
    for above, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            for id in CHECK.findall(cell.source):
                yield id, cell, above


def complete_exercises(notebook, path):
    """Five to eight exercises; each says id, stars, minutes and objective, has two hints and a link to its solution, and
    an unattempted stub is stored as such."""
    found = list(exercise_cells(notebook))
    if not 5 <= len(found) <= 8:
        yield f"{len(found)} exercises; a chapter has five to eight"
    table = exercises(path.parent.name[:2])
    if [id for id, _, _ in found] != list(table):
        yield f"the notebook checks {[id for id, _, _ in found]}, exercises.py has {list(table)}"
    for id, cell, above in found:
        text = above.source if above is not None and above.cell_type == "markdown" else ""
        printed = "".join(output.get("text", "") for output in cell.outputs)
        if f"{id} {NOT_ATTEMPTED}" not in printed:
            yield f"exercise {id}: its stub does not print {NOT_ATTEMPTED!r}"
        if text.count("<details>") != 2:
            yield f"exercise {id}: there are not two hints in the cell above it"
        if "solutions.ipynb" not in text:
            yield f"exercise {id}: no link to its solution"
        exercise = table.get(id)
        if exercise:
            measure = f"{'★' * exercise.stars} {exercise.minutes} minutes"
            if not re.search(rf"^\*\*{id} [^*\n]+\*\* {measure}, objectives? \d( and \d)*$", text, re.MULTILINE):
                yield f"exercise {id}: no line of its text reads '**{id} Title** {measure}, objective 1', as in all chapters"


def practised_objectives(notebook, path):
    """The chapter names three to five objectives; the exercises in brackets behind each are those that serve it."""
    glance = next((cell.source for cell in notebook.cells if "at a glance" in cell.source.split("\n")[0].lower()), "")
    objectives = re.findall(r"^(\d)\. (.*)$", glance, re.MULTILINE)
    if not 3 <= len(objectives) <= 5:
        yield f"{len(objectives)} objectives; a chapter has three to five"
    headings = re.findall(r"^\*\*(\d\d\.\d+) .* minutes, objectives? (.*)$", prose(notebook), re.MULTILINE)
    for number, text in objectives:
        named = re.findall(r"\d\d\.\d+", text)
        serving = [id for id, served in headings if number in served.split(" and ")]
        if not serving or named != serving:
            yield f"objective {number} names the exercises {named}; those that serve it are {serving}"


def solutions_pass(notebook, path):
    """A solutions notebook solves each exercise of its chapter, in order, and stores that each passed."""
    found = list(exercise_cells(notebook))
    table = exercises(path.parent.name[:2])
    if [id for id, _, _ in found] != list(table):
        yield f"solutions for {[id for id, _, _ in found]}, exercises.py has {list(table)}"
    for id, cell, _ in found:
        if f"{id} passed" not in "".join(output.get("text", "") for output in cell.outputs):
            yield f"the solution of {id} does not store that it passed"


RULES = [
    stored_as_run_all_leaves_it,
    readable_ids,
    short_cells,
    narrow_code,
    prose_between_code,
    small_file,
    common_setup,
    seeded,
    figures_are_shown_and_described,
    exported_code_is_quiet,
    plain_mathematics,
    sober,
    links_resolve,
    measured_percentages,
]
CHAPTER_RULES = [spine, complete_exercises, practised_objectives]
SOLUTION_RULES = [solutions_pass]


def rules_for(path):
    """The rules that a notebook obeys, by its name."""
    return RULES + (SOLUTION_RULES if path.stem == "solutions" else CHAPTER_RULES)
