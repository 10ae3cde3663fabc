"""README tells the truth: its drawing shows the modules that there are and who imports whom, its figures are those on record."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import shared
from shared import CHAPTER_FOLDERS

ROOT = Path(shared.__file__).resolve().parent.parent
SCRIPTS = {"__init__", "__main__", "exercises", "train"}
TOOLS = {  # of those who write and test the course: no model needs them
    "checks", "conftest", "export", "memory", "mutation", "notebook_plugin", "notebook_style", "readme", "store_notebook",
}


def modules():
    """The path of each module of the course, by name: the chapters' and those of `shared` itself."""
    paths = [path for folder in [ROOT / "shared", *CHAPTER_FOLDERS] for path in folder.glob("*.py")]
    return {path.stem: path for path in paths if path.stem not in SCRIPTS | TOOLS and not path.stem.startswith("test_")}


def imported(source, names):
    """Those of `names` that a Python text imports from `shared`, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("shared.") for alias in node.names if alias.name.startswith("shared.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "shared":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("shared."):
            found.add(node.module.removeprefix("shared."))
    return found & set(names)


def drawn(readme):
    """The boxes of README's Mermaid drawing, by name, with what is written in them, and its arrows as (from, to) pairs."""
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", readme, re.DOTALL)
    boxes = dict(re.findall(r'^\s*(\w+)\["(.+?)"\]$', drawing, re.MULTILINE))
    arrows = set()
    for line in drawing.splitlines():
        if "-->" in line:
            sources, target = line.split("-->")
            arrows |= {(source.strip(), target.strip()) for source in sources.split("&")}
    return boxes, arrows


@pytest.fixture(scope="module")
def drawing():
    """README's boxes and arrows."""
    return drawn((ROOT / "README.md").read_text(encoding="utf-8"))


def test_every_module_has_a_box_and_every_box_is_a_module(drawing):
    assert set(drawing[0]) == set(modules())


def test_the_arrows_lead_from_each_module_to_those_that_import_it(drawing):
    paths = modules()
    true = {(name, importer) for importer, path in paths.items() for name in imported(path.read_text(encoding="utf-8"), paths)}
    assert drawing[1] == true


def test_what_a_box_names_stands_in_its_module(drawing):
    """After the module's own name a box lists names that it defines, or offers where it only gathers."""
    for name, text in drawing[0].items():
        heading, _, rest = text.partition("<br>")
        assert heading.split()[-1] == name
        public = vars(__import__(f"shared.{name}", fromlist=["*"]))
        listed = re.findall(r"[A-Za-z_]\w*", rest.replace("<br>", " "))
        assert listed and [entry for entry in listed if entry not in public] == [], name


def test_a_wrong_drawing_would_be_noticed():
    boxes, arrows = drawn('x\n```mermaid\nflowchart LR\n    a["04 a<br>f"]\n    b["b<br>g"]\n    a & b --> c\n```\n')
    assert boxes == {"a": "04 a<br>f", "b": "b<br>g"} and arrows == {("a", "c"), ("b", "c")}
    assert imported("def f():\n    from shared import a, z\nimport shared.b\nfrom shared.c import x", "abcd") == {"a", "b", "c"}


@pytest.fixture(scope="module")
def writer():
    """The script that writes README's tables."""
    spec = importlib.util.spec_from_file_location("readme", Path(__file__).with_name("readme.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_what_the_records_say(writer):
    """Else: ``python 99_Deployment_Tests/readme.py``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert writer.filled(text) == text


def test_a_figure_that_was_typed_in_would_be_noticed(writer):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert writer.filled(re.sub(r"(\d\d\.\d\d) % of the test set", "99.99 % of the test set", text)) == text
    with pytest.raises(ValueError, match="0 places for the table 'figures'"):
        writer.filled(text.replace("<!-- figures -->", ""))


def test_every_picture_of_readme_exists_and_is_described():
    found = re.findall(r"!\[(.*?)\]\((.+?)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) == 2 and all(text and (ROOT / path).is_file() for text, path in found)
