"""What the training scripts share: runs that are stopped go on where they stopped, and what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shared
from shared.tensor_mlp import load, load_metadata

pytest.importorskip("tqdm", reason="training scripts show their progress")
ROOT = Path(shared.__file__).resolve().parent.parent

SCRIPT = '''
"""Train a line.

More words, which the command line does not show.
"""
import numpy as np
from shared.runs import fit, main
from shared.scalar_mlp import SGD
from shared.tensor import manual_seed
from shared.tensor_mlp import DataLoader, Linear, Trainer, mse_loss

def train_line(seed, epochs, folder):
    manual_seed(seed)
    x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    model = Linear(1, 1)
    trainer = Trainer(model, SGD(model.parameters(), lr=0.1, momentum=0.9), mse_loss, folder=folder)
    stop = STOP
    if stop:
        def interrupt(trainer):
            if trainer.step == stop:
                raise KeyboardInterrupt
        trainer.on_step = interrupt
    minutes = fit(trainer, DataLoader((x, 3 * x), 4, shuffle=True, generator=seed), DataLoader((x, 3 * x), 12), epochs)
    return model, trainer, {"figure": {"loss": round(trainer.best_loss, 4)}, "seed": seed, "minutes": minutes}

if __name__ == "__main__":
    main(__file__, __doc__.split("\\n")[0], {"line": (train_line, "line_model", 4)})
'''


@pytest.fixture
def script(tmp_path):
    """A function that runs a chapter's script in a fresh process; `stop` is the step at which it is interrupted."""
    folder = tmp_path / "07_Lines"
    folder.mkdir()

    def run(*arguments, stop=0, fails=False):
        (folder / "train.py").write_text(SCRIPT.strip().replace("STOP", str(stop)))
        done = subprocess.run([sys.executable, str(folder / "train.py"), *arguments], capture_output=True, text=True, timeout=120,
                              cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "COURSE_DATA": str(tmp_path / "cache")})
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout + done.stderr

    run.checkpoints, run.runs = folder / "checkpoints", tmp_path / "cache" / "runs"
    return run


def left_by(folder):
    """The weights and the record in a folder, without the minutes."""
    record = json.loads((folder / "line_model.json").read_text())
    assert record.pop("minutes") >= 0
    return load(folder / "line_model.safetensors"), record


def test_a_run_writes_weights_and_a_record_and_tidies_up(script):
    said = script("line", "--seed", "3")
    weights, record = left_by(script.checkpoints)
    assert set(weights) == {"weight", "bias"} and str(record["figure"]) in said and "resumed" not in said
    assert record["seed"] == 3 and set(record["curve"]) == {"train_loss", "val_loss"}
    assert len(record["curve"]["val_loss"]) == 4 and record["curve"]["val_loss"][-1] < record["curve"]["val_loss"][0]
    assert load_metadata(script.checkpoints / "line_model.safetensors") == {"trained by": "train.py line"}
    assert {path.name for path in script.checkpoints.iterdir()} == {"line_model.json", "line_model.safetensors"}
    assert not list(script.runs.iterdir())


def test_an_interrupted_run_goes_on_and_writes_what_it_would_have_written(script, tmp_path):
    script("line", "--out", str(tmp_path / "whole"))
    assert "KeyboardInterrupt" in script("line", stop=8, fails=True)
    assert not script.checkpoints.exists() and [path.name for path in script.runs.iterdir()] == ["07_line_model_0"]
    clock = script.runs / "07_line_model_0" / "minutes.json"
    clock.write_text("60.0")  # as if the first sitting had taken an hour
    assert "resumed after epoch 2" in script("line")
    assert json.loads((script.checkpoints / "line_model.json").read_text())["minutes"] == pytest.approx(60, abs=1)
    (weights, record), (expected, other) = left_by(script.checkpoints), left_by(tmp_path / "whole")
    assert record == other
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array)


def test_a_fresh_run_forgets_and_another_seed_is_another_run(script):
    script("line", stop=8, fails=True)
    assert "resumed" not in script("line", "--seed", "1", "--epochs", "1")
    assert len(left_by(script.checkpoints)[1]["curve"]["train_loss"]) == 1
    assert [path.name for path in script.runs.iterdir()] == ["07_line_model_0"]
    assert "resumed" not in script("line", "--fresh")


def test_the_command_line_explains_itself(script):
    assert "'line'" in script("circle", fails=True)
    text = script("--help")
    assert "Train a line." in text and "More words" not in text
