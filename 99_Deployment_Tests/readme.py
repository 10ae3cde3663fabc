"""Write what README shows of the course: ``python 99_Deployment_Tests/readme.py [--check]``

The picture is put together from figures that the notebooks store, and each table between ``<!-- NAME -->`` and
``<!-- end -->`` is made from the records of the stored models and of the benchmarks, so that no number is typed in.
``--check`` writes nothing and fails where a table is not what the records say.
"""

import argparse
import base64
import io
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = [  # each figure by its notebook and its cell; those of one row get one height
    [("02_Scalar_Autograd/scalar_autograd.ipynb", "finished")],
    [("01_Perceptrons_Rosenblatt/perceptron.ipynb", "digits-weights"), ("03_Scalar_MLP/scalar_mlp.ipynb", "spiral-pictures")],
    [("06_CNN_Vectorised/cnn.ipynb", "inside-depth"), ("07_Transformers/transformers.ipynb", "attention-maps")],
]
WIDTH, GAP = 1200, 16


def figure(notebook, cell_id):
    """The picture that a notebook stores in a cell."""
    import nbformat
    from PIL import Image

    cells = nbformat.read(ROOT / notebook, as_version=4).cells
    outputs = next(cell.outputs for cell in cells if cell.id == cell_id)
    data = next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def beside(pictures):
    """Pictures of one height beside one another, WIDTH pixels wide together."""
    from PIL import Image

    ratio = sum(picture.width / picture.height for picture in pictures)
    height = round((WIDTH - GAP * (len(pictures) - 1)) / ratio)
    row, x = Image.new("RGB", (WIDTH, height), "white"), 0
    for picture in pictures:
        width = round(height * picture.width / picture.height)
        row.paste(picture.resize((width, height), Image.LANCZOS), (x, 0))
        x += width + GAP
    return row


def write_picture():
    """Write 99_Deployment_Tests/readme.png."""
    from PIL import Image

    rows = [beside([figure(*place) for place in row]) for row in ROWS]
    sheet, y = Image.new("RGB", (WIDTH, sum(row.height + GAP for row in rows) - GAP), "white"), 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + GAP
    target = Path(__file__).with_name("readme.png")
    sheet.quantize(256).save(target.with_suffix(".tmp"), format="png", optimize=True)
    os.replace(target.with_suffix(".tmp"), target)


def record(chapter, name):
    """What is known of a stored model."""
    return json.loads((ROOT / chapter / "checkpoints" / f"{name}.json").read_text(encoding="utf-8"))


def figures():
    """One row for each stored model: what it does, the figure that it reached, and the command that made it."""
    rows = []

    def row(what, chapter, run, name, figure):
        found = record(chapter, name)
        rows.append(f"| {what} | {figure(found['figure'])} | `python {chapter}/train.py {run}`, {found['minutes']:.0f} minutes |")

    def accuracy(found):
        return f"{100 * found['test_accuracy']:.2f} % of the test set"

    row("handwritten digits (MNIST), a multilayer perceptron", "05_Tensor_MLP", "mnist", "mnist_mlp", accuracy)
    row("the same, a convolutional network", "06_CNN_Vectorised", "mnist", "mnist_cnn", accuracy)
    row("photographs (CIFAR-10, a copy that was compressed as JPEG)", "06_CNN_Vectorised", "cifar10", "cifar10_cnn", accuracy)
    row("tiny Shakespeare, nanoGPT's small configuration", "07_Transformers", "shakespeare-small", "shakespeare_small",
        lambda found: f"{found['val_loss']:.3f} nats a letter on unseen text")
    row("tiny Shakespeare, a larger transformer", "07_Transformers", "shakespeare", "shakespeare",
        lambda found: f"{found['val_loss']:.3f} nats a letter on unseen text")
    return ["| task | figure | made by |", "|---|---|---|", *rows]


def speed():
    """One row for each workload of the benchmarks: the time of ours over that of each peer, and the peak memory."""
    results = json.loads((ROOT / "99_Deployment_Tests/benchmarks/results.json").read_text(encoding="utf-8"))
    peers = ("PyTorch", "npTensor", "HIPS autograd", "micrograd")
    rows = ["| workload | " + " | ".join(peers) + " | peak memory, ours / PyTorch |", "|---" * (len(peers) + 2) + "|"]
    for result in results.values():
        engines = result["engines"]
        ratios = [(engines.get(peer) or {}).get("ratio") for peer in peers]
        memory = [(engines.get(name) or {}).get("peak_megabytes") for name in ("ours", "PyTorch")]
        cells = ["" if ratio is None else f"{ratio[0]:.2f}" for ratio in ratios]
        cells.append(" / ".join(f"{megabytes:.0f} MB" for megabytes in memory if megabytes is not None) if all(memory) else "")
        rows.append(f"| {result['title']} | " + " | ".join(cells) + " |")
    return rows


TABLES = {"figures": figures, "speed": speed}


def filled(text):
    """README's text with its tables made anew."""
    for name, table in TABLES.items():
        text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda found, table=table: "\n".join(
            [found[1].rstrip(), *table(), found[2]]), text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README has {count} places for the table {name!r}, expected 1")
    return text


def main():
    """Write README's tables and its picture, or compare the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a table is out of step")
    options, readme = parser.parse_args(), ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if options.check:
        return int(before != after)
    unfinished = readme.with_name("README.md.part")
    unfinished.write_text(after, encoding="utf-8")
    os.replace(unfinished, readme)
    write_picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
