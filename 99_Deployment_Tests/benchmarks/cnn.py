"""Chapter 06's convolutional networks beside other engines: ``python 99_Deployment_Tests/benchmarks/cnn.py``

Training steps on batches of 64 pictures, cross-entropy, SGD with momentum, float32, two threads for everyone:
    mnist   1 x 28 x 28: conv 16, pool, conv 32, pool, linear 128, linear 10, with ReLU
    cifar   3 x 32 x 32: conv 32, 32, pool, 64, 64, pool, 128, pool, linear 10, with batch norm and ReLU
Inference: the cifar network on 10,000 pictures, kept as bytes, 500 at a time.

Each engine lives in a process of its own, lest thread pools disturb each other, and they run in turns: ours and one other
form a pair, a pair gives one ratio, the tables show their median with the 10th and 90th percentile. Below 1 means that
ours takes less time. Peak memory is what the system counted for each process, libraries included. Engines that are not
installed are left out: ``pip install torch autograd npTensor``. `--fast` leaves out the last two, which take minutes.
"""

import argparse

import numpy as np
from compare import beside, serve, training_step

NETWORKS = {  # channels and size of the pictures, convolutions and poolings, sizes of the linear layers, batch norm
    "mnist": ((1, 28), (16, "pool", 32, "pool"), (128, 10), False),
    "cifar": ((3, 32), (32, 32, "pool", 64, 64, "pool", 128, "pool"), (10,), True),
}
BATCH, RATE, MOMENTUM = 64, 0.01, 0.9
PICTURES = 10_000  # for inference


def data(network):
    """The same numbers for everyone: pictures, classes, and the weights (out, in, ...) of each layer."""
    (channels, size), convolutions, linears, _ = NETWORKS[network]
    rng, shapes = np.random.default_rng(0), []
    x = rng.standard_normal((BATCH, channels, size, size), np.float32)
    for entry in convolutions:
        if entry == "pool":
            size //= 2
        else:
            shapes.append((entry, channels, 3, 3))
            channels = entry
    for before, after in zip((channels * size * size, *linears), linears, strict=False):
        shapes.append((after, before))
    weights = [rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5) for shape in shapes]
    return x, rng.integers(0, 10, BATCH), weights


def layers(network, nn):
    """The network's layers, of a library with PyTorch's names."""
    (channels, _), convolutions, linears, norm = NETWORKS[network]
    weights, made = data(network)[2], []
    for entry in convolutions:
        if entry == "pool":
            made.append(nn.MaxPool2d(2))
        else:
            made += [nn.Conv2d(channels, entry, 3, padding=1, bias=not norm), *[nn.BatchNorm2d(entry)] * norm, nn.ReLU()]
            channels = entry
    made.append(nn.Flatten())
    for matrix in weights[-len(linears) :]:
        made += [nn.Linear(*matrix.shape[::-1]), nn.ReLU()]
    return made[:-1]


def fill(model, weights, write):
    """Give a model the common weights; biases start at zero. ``write(parameter, array)`` does it."""
    weights = iter(weights)
    for name, p in model.named_parameters():
        if p.ndim > 1 or name.endswith("bias"):
            write(p, next(weights) if p.ndim > 1 else np.zeros(p.shape, np.float32))


def our_model(network):
    """The network of this course's engine."""
    from types import SimpleNamespace

    from shared import cnn, tensor_mlp

    model = tensor_mlp.Sequential(*layers(network, SimpleNamespace(**{**vars(tensor_mlp), **vars(cnn)})))
    fill(model, data(network)[2], lambda p, array: np.copyto(p.data, array))
    return model


def ours(network):
    """A training step of this course's engine."""
    from shared.scalar_mlp import SGD
    from shared.tensor import Tensor
    from shared.tensor_mlp import cross_entropy

    (x, y, _), model = data(network), our_model(network)
    optimizer, x = SGD(model.parameters(), RATE, MOMENTUM), Tensor(x)

    return training_step(lambda: cross_entropy(model(x), y), optimizer)


def torch_model(network):
    """PyTorch's network, on two threads."""
    import torch

    torch.set_num_threads(2)
    model = torch.nn.Sequential(*layers(network, torch.nn))
    with torch.no_grad():
        fill(model, data(network)[2], lambda p, array: p.copy_(torch.from_numpy(array)))
    return torch, model


def pytorch(network, channels_last=False):
    """A training step of PyTorch, eager, with its usual order in memory or with the channels last."""
    (torch, model), (x, y, _) = torch_model(network), data(network)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)

    return training_step(lambda: torch.nn.functional.cross_entropy(model(x), y), optimizer)


def momentum(parameters, gradients, velocities):
    """One step of SGD on arrays."""
    for p, g, v in zip(parameters, gradients, velocities, strict=True):
        v *= np.float32(MOMENTUM)
        v += g
        p -= np.float32(RATE) * v


def starts(network):
    """The common weights, and the vectors beside each: a bias, or batch norm's weight and bias."""
    weights, norm = data(network)[2], NETWORKS[network][3]
    return weights, [[np.ones(len(w), np.float32)] * (norm and w.ndim == 4) + [np.zeros(len(w), np.float32)] for w in weights]


def hips_autograd(network):
    """A training step with HIPS autograd and the convolution that it brings along."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.signal import convolve

    (_, convolutions, _, norm), (x, y, _), (weights, vectors) = NETWORKS[network], data(network), starts(network)
    parameters = [p for w, more in zip(weights, vectors, strict=True) for p in (w, *more)]
    velocities, rows = [np.zeros_like(p) for p in parameters], np.arange(BATCH)

    def loss(parameters):
        h, left = x, iter(parameters)
        for entry in convolutions:
            if entry == "pool":
                n, c, height, width = h.shape
                h = anp.max(anp.reshape(h, (n, c, height // 2, 2, width // 2, 2)), (3, 5))
                continue
            h = anp.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)), "constant")
            h = convolve(h, next(left)[:, :, ::-1, ::-1], axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")
            if norm:
                h = h - anp.mean(h, (0, 2, 3), keepdims=True)
                h = h / anp.sqrt(anp.mean(h * h, (0, 2, 3), keepdims=True) + np.float32(1e-5)) * next(left)[:, None, None]
            h = anp.maximum(h + next(left)[:, None, None], 0)
        h, matrices = anp.reshape(h, (BATCH, -1)), list(left)
        for i in range(0, len(matrices), 2):
            h = anp.dot(h, matrices[i].T) + matrices[i + 1]
            h = anp.maximum(h, 0) if i + 2 < len(matrices) else h
        h = h - anp.max(h, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(h), axis=1)) - h[rows, y])

    gradient = value_and_grad(loss)

    def step():
        value, gradients = gradient(parameters)
        momentum(parameters, gradients, velocities)
        return float(value)

    return step


def nptensor(network):
    """A training step with npTensor, the engine that this course grew from, by the operations that it has.

    Its convolution is padding, an index for every pixel of every window, and a matrix product; its pooling is a product
    with a mask, for it has no maximum.
    """
    from npTensor import Tensor

    (_, convolutions, _, norm), (x, y, _), (weights, vectors) = NETWORKS[network], data(network), starts(network)
    filters = [w.reshape(len(w), -1) if w.ndim == 4 else w.T.copy() for w in weights]
    vectors = [[v[:, None] if w.ndim == 4 else v[None] for v in more] for w, more in zip(weights, vectors, strict=True)]
    parameters = [Tensor(p) for w, more in zip(filters, vectors, strict=True) for p in (w, *more)]
    velocities = [np.zeros_like(p.matrix) for p in parameters]
    target = Tensor(np.eye(10, dtype=np.float32)[y] / np.float32(-BATCH))

    def windows(channels, height, width):
        """The indices of each pixel of each 3 x 3 window, in padded pictures: (C 9, 1), (C 9, rows * columns) twice."""
        c, u, v = (a.reshape(-1, 1) for a in np.indices((channels, 3, 3)))
        i, j = (a.reshape(1, -1) for a in np.indices((height, width)))
        return np.s_[:, c, u + i, v + j]

    def pool(h):
        n, c, height, width = h.shape
        h = h.reshape((n, c, height // 2, 2, width // 2, 2))
        largest = h.matrix == h.matrix.max((3, 5), keepdims=True)
        return (h * Tensor(largest.astype(np.float32))).mean((3, 5)) * 4

    def step():
        h, left = Tensor(x), iter(parameters)
        for entry in convolutions:
            if entry == "pool":
                h = pool(h)
                continue
            n, c, height, width = h.shape
            h = next(left) @ h.padding(1, 1)[windows(c, height, width)]
            if norm:
                h = (h - h.mean((0, 2), keepdims=True)) * (h.var((0, 2), keepdims=True) + 1e-5) ** -0.5 * next(left)
            h = (h + next(left)).ReLU().reshape((n, entry, height, width))
        h, matrices = h.reshape((BATCH, -1)), list(left)
        for i in range(0, len(matrices), 2):
            h = h @ matrices[i] + matrices[i + 1]
            h = h.ReLU() if i + 2 < len(matrices) else h
        loss = (h.log_softmax() * target).sum()
        for p in parameters:
            p.zero_grad()
        loss.backward()
        momentum([p.matrix for p in parameters], [p.grad for p in parameters], velocities)
        return float(loss.matrix.sum())

    return step


def pictures():
    """Ten thousand pictures as bytes."""
    return np.random.default_rng(0).integers(0, 256, (PICTURES, 3, 32, 32), np.uint8)


def ours_inference(network):
    """Classes of the first `count` pictures, added up."""
    from shared.tensor import Tensor, no_grad

    model, x = our_model(network).eval(), pictures()

    def step(count=PICTURES):
        with no_grad():
            return sum(int(model(Tensor(x[i : i + 500] / np.float32(255))).data.argmax(1).sum())
                       for i in range(0, count, 500))

    return step


def torch_inference(network, channels_last=False):
    """The same with PyTorch."""
    torch, model = torch_model(network)
    model, x = model.eval(), torch.from_numpy(pictures())
    kind = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=kind)

    def step(count=PICTURES):
        with torch.no_grad():
            return sum(int(model((x[i : i + 500] / 255).contiguous(memory_format=kind)).argmax(1).sum())
                       for i in range(0, count, 500))

    return step


ENGINES = {
    "ours": ours, "PyTorch": pytorch, "PyTorch, channels last": lambda network: pytorch(network, True),
    "HIPS autograd": hips_autograd, "npTensor": nptensor,
}
INFERENCE = {
    "ours": ours_inference, "PyTorch": torch_inference, "PyTorch, channels last": lambda network: torch_inference(network, True),
}


def main(arguments=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of runs for each engine (default 20)")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a run (default 0.4)")
    parser.add_argument("--fast", action="store_true", help="leave out the engines that take minutes")
    parser.add_argument("--only", choices=[*NETWORKS, "inference"], help="one table")
    parser.add_argument("--engine", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine:
        table, engine = options.engine
        step = INFERENCE[engine]("cifar") if table == "inference" else ENGINES[engine](table)
        serve({"": step, "500 pictures": lambda: step(500)})
        return
    for table in [options.only] if options.only else [*NETWORKS, "inference"]:
        engines = INFERENCE if table == "inference" else [*ENGINES][: 3 if options.fast else None]
        contestants = {name: (__file__, "--engine", table, name) for name in engines}
        what = "10,000 pictures" if table == "inference" else "a step"
        beside(f"{table}, {what}", contestants, options.rounds, options.seconds, warm_up=1 if table == "inference" else 5)


if __name__ == "__main__":
    main()
