"""Train chapter 07's models on Shakespeare and store them in `checkpoints/`.

    python 07_Transformers/train.py shakespeare-small    nanoGPT's small configuration, 2,000 steps
    python 07_Transformers/train.py shakespeare          a larger model, 4,000 steps: 80 minutes on two busy cores

A run writes its state into the data cache every few hundred steps, which here count as an epoch. Started again, it goes
on from there and ends with the same parameters; ``--fresh`` begins anew. Beside the weights, NAME.safetensors, stand the
tokeniser, NAME.tokenizer.json, and NAME.json: data, configuration, seed, steps, minutes, the curve, and the figure reached.
"""

from dataclasses import asdict
from math import cos, pi

import numpy as np

from shared import datasets
from shared.cnn import Muon, Together
from shared.parallel import ParallelTrainer
from shared.runs import fit, main
from shared.scalar_mlp import Optimizer
from shared.tensor import Tensor, manual_seed, no_grad
from shared.tensor_mlp import AdamW, LambdaLR, cross_entropy
from shared.transformers import GPT, CharTokenizer, GPTConfig, decay_groups, next_token_loss


class Windows:
    """`steps` batches of windows of a text, ids (N,), cut out at random places: inputs (batch, length), and what follows.

    `sizes` is (batch, length), or a function that returns them, asked before each batch. `generator` is a NumPy generator,
    whose state a resumed run gets back.
    """

    def __init__(self, ids, sizes, steps, generator):
        self.ids, self.sizes, self.steps, self.generator = ids, sizes, steps, generator

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            batch, length = self.sizes() if callable(self.sizes) else self.sizes
            starts = self.generator.integers(0, len(self.ids) - length, (batch, 1))
            window = self.ids[starts + np.arange(length + 1)]
            yield Tensor(window[:, :-1]), Tensor(window[:, 1:])


def consecutive(ids, batch, length):
    """A text as batches of windows that lie side by side, each id a target once: a list of (inputs, targets)."""
    count = (len(ids) - 1) // length
    x, y = (ids[i : i + count * length].reshape(count, length) for i in (0, 1))
    return [(Tensor(x[i : i + batch]), Tensor(y[i : i + batch])) for i in range(0, count, batch)]


def best_over_context(model, ids, length, stride):
    """The mean loss of a text in nats a token where each one is predicted from at least `length` - `stride` before it.

    Windows of `length` overlap, and only their last `stride` targets count; the first window counts whole.
    """
    losses, starts = [], range(0, len(ids) - length, stride)
    model.eval()
    with no_grad():
        for first in range(0, len(starts), 16):
            window = np.stack([ids[s : s + length + 1] for s in starts[first : first + 16]])
            logits = model(window[:, :-1])
            each = cross_entropy(logits.reshape(-1, logits.shape[-1]), window[:, 1:].reshape(-1), reduction="none")
            each = each.data.reshape(len(window), length)
            losses += [each[i, 0 if first + i == 0 else -stride :] for i in range(len(window))]
    return float(np.concatenate(losses).mean())


class Averaged(Optimizer):
    """An optimiser that also keeps a running mean of the parameters: mean = decay mean + (1 - decay) parameter.

    The mean begins as the parameters; while t steps are few the decay is (1 + t) / (10 + t). Its state_dict holds both.
    """

    def __init__(self, optimizer, parameters, decay=0.999):
        self.optimizer, self.parameters, self.decay, self.count = optimizer, list(parameters), decay, 0
        self.means = [p.data.copy() for p in self.parameters]
        self.param_groups = optimizer.param_groups

    def step(self):
        """One step of the optimiser, and of the mean."""
        self.optimizer.step()
        self.count += 1
        share = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        for mean, p in zip(self.means, self.parameters, strict=True):
            mean += share * (p.data - mean)

    def swap(self):
        """Exchange parameters and means; a second time undoes it."""
        for mean, p in zip(self.means, self.parameters, strict=True):
            kept = p.data.copy()
            p.data[...], mean[...] = mean, kept

    def state_dict(self):
        """The optimiser's state, the means, and how often they were renewed."""
        return {"optimizer": self.optimizer.state_dict(), "means": [m.copy() for m in self.means], "count": self.count}

    def load_state_dict(self, state_dict):
        """Take over both."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.means, self.count = [m.copy() for m in state_dict["means"]], state_dict["count"]


def shakespeare():
    """The tokeniser, and the ids of the first 90 % and the last 10 % of the text, the split that nanoGPT uses."""
    text = datasets.tinyshakespeare()
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    return tokenizer, *np.split(ids, [int(0.9 * len(ids))])


def warm_cosine(steps, warm_up, last):
    """A factor that climbs along a line for `warm_up` steps and falls along a cosine to `last` at step `steps`."""
    def factor(count):
        if count < warm_up:
            return (count + 1) / (warm_up + 1)
        share = min(1.0, (count - warm_up) / (steps - warm_up))
        return last + (1 - last) * (1 + cos(pi * share)) / 2

    return factor


def trapezoid(steps, warm_up, cool_down):
    """A factor that climbs for `warm_up` steps, stays at 1, and falls along a line to 0 in the last `cool_down` steps."""
    return lambda count: min(1.0, (count + 1) / warm_up, (steps - count) / cool_down)


def train_small(seed, epochs, folder, rate=3e-3):
    """nanoGPT's small configuration: 2,000 steps of AdamW, no dropout. Its `rate` is 1e-3; a model so small stands more."""
    tokenizer, train_ids, validation_ids = shakespeare()
    manual_seed(seed)
    config = GPTConfig(tokenizer.vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False)
    model = GPT(config)
    train = Windows(train_ids, (12, config.block_size), 100, np.random.default_rng(seed + 1))
    steps = epochs * len(train)
    optimizer = AdamW(decay_groups(model, 0.1), lr=rate, betas=(0.9, 0.99))
    trainer = ParallelTrainer(model, optimizer, next_token_loss, schedule="batch", folder=folder, max_norm=1.0,
                              scheduler=LambdaLR(optimizer, warm_cosine(steps, 100, 0.1)))
    minutes = fit(trainer, train, consecutive(validation_ids, 64, config.block_size), epochs)
    record = described(tokenizer, model, seed, trainer, minutes)
    record["figure"] = {"val_loss": round(float(trainer.history.column("val_loss").min()), 4)}
    trainer.restore_best()
    return model, trainer, record, {"tokenizer.json": tokenizer.save}


def train_best(seed, epochs, folder):
    """A larger model: rotary positions, RMS norm, squared ReLU, Muon for the matrices, averaged weights, a context that grows."""
    tokenizer, train_ids, validation_ids = shakespeare()
    manual_seed(seed)
    config = GPTConfig(tokenizer.vocab_size, block_size=256, n_layer=4, n_head=4, n_embd=256, dropout=0.2, bias=False,
                       norm="rms", positions="rotary", activation="relu2", tie_weights=False)
    model = GPT(config)
    train = Windows(train_ids, None, 100, np.random.default_rng(seed + 1))
    steps = epochs * len(train)
    matrices = [p for block in model.transformer.h for p in block.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizer = Averaged(Together(Muon(matrices, lr=0.03, weight_decay=0.1), AdamW(others, lr=3e-3, betas=(0.9, 0.95))),
                         model.parameters(), decay=0.99)
    trainer = ParallelTrainer(model, optimizer, next_token_loss, schedule="batch", folder=folder, max_norm=1.0,
                              scheduler=LambdaLR(optimizer, trapezoid(steps, 100, steps * 2 // 5)))

    def sizes():
        """Half of the context in the first half of the run, with as many characters a step."""
        return (16, 256) if trainer.step >= steps // 2 else (32, 128)

    train.sizes = sizes
    validation = consecutive(validation_ids, 16, config.block_size)
    minutes = fit(trainer, train, validation, epochs)
    plain = trainer.evaluate(validation)["loss"]
    optimizer.swap()
    record = described(tokenizer, model, seed, trainer, minutes)
    record["figure"] = {"val_loss": round(trainer.evaluate(validation)["loss"], 4), "val_loss_without_averaging": round(plain, 4),
                        "val_loss_long_context": round(best_over_context(model, validation_ids, 256, 64), 4)}
    return model, trainer, record, {"tokenizer.json": tokenizer.save}


def described(tokenizer, model, seed, trainer, minutes):
    """What stands in the record of every run."""
    return {"data": "tiny Shakespeare, characters, the first 90 % for training, the last 10 % for validation",
            "config": asdict(model.config), "parameters": model.num_parameters(), "seed": seed, "steps": trainer.step,
            "minutes": minutes}


RUNS = {"shakespeare-small": (train_small, "shakespeare_small", 20), "shakespeare": (train_best, "shakespeare", 40)}


if __name__ == "__main__":
    main(__file__, __doc__.split("\n")[0], RUNS)
