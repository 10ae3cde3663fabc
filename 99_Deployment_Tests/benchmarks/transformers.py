"""Chapter 07's GPT beside other engines: ``python 99_Deployment_Tests/benchmarks/transformers.py``

Training: nanoGPT's small configuration (4 layers, 4 heads, width 128, context 64, batch 12, 65 characters, no bias, no
dropout), forward, backward, gradients clipped to length 1, AdamW with weight decay on the matrices; float32, two
threads for everyone. "Shared" is the same step with the batch shared out to two processes of one thread, and "large" a
model of width 256 on 16 windows of 256.

Generating: the same model with a context of 1,024, one token at a time with a key-value cache, temperature 0.8, top_k 40,
after prompts of several lengths. Each engine lives in a process of its own, lest thread pools disturb each other, and they
run in turns: ours and one other form a pair, a pair gives one ratio, the table shows their median with the 10th and 90th
percentile. Below 1 means that ours takes less time. Peak memory is what the system counted for each process, libraries and
helpers included. Engines that are not installed are left out: ``pip install torch autograd npTensor``.
"""

import argparse
from functools import partial
from time import perf_counter

import numpy as np
from compare import AdamW, beside, serve, training_step

VOCABULARY, CONTEXT, BATCH, LAYERS, HEADS, WIDTH = 65, 64, 12, 4, 4, 128
LARGE = {"batch": 16, "context": 256, "width": 256}
LONG, TOKENS, PROMPTS = 1024, 32, (16, 240, 960)  # context, tokens to generate, lengths of prompts
RATE, BETAS, DECAY = 1e-3, (0.9, 0.99), 0.1


def data(batch=BATCH, context=CONTEXT):
    """The same ids for everyone, and what follows them."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (2, batch, context))


def prompts():
    """The ids of the prompts by name."""
    return {f"prompt of {length}": np.resize(data()[0], length) for length in PROMPTS}


def our_model(context=CONTEXT, width=WIDTH):
    """The GPT of this course."""
    from shared.transformers import GPT, GPTConfig

    return GPT(GPTConfig(VOCABULARY, context, LAYERS, HEADS, width, bias=False), generator=0)


def ours():
    """A training step of this course's engine."""
    from shared.tensor_mlp import clip_grad_norm_

    (x, y), model = data(), our_model()
    optimizer = model.configure_optimizers(DECAY, RATE, BETAS)
    return training_step(lambda: model.loss(x, y), optimizer, lambda: clip_grad_norm_(model.parameters(), 1.0))


def ours_shared(batch=BATCH, context=CONTEXT, width=WIDTH):
    """The same with the batch shared out to two processes."""
    from shared.parallel import DataParallel
    from shared.tensor_mlp import clip_grad_norm_
    from shared.transformers import next_token_loss

    (x, y), model = data(batch, context), our_model(context, width)
    optimizer, parallel = model.configure_optimizers(DECAY, RATE, BETAS), DataParallel(model, next_token_loss, 2)

    def step():
        optimizer.zero_grad()
        loss = parallel.backward(x, y)
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def ours_generating():
    """`TOKENS` tokens after each of the prompts, by their names."""
    from shared.transformers import generate

    model = our_model(LONG)
    return {name: partial(lambda prompt: generate(model, prompt, TOKENS, temperature=0.8, top_k=40, seed=0)[-1], prompt)
            for name, prompt in prompts().items()}


def torch_model(context=CONTEXT, width=WIDTH):
    """The GPT of PyTorch with the same weights."""
    import torch
    from torch_gpt import GPT, Config

    torch.set_num_threads(2)
    model = GPT(Config(VOCABULARY, context, LAYERS, HEADS, width))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in our_model(context, width).state_dict().items()})
    return torch, model


def pytorch(batch=BATCH, context=CONTEXT, width=WIDTH):
    """A training step of PyTorch, eager."""
    torch, model = torch_model(context, width)
    x, y = map(torch.from_numpy, data(batch, context))
    optimizer = model.configure_optimizers(DECAY, RATE, BETAS)
    clip = partial(torch.nn.utils.clip_grad_norm_, list(model.parameters()), 1.0)
    return training_step(lambda: model(x, y)[1], optimizer, clip)


def pytorch_generating():
    """The same with PyTorch."""
    torch, model = torch_model(LONG)
    return {name: partial(lambda prompt: model.generate(prompt, TOKENS, 0.8, 40)[0, -1].item(), torch.from_numpy(prompt)[None])
            for name, prompt in prompts().items()}


def nptensor():
    """A training step of npTensor, the engine that this course grew from, with the operations that it has.

    Its GELU is x * sigmoid(1.702 x), and no gradient is clipped. Where a tensor is used twice its gradients alias each other,
    so the loss goes its own way.
    """
    from npTensor import Tensor

    (x, y), start = data(), our_model().state_dict()
    P = {name: Tensor(array) for name, array in start.items() if name != "lm_head.weight"}
    hidden = Tensor(np.triu(np.full((CONTEXT, CONTEXT), -1e9, np.float32), 1))
    target = Tensor(np.eye(VOCABULARY, dtype=np.float32)[y] / np.float32(-y.size))
    optimizer, size = AdamW([p.matrix for p in P.values()], RATE, BETAS, DECAY), WIDTH // HEADS

    def norm(h, name):
        return (h - h.mean(-1, keepdims=True)) * (h.var(-1, keepdims=True) + 1e-5) ** -0.5 * P[name]

    def linear(h, name):
        return h @ P[name].transpose()

    def attention(h, name):
        qkv = linear(h, f"{name}.c_attn.weight").reshape((BATCH, CONTEXT, 3 * HEADS, size)).swap_axes(1, 2)
        q, k, v = (qkv[np.s_[:, i * HEADS : (i + 1) * HEADS]] for i in range(3))
        weights = ((q @ k.swap_axes(2, 3)) * size**-0.5 + hidden).softmax()
        return linear((weights @ v).swap_axes(1, 2).reshape((BATCH, CONTEXT, WIDTH)), f"{name}.c_proj.weight")

    def step():
        h = P["transformer.wte.weight"][x] + P["transformer.wpe.weight"]
        for i in range(LAYERS):
            name = f"transformer.h.{i}"
            h = h + attention(norm(h, f"{name}.ln_1.weight"), f"{name}.attn")
            wide = linear(norm(h, f"{name}.ln_2.weight"), f"{name}.mlp.c_fc.weight")
            h = h + linear(wide * (wide * 1.702).sigmoid(), f"{name}.mlp.c_proj.weight")
        logits = linear(norm(h, "transformer.ln_f.weight"), "transformer.wte.weight")
        loss = (logits.log_softmax() * target).sum()
        for p in P.values():
            p.zero_grad()
        loss.backward()
        optimizer.step([p.grad for p in P.values()])
        return float(loss.matrix.sum())

    return step


def hips_autograd():
    """A training step of HIPS autograd; its GELU is npTensor's, and no gradient is clipped."""
    import autograd.numpy as anp
    from autograd import value_and_grad

    (x, y), start = data(), our_model().state_dict()
    P = {name: array for name, array in start.items() if name != "lm_head.weight"}
    hidden, places = np.triu(np.full((CONTEXT, CONTEXT), -1e9, np.float32), 1), np.indices(y.shape)
    optimizer, size = AdamW(list(P.values()), RATE, BETAS, DECAY), WIDTH // HEADS

    def norm(h, weight):
        h = h - anp.mean(h, -1, keepdims=True)
        return h / anp.sqrt(anp.mean(h * h, -1, keepdims=True) + np.float32(1e-5)) * weight

    def attention(h, inward, outward):
        qkv = anp.reshape(anp.dot(h, inward.T), (BATCH, CONTEXT, 3, HEADS, size))
        q, k, v = (anp.swapaxes(qkv[:, :, i], 1, 2) for i in range(3))
        scores = anp.matmul(q, anp.swapaxes(k, 2, 3)) * np.float32(size**-0.5) + hidden
        e = anp.exp(scores - anp.max(scores, -1, keepdims=True))
        mixed = anp.matmul(e / anp.sum(e, -1, keepdims=True), v)
        return anp.dot(anp.reshape(anp.swapaxes(mixed, 1, 2), (BATCH, CONTEXT, WIDTH)), outward.T)

    def loss(P):
        h = P["transformer.wte.weight"][x] + P["transformer.wpe.weight"]
        for i in range(LAYERS):
            layer = {name: P[f"transformer.h.{i}.{name}.weight"] for name in
                     ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")}
            h = h + attention(norm(h, layer["ln_1"]), layer["attn.c_attn"], layer["attn.c_proj"])
            wide = anp.dot(norm(h, layer["ln_2"]), layer["mlp.c_fc"].T)
            h = h + anp.dot(wide / (1 + anp.exp(np.float32(-1.702) * wide)), layer["mlp.c_proj"].T)
        h = anp.dot(norm(h, P["transformer.ln_f.weight"]), P["transformer.wte.weight"].T)
        h = h - anp.max(h, -1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(h), -1)) - h[places[0], places[1], y])

    gradient = value_and_grad(loss)

    def step():
        value, gradients = gradient(P)
        optimizer.step([gradients[name] for name in P])
        return float(value)

    return step


def token_times(lengths=(16, 240, 480, 960), tokens=TOKENS, repeats=5):
    """Milliseconds of one more token with a cache that holds `length` others: rows (length, whole, in attention)."""
    from shared import transformers
    from shared.tensor import no_grad

    model, ids, spent, forward = our_model(LONG).eval(), np.resize(data()[0], LONG), [], transformers._Attention.forward

    def timed(*arguments, **options):
        start = perf_counter()
        result = forward(*arguments, **options)
        spent.append(perf_counter() - start)
        return result

    transformers._Attention.forward, rows = timed, []
    try:
        for length in lengths:
            times = []
            for _ in range(repeats):
                cache = model.new_cache()
                with no_grad():
                    model(ids[None, :length], cache, last_only=True)
                    for i in range(length, length + tokens):
                        spent.clear()
                        start = perf_counter()
                        model(ids[None, i : i + 1], cache, last_only=True)
                        times.append((perf_counter() - start, sum(spent)))
            rows.append((length, *(1e3 * np.median(times, 0))))
    finally:
        transformers._Attention.forward = forward
    return rows


ENGINES = {"ours": ours, "PyTorch": pytorch, "npTensor": nptensor, "HIPS autograd": hips_autograd, "shared ours": ours_shared,
           "shared PyTorch": pytorch, "large ours": partial(ours_shared, **LARGE), "large PyTorch": partial(pytorch, **LARGE),
           "ours generating": ours_generating, "PyTorch generating": pytorch_generating}


def main(arguments=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of runs for each engine (default 20)")
    parser.add_argument("--length", type=float, default=1.0, help="seconds in a run (default 1)")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.engine:
        serve(ENGINES[options.engine]())
        return
    beside("training step", {name: (__file__, "--engine", name) for name in ("ours", "PyTorch", "npTensor", "HIPS autograd")},
           options.rounds, options.length, 20, BATCH * CONTEXT, "tokens")
    for size, tokens in {"shared": BATCH * CONTEXT, "large": LARGE["batch"] * LARGE["context"]}.items():
        beside(f"{size} training step", {name: (__file__, "--engine", f"{size} {name}") for name in ("ours", "PyTorch")},
               options.rounds, options.length, 5, tokens, "tokens")
    commands = {name: (__file__, "--engine", f"{name} generating") for name in ("ours", "PyTorch")}
    for prompt in prompts():
        beside(prompt, commands, options.rounds, options.length, 2, TOKENS, "tokens", part=prompt)
    print("\none more token of ours, after |      ms | in attention | elsewhere")
    for length, whole, attention in token_times():
        print(f"{length:22} tokens | {whole:7.3f} | {attention:12.3f} | {whole - attention:9.3f}")


if __name__ == "__main__":
    main()
