"""A training step of chapter 05's MLP beside other engines: ``python 99_Deployment_Tests/benchmarks/tensor_mlp.py``

The MLP 784-256-128-10 with ReLU, batch 128, cross-entropy, Adam, float32, two threads for everyone. Each engine lives
in a process of its own, lest thread pools disturb each other, and they run in turns: ours and one other form a pair,
a pair gives one ratio, the table shows their median with the 10th and 90th percentile. Below 1 means that ours takes
less time. Peak memory is what the system counted for each process, libraries included. Engines that are not
installed are left out: ``pip install torch autograd npTensor``.
"""

import argparse
from itertools import pairwise

import numpy as np
from compare import AdamW, beside, serve, training_step

SIZES, BATCH = (784, 256, 128, 10), 128
ADAM = 1e-3, (0.9, 0.999)  # rate and betas


def data():
    """The same numbers for everyone: pictures, classes, and the weights (out, in) of each layer."""
    rng = np.random.default_rng(0)
    weights = [rng.uniform(-1, 1, (b, a)).astype(np.float32) / np.float32(a**0.5) for a, b in pairwise(SIZES)]
    return rng.random((BATCH, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], BATCH), weights


def network(nn):
    """The layers, of a library with PyTorch's names."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def ours():
    """The engine of this course."""
    from shared import nn
    from shared.optim import Adam
    from shared.tensor import Tensor

    x, y, weights = data()
    model = network(nn)
    for layer, weight in zip((model[0], model[2], model[4]), weights, strict=True):
        layer.weight.data[...], layer.bias.data[...] = weight, 0
    optimizer, x = Adam(model.parameters()), Tensor(x)
    return training_step(lambda: nn.functional.cross_entropy(model(x), y), optimizer)


def pytorch():
    """PyTorch, eager."""
    import torch
    from torch import nn

    torch.set_num_threads(2)
    x, y, weights = data()
    model = network(nn)
    with torch.no_grad():
        for layer, weight in zip((model[0], model[2], model[4]), weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.zero_()
    optimizer, x, y = torch.optim.Adam(model.parameters()), torch.from_numpy(x), torch.from_numpy(y)
    return training_step(lambda: nn.functional.cross_entropy(model(x), y), optimizer)


def hips_autograd():
    """HIPS autograd, with Adam's formula over its gradients."""
    import autograd.numpy as anp
    from autograd import value_and_grad

    x, y, weights = data()
    parameters = [p for w in weights for p in (w.T.copy(), np.zeros(w.shape[0], np.float32))]
    optimizer, rows = AdamW(parameters, *ADAM), np.arange(BATCH)

    def loss(parameters):
        h = x
        for i in range(0, 6, 2):
            h = anp.dot(h, parameters[i]) + parameters[i + 1]
            h = anp.maximum(h, 0) if i < 4 else h
        h = h - anp.max(h, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(h), axis=1)) - h[rows, y])

    gradient = value_and_grad(loss)

    def step():
        value, gradients = gradient(parameters)
        optimizer.step(gradients)
        return float(value)

    return step


def nptensor():
    """npTensor, with the same formula of Adam over its gradients."""
    from npTensor import Tensor

    x, y, weights = data()
    parameters = [Tensor(p) for w in weights for p in (w.T.copy(), np.zeros((1, w.shape[0]), np.float32))]
    optimizer = AdamW([p.matrix for p in parameters], *ADAM)
    target = Tensor(np.eye(10, dtype=np.float32)[y] / np.float32(-BATCH))

    def step():
        h = Tensor(x)
        for i in range(0, 6, 2):
            h = h @ parameters[i] + parameters[i + 1]
            h = h.ReLU() if i < 4 else h
        loss = (h.log_softmax() * target).sum()
        for p in parameters:
            p.zero_grad()
        loss.backward()
        optimizer.step([p.grad for p in parameters])
        return float(loss.matrix.sum())

    return step


ENGINES = {"ours": ours, "PyTorch": pytorch, "HIPS autograd": hips_autograd, "npTensor": nptensor}


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of runs for each engine (default 20)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a run (default 0.1)")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine:
        serve(ENGINES[options.engine]())
        return
    contestants = {name: (__file__, "--engine", name) for name in ENGINES}
    beside("a step", contestants, options.rounds, options.seconds, warm_up=20)


if __name__ == "__main__":
    main()
