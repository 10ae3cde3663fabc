"""The exporter: what it writes, and what it must refuse."""

import json

import pytest

from shared import CHAPTER_FOLDERS
from shared.export import ExportError, export_all, main, method_of, module_source


def notebook(*sources, title="# A small chapter"):
    """A notebook with a title and the given code cells, as parsed from JSON."""
    cells = [{"cell_type": "markdown", "source": [title]}]
    for i, source in enumerate(sources):
        cells.append({"cell_type": "code", "id": f"cell-{i}", "source": source.splitlines(keepends=True)})
    return {"cells": cells}


GROWN = notebook(
    "#| export\nimport numpy as np\nimport math",
    "from shared.export import method_of   # not exported",
    '#| export\nclass Box:\n    """Holds one thing."""\n\n    def __init__(self, thing):\n        self.thing = thing',
    "Box(3).thing",
    "#| export\n# why it is here\nLIMIT = 3\n\n\ndef _hidden():\n    return math.pi",
    '#| export\n@method_of(Box, "__radd__")\ndef __add__(self, other):\n    """Add."""\n    return np.add(self.thing, other)',
    "#| export\n@method_of(Box)\n@property\ndef double(self):\n    return 2 * self.thing",
)


def run(text):
    """Execute a module's text and return its names."""
    names = {}
    exec(compile(text, "module", "exec"), names)
    return names


def test_module_holds_the_exported_cells_and_nothing_else():
    text = module_source(GROWN, "42_Chapter/box.ipynb")
    names = run(text)
    assert names["__all__"] == ["LIMIT", "Box"]
    assert names["__doc__"].startswith("A small chapter") and "42_Chapter/box.ipynb" in names["__doc__"]
    assert "method_of" not in text and "cell-" not in text and "# why it is here" in text
    assert text.index("import math") < text.index("import numpy") < text.index("class Box")


def test_methods_move_into_their_class_with_their_other_names():
    text = module_source(GROWN, "box.ipynb")
    box = run(text)["Box"](20)
    assert (box + 1, 1 + box, box.double) == (21, 21, 40)
    assert text.index("def __add__") < text.index("LIMIT = 3"), "the method stands inside its class"


def test_notebook_and_module_agree():
    """What `method_of` does in the notebook is what the exporter writes."""
    names = {}
    for cell in GROWN["cells"][1:]:
        exec("".join(cell["source"]), names)
    box = names["Box"](20)
    assert (box + 1, 1 + box, box.double) == (21, 21, 40)


def test_method_of_returns_what_it_adds():
    class Empty:
        pass

    function = method_of(Empty, "other")(lambda self: 1)
    assert Empty.other is function


def test_a_string_written_in_pieces_may_move():
    pieces = '#| export\nclass A:\n    x = 1\n@method_of(A)\ndef f(self):\n    return (f"one {1 + 1}"\n            f" three")'
    assert run(module_source(notebook(pieces), "a.ipynb"))["A"]().f() == "one 2 three"


def test_a_notebook_without_marked_cells_has_no_module():
    assert module_source(notebook("x = 1"), "x.ipynb") is None


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("# | export\nx = 1", "first line"),
        ("#|export\nx = 1", "first line"),
        ("# export\nx = 1", "first line"),
        ("#| Export\nx = 1", "first line"),
        ("x = 1\n#| export\ny = 2", "first line"),
        ("#| export\n%matplotlib inline", "magics"),
        ("#| export\n!ls", "magics"),
        ("#| export\nimport os   # for later", "comment"),
        ("#| export\n@method_of(Nowhere)\ndef f(self): ...", "Nowhere"),
        (
            '#| export\nclass A: ...\n@method_of(A)\ndef f(self):\n    return """two\nlines"""',
            "string over several lines",
        ),
        ("#| export\nx = 1\nx = 2", "exported before"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(source, complaint):
    with pytest.raises(ExportError, match=complaint) as caught:
        module_source(notebook(source), "here.ipynb")
    assert "here.ipynb" in str(caught.value) and "cell-0" in str(caught.value)


def test_two_files_of_one_name_are_refused(tmp_path):
    folders = [tmp_path / "00_First", tmp_path / "01_Second"]
    for folder in folders:
        folder.mkdir()
        (folder / "same.ipynb").write_text(json.dumps(notebook("#| export\nx = 1")))
    with pytest.raises(ExportError, match="would hide"):
        export_all(tmp_path, folders)
    assert set(export_all(tmp_path, folders[:1])) == {folders[0] / "same.py", tmp_path / "shared" / "same.pyi"}


def test_the_copies_that_a_browser_leaves_are_no_chapters(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "00_One").mkdir()
    for name in ("box", "~run_all_box", ".~box"):
        (tmp_path / f"00_One/{name}.ipynb").write_text(json.dumps(GROWN))
    assert {path.name for path in export_all(tmp_path, [tmp_path / "00_One"])} == {"box.py", "box.pyi"}


def test_the_window_does_not_hide_a_module_of_its_own(tmp_path):
    folder, shared = tmp_path / "00_First", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (shared / "plots.py").touch()
    (folder / "plots.ipynb").write_text(json.dumps(notebook("#| export\nx = 1")))
    with pytest.raises(ExportError, match="would hide"):
        export_all(tmp_path, [folder])


def test_every_module_is_what_its_notebook_exports(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_check_notices_a_difference(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "00_First"
    folder.mkdir()
    (tmp_path / "shared").mkdir()
    (folder / "box.ipynb").write_text(json.dumps(GROWN))
    monkeypatch.setattr("shared.export.ROOT", tmp_path)
    monkeypatch.setattr("shared.export.export_all", lambda: export_all(tmp_path, [folder]))
    assert main(["--check"]) == 1 and not (folder / "box.py").exists()
    assert main([]) == 0 and main(["--check"]) == 0
    (folder / "box.py").write_text((folder / "box.py").read_text() + "# edited by hand\n")
    assert main(["--check"]) == 1
    assert "box.py" in capsys.readouterr().out


def test_modules_pass_on_what_the_layout_promises():
    """Every chapter folder exists, and a module in it stands beside a notebook of its name."""
    assert [folder.name for folder in CHAPTER_FOLDERS] == [
        "00_Traditional_ML",
        "01_Perceptrons_Rosenblatt",
        "02_Scalar_Autograd",
        "03_Scalar_MLP",
        "04_Tensor_Class",
        "05_Tensor_MLP",
        "06_CNN_Vectorised",
        "07_Transformers",
        "99_Deployment_Tests",
    ]
