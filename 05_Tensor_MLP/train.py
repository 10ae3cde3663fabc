"""Train chapter 05's models on the full data sets and store them in `checkpoints/`.

    python 05_Tensor_MLP/train.py mnist          a few minutes on two cores
    python 05_Tensor_MLP/train.py usa_housing    a few seconds

A run writes its state into the data cache after every epoch. Started again, it goes on from there and ends with the
same parameters; ``--fresh`` begins anew. Beside the weights, NAME.safetensors, stands NAME.json: data, seed, steps,
minutes, the curve, and the figure that was reached.
"""

import numpy as np

from shared import datasets
from shared.runs import fit, main
from shared.scalar_mlp import Module
from shared.tensor import manual_seed, no_grad
from shared.tensor_mlp import (
    GELU,
    AdamW,
    DataLoader,
    Dropout,
    Linear,
    OneCycleLR,
    ReLU,
    Sequential,
    Trainer,
    accuracy,
    cross_entropy,
    mse_loss,
    random_shift,
)
from shared.traditional_ml import StandardScaler, r2_score, train_test_split


def mnist_mlp():
    """The network for MNIST, 784-512-256-10; its input is a row of pixels from 0 to 1."""
    return Sequential(
        Dropout(0.1), Linear(784, 512), ReLU(), Dropout(0.2), Linear(512, 256), ReLU(), Dropout(0.2), Linear(256, 10)
    )


def pixels(pictures, labels):
    """Bytes (N, 28, 28) and labels as rows of numbers from 0 to 1, and integers."""
    return pictures.reshape(len(pictures), -1) / np.float32(255), labels.astype(np.int64)


def train_mnist(seed, epochs, folder):
    """Train on 55,000 pictures, watch 5,000, and read the official test set once, at the end."""
    data, generator, shifts = datasets.mnist(), manual_seed(seed), np.random.default_rng(seed + 1)
    model = mnist_mlp()
    split = 55_000
    # The shifts are drawn from the loader's own generator, whose state a resumed run gets back.
    train = DataLoader((data.x_train[:split], data.y_train[:split]), 128, shuffle=True, generator=shifts,
                       transform=lambda x, y: pixels(random_shift(x, shifts), y))
    validation = DataLoader((data.x_train[split:], data.y_train[split:]), 1000, transform=pixels)
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    trainer = Trainer(
        model, optimizer, lambda output, target: cross_entropy(output, target, label_smoothing=0.1 * model.training),
        metrics={"accuracy": accuracy}, schedule="batch", folder=folder,
        scheduler=OneCycleLR(optimizer, 3e-3, epochs=epochs, steps_per_epoch=len(train)),
    )
    minutes = fit(trainer, train, validation, epochs)
    test = Trainer(model, optimizer, metrics={"accuracy": accuracy}).evaluate(
        DataLoader((data.x_test, data.y_test), 1000, transform=pixels))
    return model, trainer, {
        "data": "MNIST, 55,000 training pictures shifted at random by at most one pixel, 5,000 for validation",
        "figure": {"test_accuracy": round(test["accuracy"], 4), "test_loss": round(test["loss"], 4)},
        "seed": seed, "epochs": epochs, "steps": trainer.step, "minutes": minutes,
        "generator": type(generator.bit_generator).__name__,
    }


class LineAndBend(Module):
    """A line plus a small network, so that weight decay on the network alone pulls the sum towards the line."""

    def __init__(self, inputs, hidden):
        self.line = Linear(inputs, 1)
        self.bend = Sequential(Linear(inputs, hidden), GELU(), Linear(hidden, 1))

    def forward(self, x):
        """Predictions (N, 1) for rows (N, inputs)."""
        return self.line(x) + self.bend(x)


def train_usa_housing(seed, epochs, folder):
    """Train on the rows on which chapter 00 fitted its line: 70 % of the table, split with seed 101."""
    table = datasets.usa_housing()
    x, y = table.drop(columns=["Price", "Address"]).to_numpy(float), table["Price"].to_numpy(float)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=101)
    scaler, target = StandardScaler(), StandardScaler()
    inputs, outputs = scaler.fit_transform(x_train), target.fit_transform(y_train[:, None])
    manual_seed(seed)
    model = LineAndBend(5, 16)
    train = DataLoader((inputs.astype(np.float32), outputs.astype(np.float32)), 64, shuffle=True, generator=seed)
    bend = {"params": list(model.bend.parameters()), "weight_decay": 3.0}  # bent only as far as the data pay for it
    optimizer = AdamW([{"params": list(model.line.parameters()), "weight_decay": 0.0}, bend], lr=5e-3)
    trainer = Trainer(model, optimizer, mse_loss, schedule="batch", folder=folder,
                      scheduler=OneCycleLR(optimizer, 5e-3, epochs=epochs, steps_per_epoch=len(train)))
    minutes = fit(trainer, train, None, epochs)
    with no_grad():
        guess = target.inverse_transform(model(scaler.transform(x_test).astype(np.float32)).data)[:, 0]
    return model, trainer, {
        "data": "usa_housing, 5,000 synthetic sales, 30 % held out with seed 101 as in chapter 00",
        "figure": {"r2": round(r2_score(y_test, guess), 4)},
        "seed": seed, "epochs": epochs, "steps": trainer.step, "minutes": minutes,
    }


RUNS = {"mnist": (train_mnist, "mnist_mlp", 40), "usa_housing": (train_usa_housing, "usa_housing_mlp", 40)}


if __name__ == "__main__":
    main(__file__, __doc__.split("\n")[0], RUNS)
