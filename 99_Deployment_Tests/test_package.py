"""The package: one version, one list of what it needs, and a wheel that works beside nothing but NumPy."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import shared
from shared import CHAPTER_FOLDERS
from shared.deployment import stored_models

ROOT = Path(shared.__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
MODULES = [path.with_suffix(".py") for folder in CHAPTER_FOLDERS for path in sorted(folder.glob("*.ipynb"))
           if path.with_suffix(".py").exists()]
SMALL = 10_000_000  # bytes of weights; what is larger stays with the course


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"] and PROJECT["tool"]["hatch"]["version"] == {"path": "shared/__init__.py"}
    assert version("deep-learning-from-numpy") == shared.__version__
    newest = re.search(r"^## ([\d.]+)", (Path(__file__).with_name("CHANGELOG.md")).read_text(encoding="utf-8"), re.MULTILINE)
    assert newest[1] == shared.__version__


def test_readme_names_the_oldest_python_that_is_taken():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"You need Python {oldest} or later" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_needs_numpy_alone():
    assert [re.match(r"[\w-]+", needed)[0] for needed in PROJECT["project"]["dependencies"]] == ["numpy"]


def names(requirements):
    """The names of required packages, without versions and extras, in small letters."""
    return {re.match(r"[\w-]+", line)[0].lower() for line in requirements}


def test_what_the_program_and_the_service_import_stands_in_the_extra():
    """And in requirements.txt, so that a reader who installs the course has all of it."""
    distributions = {"PIL": "pillow", "starlette": "fastapi", "pydantic": "fastapi"}  # the last two come with fastapi
    imported = set()
    for name in ("command_line", "service", "models", "deployment"):
        for node in ast.walk(ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    needed = {distributions.get(name, name) for name in imported - sys.stdlib_module_names - {"shared", "numpy"}}
    extra = names(PROJECT["project"]["optional-dependencies"]["deploy"])
    assert {"pillow", "onnx", "fastapi", "uvicorn"} <= needed <= extra
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert extra <= names(line for line in lines if line[0] not in "-#")


def imported_modules(path):
    """The course's own modules that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("shared.") for alias in node.names if alias.name.startswith("shared."))
        elif isinstance(node, ast.ImportFrom) and node.module == "shared":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shared."):
            yield node.module.removeprefix("shared.")


def test_imports_go_one_way():
    """No module imports, through whatever others, one that imports it."""
    paths = [path for entry in WHEEL["include"] if entry.endswith(".py") for path in ROOT.glob(entry)]
    graph = {path.stem: set(imported_modules(path)) for path in paths}
    assert {"service", "models"} <= graph["command_line"]
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert order.index("models") < order.index("service") < order.index("command_line")


def test_every_dependency_has_its_reason():
    for path, pattern in ((ROOT / "requirements.txt", r"^\w[\w-]*[>=]="), (ROOT / "pyproject.toml", r'^    "\w[\w-]*[>=]=')):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(pattern, line)]
        assert len(lines) > 5 and all(re.search(r"# \w+", line) for line in lines), path


def test_the_wheel_packs_every_module():
    """pyproject.toml names each module and each chapter folder: hatchling would silently leave out what it does not know."""
    for path in MODULES:
        assert path.relative_to(ROOT).as_posix() in WHEEL["include"]
    assert set(WHEEL["sources"]) == {folder.name for folder in CHAPTER_FOLDERS}


def test_no_two_chapters_have_weights_of_one_name():
    """In a wheel they all lie in one folder."""
    files = [path.name for folder in CHAPTER_FOLDERS for path in (folder / "checkpoints").glob("*")]
    assert len(files) == len(set(files))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the course."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", "cache", "__pycache__", ".venv", "build", "dist", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder / "course", ignore=ignored)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder / "course", cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment that holds the wheel, NumPy, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    executable = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(executable, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return executable


def run(*command, cwd, code=0):
    """Run a command to its end and return (what it prints, what it complains of). Its exit code must be `code`."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "COURSE_DATA"}}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_the_wheel_holds_modules_weights_and_page_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(packed) == len(set(packed)) and all(name.startswith("shared/") for name in packed)
    held = {name.removeprefix("shared/") for name in packed}
    assert {path.name for path in MODULES} | {"command_line.py", "models.py", "service.py", "page.html", "__main__.py"} <= held
    for path in stored_models().values():
        beside = {f"checkpoints/{file.name}" for file in path.parent.glob(f"{path.stem}.*")}
        assert beside <= held if path.stat().st_size < SMALL else not beside & held
    assert {name.split("/")[0] for name in held if "/" in name} == {"checkpoints", "data"}
    assert not [name for name in held if re.search(r"^(test_|train|exercises|.*\.ipynb|benchmarks)", name)]
    assert wheel.stat().st_size < 25_000_000


def test_it_imports_beside_nothing_but_numpy(python, tmp_path):
    code = [
        "import shared, shared.checks, shared.export, shared.nn, shared.functional, shared.optim, shared.command_line",
        "from shared import datasets",
        *(f"import shared.{path.stem}; assert shared.{path.stem}.__all__" for path in MODULES),
        "print(shared.__version__, datasets.mnist_embedded().x_train.shape, len(datasets.drama()) > 60_000)",
    ]
    out, _ = run(python, "-c", "\n".join(code), cwd=tmp_path)
    assert out.strip() == f"{shared.__version__} (10000, 28, 28) True"


def test_the_program_works_there(python, tmp_path):
    """With the stored weights, and no network; what needs more than NumPy says what to install."""
    out, _ = run(python, "-m", "shared", "--version", cwd=tmp_path)
    assert out.split()[-1] == shared.__version__
    out, _ = run(python, "-m", "shared", "models", cwd=tmp_path)
    small = {name for name, path in stored_models().items() if path.stat().st_size < SMALL}
    assert {line.split()[0] for line in out.splitlines()} == small
    out, _ = run(python, "-m", "shared", "generate", "--prompt", "ROMEO:", "--tokens", "20", "--seed", "0", cwd=tmp_path)
    assert out.startswith("ROMEO:") and len(out) >= 26
    run(python, "-m", "shared", "export", "mnist_cnn", "--format", "safetensors", cwd=tmp_path)
    assert (tmp_path / "mnist_cnn.safetensors").stat().st_size > 500_000
    (tmp_path / "seven.png").write_bytes(b"")
    for arguments, words in [(["classify", "seven.png"], ["Pillow", "[deploy]"]), (["serve"], ["needs the package", "[deploy]"]),
                             (["train", "mnist_cnn"], ["training scripts"])]:
        out, err = run(python, "-m", "shared", *arguments, cwd=tmp_path, code=1)
        assert err.count("\n") == 1 and all(word in err for word in words), err
