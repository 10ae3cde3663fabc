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
from compare import beside, serve

SIZES, BATCH = (784, 256, 128, 10), 128


def data():
    """The same numbers for everyone: pictures, classes, and the weights (out, in) of each layer."""
    rng = np.random.default_rng(0)
    weights = [rng.uniform(-1, 1, (b, a)).astype(np.float32) / np.float32(a**0.5) for a, b in pairwise(SIZES)]
    return rng.random((BATCH, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], BATCH), weights


def ours():
    """The engine of this course."""
    from shared.tensor import Tensor
    from shared.tensor_mlp import Adam, Linear, ReLU, Sequential, cross_entropy

    x, y, weights = data()
    model = Sequential(Linear(784, 256), ReLU(), Linear(256, 128), ReLU(), Linear(128, 10))
    for layer, weight in zip((model[0], model[2], model[4]), weights, strict=True):
        layer.weight.data[...], layer.bias.data[...] = weight, 0
    optimizer, x = Adam(model.parameters()), Tensor(x)

    def step():
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def pytorch():
    """PyTorch, eager."""
    import torch
    from torch import nn

    torch.set_num_threads(2)
    x, y, weights = data()
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    with torch.no_grad():
        for layer, weight in zip((model[0], model[2], model[4]), weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.zero_()
    optimizer, x, y = torch.optim.Adam(model.parameters()), torch.from_numpy(x), torch.from_numpy(y)

    def step():
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def hips_autograd():
    """HIPS autograd, with its own Adam's formula over its gradients."""
    import autograd.numpy as anp
    from autograd import value_and_grad

    x, y, weights = data()
    parameters = [p for w in weights for p in (w.T.copy(), np.zeros(w.shape[0], np.float32))]
    means = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    rows, count = np.arange(BATCH), [0]

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
        count[0] += 1
        for p, g, (m, v) in zip(parameters, gradients, means, strict=True):
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            correction = (1 - 0.999 ** count[0]) ** 0.5
            rate, eps = 1e-3 * correction / (1 - 0.9 ** count[0]), 1e-8 * correction
            p -= np.float32(rate) * m / (np.sqrt(v) + np.float32(eps))
        return float(value)

    return step


def nptensor():
    """npTensor, with the same formula of Adam over its gradients."""
    from npTensor import Tensor

    x, y, weights = data()
    parameters = [Tensor(p) for w in weights for p in (w.T.copy(), np.zeros((1, w.shape[0]), np.float32))]
    means = [(np.zeros_like(p.matrix), np.zeros_like(p.matrix)) for p in parameters]
    target, count = Tensor(np.eye(10, dtype=np.float32)[y] / np.float32(-BATCH)), [0]

    def step():
        h = Tensor(x)
        for i in range(0, 6, 2):
            h = h @ parameters[i] + parameters[i + 1]
            h = h.ReLU() if i < 4 else h
        loss = (h.log_softmax() * target).sum()
        for p in parameters:
            p.zero_grad()
        loss.backward()
        count[0] += 1
        for p, (m, v) in zip(parameters, means, strict=True):
            g = p.grad
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            correction = (1 - 0.999 ** count[0]) ** 0.5
            rate, eps = 1e-3 * correction / (1 - 0.9 ** count[0]), 1e-8 * correction
            p.matrix -= np.float32(rate) * m / (np.sqrt(v) + np.float32(eps))
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
