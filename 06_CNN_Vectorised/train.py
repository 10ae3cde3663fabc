"""Train chapter 06's models on the full data sets and store them in `checkpoints/`.

    python 06_CNN_Vectorised/train.py mnist      six epochs: 18 minutes on one core with other work besides
    python 06_CNN_Vectorised/train.py cifar10    eight epochs: 92 minutes on one core with other work besides

A run writes its state into the data cache after every epoch. Started again, it goes on from there and ends with the
same parameters; ``--fresh`` begins anew. Beside the weights, NAME.safetensors, stands NAME.json: data, seed, steps,
minutes, the curve, and the figure that was reached.
"""

from time import perf_counter
from zlib import crc32

import numpy as np

from shared import datasets
from shared.cnn import (
    BatchNorm2d,
    Conv2d,
    Muon,
    Together,
    WhitenedNet,
    cifar10_pixels,
    mean_over_views,
    mnist_pixels,
    random_crop,
    random_flip,
    vgg,
    whitening_filters,
)
from shared.runs import fit, main
from shared.scalar_mlp import SGD
from shared.tensor import manual_seed
from shared.tensor_mlp import AdamW, DataLoader, LambdaLR, OneCycleLR, Trainer, accuracy, cross_entropy, random_shift


def mnist_cnn():
    """The network for MNIST, (N, 1, 28, 28): five convolutions between three poolings, and one linear layer."""
    return vgg((32, 32, "pool", 64, 64, "pool", 128, "pool"), in_channels=1, size=28)


def digits(pictures, labels):
    """Bytes (N, 28, 28) and labels as pictures (N, 1, 28, 28) of mean 0 and variance 1, and integers."""
    return mnist_pixels(pictures), labels.astype(np.int64)


def train_mnist(seed, epochs, folder):
    """Train on 55,000 pictures, watch 5,000, and read the official test set once, at the end."""
    data = datasets.mnist()
    split = len(data.x_train) * 11 // 12  # 55,000 of the 60,000
    manual_seed(seed)
    model, shifts = mnist_cnn(), np.random.default_rng(seed + 1)
    train = DataLoader((data.x_train[:split], data.y_train[:split]), 128, shuffle=True, generator=shifts,
                       transform=lambda x, y: digits(random_shift(x, shifts, 2), y))
    validation = DataLoader((data.x_train[split:], data.y_train[split:]), 500, transform=digits)
    optimizer = AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    trainer = Trainer(
        model, optimizer, lambda output, target: cross_entropy(output, target, label_smoothing=0.1 * model.training),
        metrics={"accuracy": accuracy}, schedule="batch", folder=folder,
        scheduler=OneCycleLR(optimizer, 4e-3, epochs=epochs, steps_per_epoch=len(train)),
    )
    minutes = fit(trainer, train, validation, epochs)
    test = trainer.evaluate(DataLoader((data.x_test, data.y_test), 500, transform=digits))
    return model, trainer, {
        "data": "MNIST, 55,000 training pictures shifted at random by at most two pixels, 5,000 for validation",
        "figure": {"test_accuracy": round(test["accuracy"], 4), "test_loss": round(test["loss"], 4)},
        "seed": seed, "epochs": epochs, "steps": trainer.step, "minutes": minutes,
    }


def cifar_predict(model, pictures):
    """Logits (N, 10) of bytes (N, 3, 32, 32): the mean over six views, flipped or not, centred or moved by one pixel."""
    return mean_over_views(model, cifar10_pixels(pictures))


def normalise_filters(model):
    """Give every trained convolution's weight the length sqrt(out): batch norm undoes its scale, only its direction matters."""
    for module in model.modules():
        if isinstance(module, Conv2d) and module.weight.requires_grad:
            module.weight.data *= len(module.weight.data) ** 0.5 / np.linalg.norm(module.weight.data)


class Accumulated(Together):
    """Optimisers that step once for every `pieces` batches; until then the gradients of those batches add up.

    A large batch in pieces needs the memory of one piece, and its arrays stay near the processor. Batch norm sees one piece
    at a time, which Hoffer et al. (2017), Train longer, generalize better, call ghost batches.
    """

    def __init__(self, pieces, *optimizers):
        super().__init__(*optimizers)
        self.pieces, self.count = pieces, 0

    def zero_grad(self, set_to_none=True):
        """Clear the gradients, but only those that a step has used."""
        if self.count % self.pieces == 0:
            super().zero_grad(set_to_none)

    def step(self):
        """A step of each optimiser after the last piece of a batch."""
        self.count += 1
        if self.count % self.pieces == 0:
            super().step()


def train_cifar10(seed, epochs, folder):
    """Train on all 50,000 pictures by a recipe that was fixed beforehand; read the test set once, at the end.

    The recipe is Jordan's for 94 % in the fewest seconds (2024): whitened first layer, Muon for the filters, Nesterov SGD
    for the rest, rates that fall linearly to zero, label smoothing 0.2, flips and shifts by two pixels; batches of 2,000,
    in pieces of 250.
    """
    data, piece = datasets.cifar10(), 250
    pieces = min(8, -(-len(data.x_train) // piece))  # of a batch; all there are, where the data are few
    manual_seed(seed)
    model, order = WhitenedNet(), np.random.default_rng(seed + 1)
    model.whiten.weight.data[...] = whitening_filters(cifar10_pixels(data.x_train[:5000]))
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = 1 - (1 - module.momentum) ** (1 / pieces)  # as much is forgotten in a batch as before
    decay = 2e-6 * piece * pieces
    filters = [p for p in model.layers.parameters() if p.requires_grad and p.data.ndim == 4]
    biases = [p for p in model.parameters() if p.requires_grad and p.data.ndim == 1]
    optimizer = Accumulated(
        pieces,
        Muon(filters, lr=0.24, momentum=0.6),
        SGD([{"params": biases, "lr": 0.053, "weight_decay": decay / 0.053},
             {"params": [model.head.weight], "lr": 0.67, "weight_decay": decay / 0.67}], momentum=0.85, nesterov=True),
    )
    train = DataLoader((data.x_train, data.y_train), piece, shuffle=True, generator=order,
                       transform=lambda x, y: (random_crop(random_flip(cifar10_pixels(x), order), order, 2), y.astype(np.int64)))
    steps = epochs * len(train)
    normalise_filters(model)
    trainer = Trainer(
        model, optimizer, lambda output, target: cross_entropy(output, target, label_smoothing=0.2, reduction="sum"),
        schedule="batch", folder=folder, scheduler=LambdaLR(optimizer, lambda count: 1 - count / steps),
        on_step=lambda trainer: normalise_filters(trainer.model),
    )
    minutes = fit(trainer, train, None, epochs)
    start = perf_counter()
    correct = cifar_predict(model, data.x_test).argmax(1) == data.y_test
    print(f"test set, six views of each picture: {perf_counter() - start:.0f} s")
    return model, trainer, {
        "data": f"CIFAR-10, {len(data.x_train):,} training pictures, {len(data.x_test):,} test pictures",
        "crc32_of_test_pixels": f"{crc32(data.x_test):08x}",  # tells copies of the data set apart
        "figure": {"test_accuracy": round(float(correct.mean()), 4)},
        "seed": seed, "epochs": epochs, "steps": trainer.step // pieces, "minutes": minutes,
        "images_per_second": round(epochs * len(data.x_train) / (60 * max(minutes, 0.1))),
    }


RUNS = {"mnist": (train_mnist, "mnist_cnn", 6), "cifar10": (train_cifar10, "cifar10_cnn", 8)}


if __name__ == "__main__":
    main(__file__, __doc__.split("\n")[0], RUNS)
