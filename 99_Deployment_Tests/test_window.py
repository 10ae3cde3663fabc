"""The window `shared`: every chapter's module is found, and depends only on what came before it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shared
from shared import CHAPTER_FOLDERS

ROOT = Path(shared.__file__).resolve().parent.parent
LIBRARY = {path.stem for path in (ROOT / "shared").glob("*.py")}
NOTEBOOKS = [path for folder in CHAPTER_FOLDERS for path in sorted(folder.glob("*.ipynb"))]
ALSO_IMPORTED = {"deployment": {"onnx", "PIL"}}  # inside functions only: importing the module needs NumPy alone
MODULES = {
    path.with_suffix(".py").stem: path.with_suffix(".py") for path in NOTEBOOKS if path.with_suffix(".py").exists()
}


def imports(source):
    """The import statements of a Python text, wherever they stand in it, as (statement, module) pairs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((ast.unparse(node), alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"shared.{alias.name}" for alias in node.names] if node.module == "shared" else [node.module]
            yield from ((ast.unparse(node), name) for name in names)


def notebook_code(path):
    """All code of a notebook as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def chapters_ahead(source, folder):
    """The modules of the same chapter or later ones that a text imports, in a chapter's folder."""
    return [
        module
        for _, module in imports(source)
        if module.startswith("shared.")
        and module.split(".")[1] in MODULES
        and MODULES[module.split(".")[1]].parent >= folder
    ]


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.stem)
def test_a_module_imports_numpy_the_standard_library_and_earlier_chapters_only(path):
    source = path.read_text(encoding="utf-8")
    at_the_top = {ast.unparse(node) for node in ast.parse(source).body}
    for statement, module in imports(source):
        root = module.split(".")[0]
        allowed = {"numpy", "shared"} | (set() if statement in at_the_top else ALSO_IMPORTED.get(path.stem, set()))
        assert root in allowed or root in sys.stdlib_module_names, statement
    assert chapters_ahead(source, path.parent) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_notebook_imports_earlier_chapters_only(path):
    """A solutions notebook comes after its chapter's module, so it may import that as well."""
    allowed = {path.parent.name[3:]} if path.stem == "solutions" else set()
    ahead = chapters_ahead(notebook_code(path), path.parent)
    assert [module for module in ahead if MODULES[module.split(".")[1]].parent.name[3:] not in allowed] == []


def test_looking_ahead_would_be_noticed():
    source = "def f():\n    from shared.traditional_ml import Ridge"
    assert chapters_ahead(source, CHAPTER_FOLDERS[0]) == ["shared.traditional_ml"]
    assert chapters_ahead(source, CHAPTER_FOLDERS[1]) == []
    assert chapters_ahead("from shared import traditional_ml", CHAPTER_FOLDERS[0]) == ["shared.traditional_ml"]
    assert chapters_ahead("import shared.traditional_ml as m", CHAPTER_FOLDERS[0]) == ["shared.traditional_ml"]


def python(code, *, cwd, path=None, executable=sys.executable):
    """Run Python code in a fresh process and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "COURSE_DATA"}}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "folder", [folder for folder in CHAPTER_FOLDERS if list(folder.glob("*.ipynb"))], ids=lambda folder: folder.name
)
def test_a_chapter_works_without_the_later_ones(folder, tmp_path):
    """The imports of a chapter's notebooks and module succeed in a tree that ends with that chapter."""
    for kept in [ROOT / "shared", *(other for other in CHAPTER_FOLDERS if other <= folder)]:
        shutil.copytree(
            kept, tmp_path / kept.name, ignore=shutil.ignore_patterns("cache", "__pycache__", "*.pyi", "*.npz")
        )
    sources = [notebook_code(path) for path in folder.glob("*.ipynb")]
    statements = sorted(
        {statement for source in sources for statement, _ in imports(source) if not statement.startswith("from __")}
    )
    if any("torch" in statement.split() for statement in statements):
        pytest.importorskip("torch", reason="the notebook compares with PyTorch")
    code = "\n".join(["import shared", *statements, "print(shared.__file__)"])
    assert python(code, cwd=tmp_path / folder.name, path=tmp_path).strip() == str(tmp_path / "shared" / "__init__.py")


def test_a_module_is_one_file_in_its_chapter():
    for name, path in MODULES.items():
        found = python(f"import shared.{name}; print(shared.{name}.__file__)", cwd=path.parent)
        assert Path(found.strip()) == path


def test_no_exported_module_hides_another():
    names = [
        path.stem
        for folder in CHAPTER_FOLDERS
        for path in folder.glob("*.py")
        if path.stem not in {"exercises", "train"}
    ]
    assert len(names) == len(set(names)) and not set(names) & LIBRARY
