"""Draw README's picture from the figures stored in the notebooks: ``python 99_Deployment_Tests/readme_picture.py``."""
import base64
import io
import os
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ROWS = [  # each figure by its notebook and its cell; those of one row get one height
    [("02_Scalar_Autograd/scalar_autograd.ipynb", "finished")],
    [("01_Perceptrons_Rosenblatt/perceptron.ipynb", "digits-weights"), ("03_Scalar_MLP/scalar_mlp.ipynb", "spiral-pictures")],
]
WIDTH, GAP = 1200, 16


def figure(notebook, cell_id):
    """The picture that a notebook stores in a cell."""
    cells = nbformat.read(ROOT / notebook, as_version=4).cells
    outputs = next(cell.outputs for cell in cells if cell.id == cell_id)
    data = next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def beside(pictures):
    """Pictures of one height beside one another, WIDTH pixels wide together."""
    ratio = sum(picture.width / picture.height for picture in pictures)
    height = round((WIDTH - GAP * (len(pictures) - 1)) / ratio)
    row, x = Image.new("RGB", (WIDTH, height), "white"), 0
    for picture in pictures:
        width = round(height * picture.width / picture.height)
        row.paste(picture.resize((width, height), Image.LANCZOS), (x, 0))
        x += width + GAP
    return row


def main():
    """Write 99_Deployment_Tests/readme.png."""
    rows = [beside([figure(*place) for place in row]) for row in ROWS]
    sheet, y = Image.new("RGB", (WIDTH, sum(row.height + GAP for row in rows) - GAP), "white"), 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + GAP
    target = Path(__file__).with_name("readme.png")
    sheet.quantize(256).save(target.with_suffix(".tmp"), format="png", optimize=True)
    os.replace(target.with_suffix(".tmp"), target)


if __name__ == "__main__":
    main()
