"""A pytest plugin that adds to nbval what it does not compare: pictures, cells stored without being run, later chapters.

nbval re-executes a cell and compares its text. After each cell this plugin compares the pictures as well: the stored
and the new one must have one size and look alike when both are blurred to a coarse thumbnail, so that another font
renderer passes and another curve does not. A picture of a single colour fails. A chapter's notebooks are validated with the
modules of all later chapters hidden, so that one which needs them, anywhere in its run, fails.
"""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shared

BLOCK = 16  # pixels along the side of a thumbnail's pixel
MEAN_LIMIT = 1.5  # mean difference of two thumbnails, of 255
PEAK_LIMIT = 40  # largest difference of one thumbnail pixel, of 255


def pytest_configure(config):
    """Let the kernels that nbval starts find the course even where it is not installed."""
    root = str(Path(shared.__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    """Tell a notebook's kernel which chapter it belongs to, and how many threads to start.

    The first hides the later chapters from it (see `shared`); the second lets notebooks that run side by side share the
    cores. The kernel is started for the first cell of its notebook, after this, and inherits both.
    """
    chapter = item.path.parent.name
    if item.path.suffix == ".ipynb" and chapter in {folder.name for folder in shared.CHAPTER_FOLDERS}:
        os.environ["COURSE_CHAPTER"] = chapter
    else:
        os.environ.pop("COURSE_CHAPTER", None)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1 and item.path.suffix == ".ipynb":
        for name in ("COURSE_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // workers)))


def pictures(outputs):
    """The PNG pictures among a cell's outputs, as (H, W, 3) arrays."""
    found = []
    for output in outputs or []:
        data = output.get("data", {}).get("image/png")
        if data:
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=float))
    return found


def thumbnail(picture):
    """The picture blurred to one pixel for each BLOCK x BLOCK square."""
    height, width = (n - n % BLOCK for n in picture.shape[:2])
    squares = picture[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    return squares.mean((1, 3))


def picture_problem(stored, new):
    """Say how two pictures differ, or None where they look alike."""
    if np.ptp(new) == 0:
        return "the new picture is blank"
    if stored.shape != new.shape:
        return f"stored {stored.shape[1]} x {stored.shape[0]} pixels, now {new.shape[1]} x {new.shape[0]}"
    difference = np.abs(thumbnail(stored) - thumbnail(new))
    if difference.mean() > MEAN_LIMIT or difference.max() > PEAK_LIMIT:
        return f"thumbnails differ by {difference.mean():.2f} on average and {difference.max():.0f} at most, of 255"
    return None


def cell_problems(cell, new_outputs):
    """What is wrong with one re-executed code cell beyond its text: a list of sentences."""
    if cell.source.strip() and not cell.execution_count:
        return ["the cell was stored without having been run"]
    stored, new = pictures(cell.outputs), pictures(new_outputs)
    if len(stored) != len(new):
        return [f"{len(stored)} pictures stored, {len(new)} now"]
    if "nbval-ignore-output" in cell.metadata.get("tags", []):  # such as the curve of a training in float32
        return [f"picture {i + 1} is blank" for i, picture in enumerate(new) if np.ptp(picture) == 0]
    problems = (picture_problem(*pair) for pair in zip(stored, new, strict=True))
    return [f"picture {i + 1}: {problem}" for i, problem in enumerate(problems) if problem]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """After nbval has run and compared a cell, look at what it does not look at."""
    result = yield
    if type(item).__name__ == "IPyNbCell":
        problems = cell_problems(item.cell, item.test_outputs)
        if problems:
            pytest.fail(f"{item.nodeid}: " + "; ".join(problems), pytrace=False)
    return result
