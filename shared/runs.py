"""What the chapters' training scripts share: a command line, a progress bar, runs that go on where they stopped, records.

A script lists its runs, each a function of (seed, epochs, folder) that returns (model, trainer, record), and calls `main`. A
fourth result may be a table of what else belongs beside the weights, from endings of file names to functions that write there.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from shared import datasets
from shared.tensor_mlp import save

__all__ = ["fit", "main", "store"]


def fit(trainer, train, validation, epochs):
    """Run or resume a training with a progress bar; returns the minutes of all its sittings together."""
    if trainer.resume():
        print(f"resumed after epoch {trainer.epoch}")
    clock = trainer.folder / "minutes.json"
    before, start = (json.loads(clock.read_text()) if clock.exists() else 0.0), perf_counter()
    trainer.progress = lambda batches, desc: tqdm(batches, desc=f"{desc}/{epochs}", leave=False)

    def report(trainer):
        clock.write_text(json.dumps(before + (perf_counter() - start) / 60))
        tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in trainer.history.epochs[-1].items()))

    trainer.on_epoch = report
    trainer.fit(train, validation, epochs=epochs)
    return round(json.loads(clock.read_text()), 1)


def store(model, trainer, record, folder, name, script):
    """Write NAME.safetensors and NAME.json, the weights and what is known of them, under temporary names first."""
    columns = [column for column in trainer.history.epochs[-1] if column not in ("epoch", "step", "lr")]
    record["curve"] = {column: [round(float(v), 4) for v in trainer.history.column(column)] for column in columns}
    folder.mkdir(parents=True, exist_ok=True)
    save(model.state_dict(), folder / f"{name}.safetensors", {"trained by": script})
    unfinished = folder / f"{name}.json.part"
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(unfinished, folder / f"{name}.json")


def main(script, description, runs):
    """The command line of a training script at the path `script`.

    `runs` is a table from what is named on the command line to (function, name of the stored model, epochs).
    """
    script = Path(script).resolve()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", choices=runs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=script.parent / "checkpoints", help="folder for the weights and their record")
    parser.add_argument("--fresh", action="store_true", help="forget an unfinished run")
    options = parser.parse_args()
    train, name, epochs = runs[options.data]
    folder = datasets.cache_folder() / "runs" / f"{script.parent.name[:2]}_{name}_{options.seed}"
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    model, trainer, record, *others = train(options.seed, options.epochs or epochs, folder)
    store(model, trainer, record, options.out, name, f"{script.name} {options.data}")
    for ending, write in (others[0] if others else {}).items():
        write(options.out / f"{name}.{ending}")
    shutil.rmtree(folder)
    print(record["figure"], f"after {record['minutes']} minutes")
