"""What nbval alone would let pass, the course's plugin rejects; and what must pass, passes."""

import base64
import io

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from shared import notebook_plugin, store_notebook

FIGURE = """\
import matplotlib.pyplot as plt
from shared import plots
plots.use_course_style()
fig, ax = plt.subplots(figsize=(4, 3))
ax.plot({points})
ax.set_title("A line")
plt.show()"""
pytest_plugins = ["pytester"]


@pytest.fixture
def validate(pytester):
    """A function that validates a stored notebook as the course does, and returns how many cells passed and failed."""

    def run(*cells, folder="."):
        path = pytester.path / folder / "small.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(
            new_notebook(cells=list(cells), metadata={"kernelspec": {"name": "python3", "display_name": "x"}}), path
        )
        result = pytester.runpytest_subprocess(
            "-p", "shared.notebook_plugin", "--nbval", "-p", "no:cacheprovider", path
        )
        return result.parseoutcomes(), result.stdout.str()

    return run


def stored_figure(pytester, points):
    """A code cell with the picture that its source draws, as the course stores it."""
    path = pytester.path / "figure.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(FIGURE.format(points=points))]), path)
    return store_notebook.run(path).cells[0]


def test_an_unchanged_picture_passes(pytester, validate):
    outcomes, _ = validate(stored_figure(pytester, "[1, 2, 3]"))
    assert outcomes == {"passed": 1}


def test_another_curve_fails(pytester, validate):
    cell = stored_figure(pytester, "[1, 2, 3]")
    cell.source = FIGURE.format(points="[3, 1, 2]")
    outcomes, output = validate(cell)
    assert outcomes == {"failed": 1}
    assert "thumbnails differ" in output


def test_an_empty_figure_fails(pytester, validate):
    cell = stored_figure(pytester, "[1, 2, 3]")
    cell.source = FIGURE.format(points="[1]").replace("ax.plot([1])", "")
    outcomes, output = validate(cell)
    assert outcomes == {"failed": 1}
    assert "this figure is empty" in output


def test_a_cell_whose_output_is_not_compared_must_still_draw():
    def output(value):
        picture = np.full((64, 64, 3), 255, np.uint8)
        picture[8:40, 8:40] = value
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "png")
        return [new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})]

    cell = new_code_cell("plot()", execution_count=1, outputs=output(0), metadata={"tags": ["nbval-ignore-output"]})
    assert notebook_plugin.cell_problems(cell, output(200)) == []
    assert notebook_plugin.cell_problems(cell, output(255)) == ["picture 1 is blank"]
    assert notebook_plugin.cell_problems(cell, []) == ["1 pictures stored, 0 now"]


def test_a_cell_that_was_never_run_fails(validate):
    outcomes, output = validate(new_code_cell("x = 1"))  # nbval alone passes this one
    assert outcomes == {"failed": 1}
    assert "without having been run" in output


def test_another_text_fails(validate):
    outputs = [new_output("execute_result", {"text/plain": "3"}, execution_count=1)]
    assert validate(new_code_cell("1 + 1", outputs=outputs, execution_count=1))[0] == {"failed": 1}


AHEAD = {  # code that needs a later chapter, and what is missing where there is none
    "import shared.tensor_mlp": "No module named 'shared.tensor_mlp'",
    "from shared import cnn": "cannot import name 'cnn'",
    "from shared import nn": "tensor_mlp",  # a face of the finished library
    "def later():\n    import shared.functional as F\n    return F\n_ = later()": "No module named 'shared.cnn'",
    "import subprocess, sys\n_ = subprocess.run([sys.executable, '-c', 'import shared.cnn'], check=True)": "CalledProcessError",
}


def test_a_notebook_that_needs_a_later_chapter_fails(validate):
    """Wherever it does so: while a chapter's notebook is validated, the modules of later chapters are not there."""
    own = "from shared import scalar_mlp, tensor"
    cells = [new_code_cell(source, execution_count=i + 1) for i, source in enumerate([own, *AHEAD])]
    outcomes, output = validate(*cells, folder="04_Tensor_Class")
    assert outcomes == {"passed": 1, "failed": len(AHEAD)}
    assert [missing for missing in AHEAD.values() if missing not in output] == []
    assert validate(*cells, folder="07_Transformers")[0] == {"passed": 1 + len(AHEAD)}


def picture(array):
    """An output that holds an array as a picture."""
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, format="png")
    return new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()})


def test_pictures_are_compared_coarsely():
    rng = np.random.default_rng(0)
    drawn = np.full((160, 240, 3), 255.0)
    drawn[40:60, 30:200] = 0
    nearly = np.clip(drawn + rng.normal(0, 3, drawn.shape), 0, 255)  # as another font renderer might
    moved = np.roll(drawn, 60, axis=0)

    def problems(stored, new):
        return notebook_plugin.cell_problems(new_code_cell("plot()", execution_count=1, outputs=stored), new)

    assert problems([picture(drawn)], [picture(nearly)]) == []
    assert "thumbnails differ" in problems([picture(drawn)], [picture(moved)])[0]
    assert "pixels" in problems([picture(drawn)], [picture(drawn[:, :-16])])[0]
    assert "blank" in problems([picture(drawn)], [picture(np.full_like(drawn, 255))])[0]
    assert "1 pictures stored, 0 now" in problems([picture(drawn)], [])[0]
    assert problems([], []) == []
