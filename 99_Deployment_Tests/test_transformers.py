"""Chapter 07 against PyTorch, its unfused twins, a GPT written for PyTorch, and bad input."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared
from shared import datasets, functional, nn
from shared import transformers as engine
from shared.scalar_mlp import Module, data_of
from shared.tensor import OPERATIONS, Tensor, gradcheck, manual_seed, no_grad
from shared.tensor_mlp import AdamW, Linear, clip_grad_norm_, gelu
from shared.transformers import (
    GPT,
    Block,
    BPETokenizer,
    CharTokenizer,
    Embedding,
    FeedForward,
    GPTConfig,
    KVCache,
    LayerNorm,
    MultiHeadAttention,
    RMSNorm,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    Tokenizer,
    WordTokenizer,
    attention_weights,
    decay_groups,
    embedding,
    generate,
    layer_norm,
    load_gpt2_weights,
    rms_norm,
    scaled_dot_product_attention,
    squared_relu,
    token_probabilities,
)

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this chapter")
F = torch.nn.functional
ROOT = Path(shared.__file__).resolve().parent.parent
TORCH_GPT = ROOT / "99_Deployment_Tests" / "benchmarks" / "torch_gpt.py"


def numbers(seed, *shape, dtype=np.float64):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def leaf(seed, *shape):
    """A float64 leaf of the engine."""
    return Tensor(numbers(seed, *shape), requires_grad=True)


def twins(*arrays):
    """The same arrays as leaves of the engine and as leaves of PyTorch."""
    return [Tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]


def agree(ours, theirs, rtol=1e-9, atol=1e-11):
    """Two arrays, of either library, are equal."""
    ours, theirs = (a.detach().numpy() if isinstance(a, torch.Tensor) else data_of(a) for a in (ours, theirs))
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def same_values_and_gradients(f, g, ours, theirs, seed=9, **tolerance):
    """f of our leaves and g of theirs have equal values, and equal gradients for a random upstream."""
    y, t = f(*ours), g(*theirs)
    agree(y.data, t, **tolerance)
    upstream = numbers(seed, *y.shape).astype(y.dtype)
    y.backward(upstream)
    t.backward(torch.tensor(upstream) if isinstance(t, torch.Tensor) else upstream)
    for a, b in zip(ours, theirs, strict=True):
        agree(a.grad, b.grad, **tolerance)


# ---- operations: numerical gradients, PyTorch, unfused twins ----

TURNS = RotaryEmbedding(4, 12).table(2, 7)
GRADCHECKS = {
    "embedding": lambda: gradcheck(lambda w: embedding([[1, 0, 1], [4, 1, 1]], w), leaf(0, 5, 3)),
    "layer_norm": lambda: gradcheck(lambda x, w, b: layer_norm(x, 5, w, b, eps=1e-2), (leaf(0, 2, 3, 5), leaf(1, 5), leaf(2, 5)))
    and gradcheck(lambda x, w: rms_norm(x, 5, w, eps=1e-2), (leaf(0, 2, 3, 5), leaf(1, 5)))
    and gradcheck(lambda x: layer_norm(x, 5), leaf(0, 4, 5)) and gradcheck(lambda x: rms_norm(x, 5), leaf(0, 4, 5)),
    "rotary": lambda: gradcheck(lambda x: engine._rotary(x, turns=TURNS), leaf(0, 2, 7, 4)),
    "attention": lambda: all(gradcheck(*case) for case in attention_cases()),
    "packed_attention": lambda: gradcheck(lambda x: engine._packed_attention(x, heads=2, turns=TURNS), leaf(0, 2, 7, 24))
    and gradcheck(lambda x: engine._packed_attention(x, heads=3, causal=False), leaf(0, 2, 4, 18))
    and gradcheck(lambda x: engine._packed_attention(x, heads=2, dropout_p=0.4, generator=np.random.default_rng(1)),
                  leaf(0, 2, 6, 12)),
    "squared_relu": lambda: gradcheck(squared_relu, leaf(0, 4, 5)),
}


def attention_cases():
    """(function, inputs) for `gradcheck`: every option of the operation."""
    q, k, v = leaf(0, 2, 2, 5, 3), leaf(1, 2, 2, 7, 3), leaf(2, 2, 2, 7, 4)
    yield scaled_dot_product_attention, (q, k, v)
    yield lambda *a: scaled_dot_product_attention(*a, is_causal=True, scale=0.7), (q, k, v)
    yield lambda *a: scaled_dot_product_attention(*a, attn_mask=numbers(3, 5, 7) > 0.3), (q, k, v)
    yield scaled_dot_product_attention, (q, k, v, leaf(4, 2, 1, 5, 7))  # a mask of numbers has a gradient, too
    yield (lambda *a: scaled_dot_product_attention(*a, dropout_p=0.5, generator=np.random.default_rng(5))), (q, k, v)


@pytest.mark.parametrize("name", sorted(name for name, f in OPERATIONS.items() if f.__module__ == "shared.transformers"))
def test_every_operation_of_the_chapter_has_the_gradient_of_its_difference_quotient(name):
    assert GRADCHECKS[name]()


@pytest.mark.parametrize("vocabulary", [7, 3000])  # by a one-hot product, and by sorting
def test_embedding_equals_pytorch_also_where_tokens_repeat(vocabulary):
    ids = np.random.default_rng(0).integers(0, vocabulary, (4, 9))
    ids[0] = ids[1] = 3
    ours, theirs = twins(numbers(1, vocabulary, 5))
    same_values_and_gradients(lambda w: embedding(ids, w), lambda w: F.embedding(torch.tensor(ids), w), ours, theirs)
    ours, twin = twins(numbers(1, vocabulary, 5))[0], twins(numbers(1, vocabulary, 5))[0]
    same_values_and_gradients(lambda w: embedding(ids, w), lambda w: w[ids], ours, twin)


def test_embedding_leaves_the_padding_row_alone():
    ours, theirs = twins(numbers(1, 6, 2))
    ids = np.array([2, 5, 2])
    same_values_and_gradients(lambda w: embedding(ids, w, 2), lambda w: F.embedding(torch.tensor(ids), w, 2), ours, theirs)
    layer = Embedding(6, 2, padding_idx=-4)
    assert layer.padding_idx == 2 and not layer.weight.data[2].any() and layer.weight.data[3].all()
    assert embedding(np.empty((2, 0), int), ours[0]).shape == (2, 0, 2)


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6), (700, 6), (0, 6)])
def test_layer_norm_equals_pytorch_and_its_unfused_twin(shape):
    arrays = numbers(0, *shape) * 3 + 5, numbers(1, 6), numbers(2, 6)
    ours, theirs = twins(*arrays)
    same_values_and_gradients(lambda x, w, b: layer_norm(x, (6,), w, b), lambda x, w, b: F.layer_norm(x, (6,), w, b),
                              ours, theirs)
    if not shape[0]:
        return

    def unfused(x, w, b):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * w + b

    ours, twin = twins(*arrays)[0], twins(*arrays)[0]
    same_values_and_gradients(lambda x, w, b: layer_norm(x, 6, w, b), unfused, ours, twin)


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6), (700, 6)])
def test_rms_norm_equals_pytorch_and_its_unfused_twin(shape):
    arrays = numbers(0, *shape) * 3 + 5, numbers(1, 6)
    ours, theirs = twins(*arrays)
    same_values_and_gradients(lambda x, w: rms_norm(x, 6, w), lambda x, w: F.rms_norm(x, (6,), w), ours, theirs)
    ours, twin = twins(*arrays)[0], twins(*arrays)[0]
    same_values_and_gradients(lambda x, w: rms_norm(x, 6, w, eps=0.1),
                              lambda x, w: x / ((x * x).mean(-1, keepdim=True) + 0.1).sqrt() * w, ours, twin)


def test_norms_of_several_axes_and_without_parameters_equal_pytorch():
    arrays = numbers(0, 2, 3, 4), numbers(1, 3, 4), numbers(2, 3, 4)
    same_values_and_gradients(lambda x, w, b: layer_norm(x, (3, 4), w, b), lambda x, w, b: F.layer_norm(x, (3, 4), w, b),
                              *twins(*arrays))
    same_values_and_gradients(lambda x: layer_norm(x, (3, 4)), lambda x: F.layer_norm(x, (3, 4)), *twins(arrays[0]))
    same_values_and_gradients(lambda x: rms_norm(x, 4, eps=1e-3), lambda x: F.rms_norm(x, (4,), eps=1e-3), *twins(arrays[0]))


MASKS = {
    "none": lambda shape: {},
    "causal": lambda shape: {"is_causal": True},
    "booleans": lambda shape: {"attn_mask": numbers(5, *shape) > 0.2},
    "numbers": lambda shape: {"attn_mask": numbers(5, *shape)},
    "a row for all": lambda shape: {"attn_mask": numbers(5, 1, shape[-1]) > 0},
    "scale": lambda shape: {"scale": 0.3},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("lead", "queries", "keys"), [((2, 3), 5, 5), ((2, 3), 4, 7), ((1, 2), 150, 150), ((2, 1), 70, 90),
                                                       ((3,), 6, 4), ((), 5, 5), ((2, 2, 2), 3, 4), ((5, 1), 200, 210)])
def test_attention_equals_pytorch(mask, lead, queries, keys):
    ours, theirs = twins(numbers(0, *lead, queries, 4), numbers(1, *lead, keys, 4), numbers(2, *lead, keys, 3))
    options = MASKS[mask]((*lead, queries, keys))
    if np.asarray(options.get("attn_mask")).dtype == bool:
        options["attn_mask"][..., 0] = True  # no row that sees nothing: PyTorch's versions differ there
    given = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    same_values_and_gradients(lambda q, k, v: scaled_dot_product_attention(q, k, v, **options),
                              lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **given), ours, theirs, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
def test_attention_equals_its_unfused_twin(mask):
    arrays = numbers(0, 2, 3, 40, 4), numbers(1, 2, 3, 40, 4), numbers(2, 2, 3, 40, 5)
    options = MASKS[mask]((2, 3, 40, 40))
    ours, twin = twins(*arrays)[0], twins(*arrays)[0]
    same_values_and_gradients(lambda q, k, v: scaled_dot_product_attention(q, k, v, **options),
                              lambda q, k, v: attention_weights(q, k, **options) @ v, ours, twin)


def test_attention_broadcasts_its_leading_axes():
    ours, theirs = twins(numbers(0, 2, 3, 5, 4), numbers(1, 3, 6, 4), numbers(2, 1, 1, 6, 2))
    same_values_and_gradients(scaled_dot_product_attention,
                              lambda q, k, v: (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v, ours, theirs)


@pytest.mark.parametrize("kind", [bool, float])
def test_a_row_that_may_look_at_nothing_is_zero_and_has_no_gradient(kind):
    mask = np.ones((5, 5), bool)
    mask[2] = False
    mask = mask if kind is bool else np.where(mask, 0.0, -np.inf)
    q, k, v = (leaf(i, 2, 5, 4) for i in range(3))
    y = scaled_dot_product_attention(q, k, v, mask)
    y.backward(np.ones(y.shape))
    assert not y.data[:, 2].any() and y.data[:, 3].any()
    assert not q.grad[:, 2].any() and q.grad[:, 3].any()
    assert all(np.isfinite(a.grad).all() for a in (q, k, v))
    assert not attention_weights(q, k, mask).data[:, 2].any()


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_attention_stands_large_scores(size):
    q = Tensor(numbers(0, 1, 2, 6, 4, dtype=np.float32) * np.float32(size**0.5))
    y = scaled_dot_product_attention(q, q, Tensor(numbers(1, 1, 2, 6, 4, dtype=np.float32)), is_causal=True)
    assert np.isfinite(y.data).all() and y.dtype == np.float32


@pytest.mark.parametrize("scale", [0.5, -0.5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0.1, 1, 2, 3, 4, 7, 10, 30])
def test_attention_shifts_its_scores_where_exponentials_could_overflow(size, dtype, scale, monkeypatch):
    said, ask = [], shared.transformers._Attention._may_overflow
    monkeypatch.setattr(shared.transformers._Attention, "_may_overflow", lambda *args: said.append(ask(*args)) or said[-1])
    arrays = [(factor * numbers(i, 2, 3, 40, 4)).astype(dtype) for i, factor in enumerate((size, size, 1))]
    arrays[0][0, 0] = -arrays[1][0, 0, :1]  # one head in which all scores with one key are as far below zero as they can be
    ours, theirs = twins(*arrays)
    same_values_and_gradients(lambda q, k, v: scaled_dot_product_attention(q, k, v, scale=scale),
                              lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=scale), ours, theirs,
                              **({"rtol": 1e-3, "atol": 1e-4} if dtype == "float32" else {"atol": 1e-10}))
    lengths = [np.linalg.norm(a, axis=-1).max() for a in arrays[:2]]
    assert said == [bool(0.5 * lengths[0] * lengths[1] + np.log(40) >= np.log(np.finfo(dtype).max) / 2)]
    assert said == [True] or size < 30
    assert said == [False] or size > 1


def test_attention_lets_nan_through():
    q = numbers(0, 4, 3)
    q[1, 1] = np.nan
    y = scaled_dot_product_attention(Tensor(q), Tensor(numbers(1, 4, 3)), Tensor(numbers(2, 4, 3)), np.ones((4, 4), bool))
    assert np.isnan(y.data[1]).all() and np.isfinite(y.data[[0, 2, 3]]).all()


def test_attention_drops_weights_with_the_probability_it_says():
    q = np.zeros((1, 1, 100, 8))
    y = scaled_dot_product_attention(Tensor(q), Tensor(q), Tensor(np.eye(100)[None, None]), dropout_p=0.3,
                                     generator=np.random.default_rng(0)).data * 100
    assert set(np.unique(y.round(9))) == {0.0, round(1 / 0.7, 9)}
    assert abs((y == 0).mean() - 0.3) < 0.02
    again = scaled_dot_product_attention(Tensor(q), Tensor(q), Tensor(np.eye(100)[None, None]), dropout_p=0.3,
                                         generator=np.random.default_rng(1)).data
    assert (again * 100 != y).any()
    assert not scaled_dot_product_attention(Tensor(q), Tensor(q), Tensor(q + 1), dropout_p=1.0).data.any()


def test_packed_attention_equals_the_parts_apart():
    layer = MultiHeadAttention(12, 3, rotary=RotaryEmbedding(4, 50), generator=np.random.default_rng(0))
    x = Tensor(numbers(1, 2, 40, 12, dtype=np.float32))
    _, k, v = layer.heads(layer.c_attn(x))
    y = layer.c_proj((layer.weights(x) @ v).transpose(1, 2).reshape(2, 40, 12))
    agree(layer(x), y, rtol=1e-4, atol=1e-6)
    agree(layer(x, attn_mask=np.ones((40, 40), bool)), y, rtol=1e-4, atol=1e-6)
    agree(layer(x, attn_mask=np.zeros((40, 40), np.float32)), y, rtol=1e-4, atol=1e-6)
    assert k.shape == (2, 3, 40, 4)


def test_two_threads_give_what_one_gives():
    script = ("import numpy as np; from shared import threads, transformers\n"
              "from shared.tensor import Tensor; pieces = []\n"
              "def parallel_for(function, count, least):\n"
              "    threads.parallel_for(lambda *piece: (function(*piece), pieces.append(piece)), count, least)\n"
              "transformers.parallel_for = parallel_for\n"
              "x = Tensor(np.random.default_rng(0).standard_normal((8, 384, 192), np.float32), requires_grad=True)\n"
              "y = transformers._packed_attention(transformers.layer_norm(x, 192), heads=4, dropout_p=0.1,\n"
              "                                   generator=np.random.default_rng(1))\n"
              "y.backward(np.ones(y.shape)); print(float(np.abs(y.data).sum()), float(np.abs(x.grad).sum()), len(pieces))")
    found = []
    for threads in ("1", "2"):
        environment = {**os.environ, "COURSE_THREADS": threads, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        text = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
        found.append([float(word) for word in text.split()])
    assert [found[0].pop(), found[1].pop()] == [4, 8]  # forward and backward, of both, were shared
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_attention_never_holds_the_scores_twice():
    q, k, v = (Tensor(numbers(i, 2, 4, 512, 16, dtype=np.float32), requires_grad=True) for i in range(3))
    scores = 2 * 4 * 512 * 512 * 4

    def peak(function):
        tracemalloc.start()
        result = function()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top / scores, result

    forward, y = peak(lambda: scaled_dot_product_attention(q, k, v))
    backward, _ = peak(lambda: y.backward(np.ones(y.shape, np.float32)))
    causal, _ = peak(lambda: scaled_dot_product_attention(q, k, v, is_causal=True))
    with no_grad():
        unrecorded, _ = peak(lambda: scaled_dot_product_attention(q, k, v))
    twin, _ = peak(lambda: attention_weights(q, k) @ v)
    assert forward < 1.3 and backward < 0.4 and causal < 0.8 and unrecorded < 0.3 and twin > 2


# ---- layers ----

@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention_equals_that_of_pytorch(causal, bias):
    theirs = torch.nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    ours = MultiHeadAttention(12, 3, bias=bias, causal=causal)
    names = {"in_proj_weight": "c_attn.weight", "in_proj_bias": "c_attn.bias", "out_proj.weight": "c_proj.weight",
             "out_proj.bias": "c_proj.bias"}
    parameters = dict(theirs.named_parameters())
    ours.load_state_dict({names[name]: p.detach().numpy() for name, p in parameters.items()})
    x = numbers(0, 2, 9, 12, dtype=np.float32)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9) if causal else None
    y, (t, _) = ours(Tensor(x)), theirs(*[torch.tensor(x)] * 3, attn_mask=mask, need_weights=False)
    agree(y, t, rtol=1e-4, atol=1e-6)
    y.sum().backward()
    t.sum().backward()
    for name, p in parameters.items():
        agree(dict(ours.named_parameters())[names[name]].grad, p.grad, rtol=1e-3, atol=1e-4)
    extra = numbers(1, 9, 9) > 0
    extra |= np.eye(9, dtype=bool)
    hidden = torch.tensor(~extra | (np.triu(np.ones((9, 9), bool), 1) & causal))
    t, _ = theirs(*[torch.tensor(x)] * 3, attn_mask=hidden, need_weights=False)
    agree(ours(Tensor(x), attn_mask=extra), t, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_no_position_sees_a_later_one(positions, pre_norm):
    model = GPT(GPTConfig(20, 40, 2, 2, 16, positions=positions, pre_norm=pre_norm), generator=0)
    ids = np.random.default_rng(1).integers(0, 20, (1, 40))
    changed = ids.copy()
    changed[0, 25] = (ids[0, 25] + 1) % 20
    a, b = model(ids).data, model(changed).data
    np.testing.assert_array_equal(a[:, :25], b[:, :25])
    assert (a[:, 25:] != b[:, 25:]).any(-1).all()


def test_products_of_turned_rows_depend_on_their_distance_alone():
    rotary = RotaryEmbedding(8, 60)
    q, k = (np.broadcast_to(numbers(i, 8), (60, 8)) for i in (0, 1))
    scores = rotary(Tensor(q.copy())).data @ rotary(Tensor(k.copy())).data.T  # position by position
    for distance in range(-59, 60):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-6)
    assert np.ptp([scores[0, 0], scores[0, 1], scores[0, 9]]) > 0.1
    agree(np.linalg.norm(rotary(Tensor(q.copy())).data, axis=1), np.linalg.norm(q, axis=1), rtol=1e-6)
    agree(rotary(Tensor(q[:5].copy()), offset=7), rotary(Tensor(q.copy())).data[7:12])


def test_positions_are_the_formulas_of_the_papers():
    waves = SinusoidalPositionalEncoding(6, 9)(Tensor(np.zeros((1, 9, 6)))).data[0]
    turned = RotaryEmbedding(6, 9)(Tensor(np.tile([1.0, 0.0], (9, 3)))).data
    for t in range(9):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            agree(waves[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], rtol=1e-5, atol=1e-6)
            agree(turned[t, 2 * i : 2 * i + 2], [np.cos(angle), np.sin(angle)], rtol=1e-5, atol=1e-6)


def test_activations_of_the_feed_forward_network():
    x = Tensor(numbers(0, 2, 3, 8, dtype=np.float32))
    for name, f in {"gelu": gelu, "gelu_tanh": lambda h: gelu(h, approximate="tanh"), "relu2": lambda h: h.relu() ** 2}.items():
        layer = FeedForward(GPTConfig(5, 4, 1, 2, 8, activation=name))
        agree(layer(x), layer.c_proj(f(layer.c_fc(x))), rtol=1e-6)


def test_post_norm_and_pre_norm_are_what_they_say():
    x = Tensor(numbers(0, 2, 3, 8, dtype=np.float32))
    for pre_norm in (True, False):
        b = Block(GPTConfig(5, 4, 1, 2, 8, pre_norm=pre_norm))
        if pre_norm:
            h = x + b.attn(b.ln_1(x))
            expected = h + b.mlp(b.ln_2(h))
        else:
            h = b.ln_1(x + b.attn(x))
            expected = b.ln_2(h + b.mlp(h))
        agree(b(x), expected)


# ---- the GPT ----

def torch_gpt(imports=None):
    """The module of a GPT written for PyTorch; with `imports` its import lines are replaced by these."""
    if imports is None:
        spec = importlib.util.spec_from_file_location("torch_gpt", TORCH_GPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules["torch_gpt"] = module
        spec.loader.exec_module(module)
        return module
    old = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    source = TORCH_GPT.read_text()
    assert source.count(old) == 1
    return source.replace(old, imports)


def pair(dtype=np.float32, **sizes):
    """A GPT of PyTorch and one of ours with the same weights, and a batch."""
    theirs_module = torch_gpt()
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "block_size": 24, "n_layer": 3, "n_head": 4, "n_embd": 32, "bias": True, **sizes}
    theirs = theirs_module.GPT(theirs_module.Config(**sizes))
    with torch.no_grad():
        for p in theirs.parameters():  # no zeros and no ones, or mistakes with biases would go unseen
            p += 0.05 * torch.randn(p.shape)
    ours = load_gpt2_weights(GPT(GPTConfig(**sizes)), {name: p.numpy() for name, p in theirs.state_dict().items()})
    x, y = np.random.default_rng(1).integers(0, sizes["vocab_size"], (2, 5, sizes["block_size"]))
    return ours, theirs, x, y


def relative(ours, theirs):
    """The largest difference between two arrays, as a share of the largest element."""
    theirs = theirs.detach().numpy()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("bias", [True, False])
def test_a_gpt_of_pytorch_has_the_same_logits_loss_and_gradients(bias):
    ours, theirs, x, y = pair(bias=bias)
    logits, loss = theirs(torch.tensor(x), torch.tensor(y))
    assert relative(ours(x).data, logits) < 1e-5
    mine = ours.loss(x, y)
    assert abs(mine.item() / loss.item() - 1) < 1e-6
    mine.backward()
    loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert set(gradients) == {name for name, _ in ours.named_parameters()}
    for name, p in ours.named_parameters():
        assert p.grad.dtype == np.float32
        assert relative(p.grad, gradients[name]) < 1e-4, name


@pytest.mark.parametrize("bias", [True, False])
def test_twenty_steps_of_adamw_agree_with_pytorch(bias):
    """All but the biases of keys: they move no softmax, so their gradient is 0 but for rounding, which Adam blows up."""
    ours, theirs, x, y = pair(bias=bias)
    optimizers = (ours.configure_optimizers(0.1, 1e-3, (0.9, 0.95)), theirs.configure_optimizers(0.1, 1e-3, (0.9, 0.95)))
    for step in range(20):
        batch = np.roll(x, step, 1), np.roll(y, step, 1)
        losses = ours.loss(*batch), theirs(*map(torch.tensor, batch))[1]
        for loss, optimizer, model, clip in zip(losses, optimizers, (ours, theirs),
                                                (clip_grad_norm_, torch.nn.utils.clip_grad_norm_), strict=True):
            optimizer.zero_grad()
            loss.backward()
            clip(model.parameters(), 1.0)
            optimizer.step()
    assert abs(losses[0].item() / losses[1].item() - 1) < 1e-4
    state = theirs.state_dict()
    for name, p in ours.named_parameters():
        kept = np.r_[:32, 64:96] if name.endswith("c_attn.bias") else slice(None)
        assert relative(p.data[kept], state[name][kept]) < 1e-4, name
    assert relative(ours(x).data, theirs(torch.tensor(x), torch.tensor(y))[0]) < 1e-4


def test_a_model_file_written_for_pytorch_runs_with_its_import_lines_changed():
    source = torch_gpt("from types import SimpleNamespace\n\nfrom shared import nn, optim, tensor as t\n"
                       "import shared.functional as F\ntorch = SimpleNamespace(**vars(t), optim=optim)\n")
    namespace = {"__name__": "gpt_on_the_engine"}
    sys.modules["gpt_on_the_engine"] = type(sys)("gpt_on_the_engine")  # where dataclass looks for the module
    exec(compile(source, "gpt_on_the_engine.py", "exec"), namespace)
    del sys.modules["gpt_on_the_engine"]
    manual_seed(0)
    sizes = {"vocab_size": 31, "block_size": 24, "n_layer": 2, "n_head": 4, "n_embd": 32, "bias": True}
    model = namespace["GPT"](namespace["Config"](**sizes))
    assert isinstance(model, Module)
    ours = load_gpt2_weights(GPT(GPTConfig(**sizes)), model.state_dict())
    x, y = np.random.default_rng(1).integers(0, 31, (2, 3, 24))
    logits, loss = model(Tensor(x), Tensor(y))
    agree(logits, ours(x), rtol=1e-4, atol=1e-6)
    optimizer = model.configure_optimizers(0.1, 1e-2, (0.9, 0.95))
    loss.backward()
    optimizer.step()
    assert model(Tensor(x), Tensor(y))[1].item() < loss.item()


def test_the_state_dict_has_gpt2s_names():
    names = set(GPT(GPTConfig(11, 6, 2, 2, 8)).state_dict())
    inner = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    expected = {f"transformer.h.{i}.{part}.{kind}" for i in range(2) for part in inner for kind in ("weight", "bias")}
    expected |= {"transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias",
                 "lm_head.weight"}
    assert names == expected
    rotary = set(GPT(GPTConfig(11, 6, 1, 2, 8, positions="rotary", norm="rms", bias=False, tie_weights=False)).state_dict())
    assert rotary == {"transformer.wte.weight", *(f"transformer.h.0.{part}.weight" for part in inner),
                      "transformer.ln_f.weight", "lm_head.weight"}


def test_the_initialisation_is_that_of_gpt2():
    model = GPT(GPTConfig(300, 64, 4, 4, 128), generator=0)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            wanted = 0.02 / 8**0.5 if name.endswith("c_proj.weight") else 0.02
            assert abs(p.data.std() / wanted - 1) < 0.05 and abs(p.data.mean()) < 0.02 * wanted * 5, name
        else:
            assert (p.data == (name.endswith("weight"))).all(), name
    again, other = (GPT(model.config, generator=seed).state_dict() for seed in (0, 1))
    assert all((again[name] == value).all() for name, value in model.state_dict().items())
    assert (other["lm_head.weight"] != again["lm_head.weight"]).any()


def test_tied_weights_are_one_parameter_whose_gradients_add_up():
    model = GPT(GPTConfig(11, 6, 1, 2, 8), generator=0)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p is model.lm_head.weight for p in model.parameters()) == 1
    loose = GPT(GPTConfig(11, 6, 1, 2, 8, tie_weights=False), generator=0)
    loose.load_state_dict(model.state_dict())
    x, y = np.random.default_rng(0).integers(0, 11, (2, 3, 6))
    for m in (model, loose):
        m.loss(x, y).backward()
    agree(model.lm_head.weight.grad, loose.lm_head.weight.grad + loose.transformer.wte.weight.grad, rtol=1e-5, atol=1e-7)
    assert loose.num_parameters() - model.num_parameters() == 11 * 8
    assert model.num_parameters(non_embedding=False) - model.num_parameters() == 6 * 8


def test_only_matrices_decay():
    model = GPT(GPTConfig(11, 6, 1, 2, 8), generator=0)
    matrices, vectors = decay_groups(model, 0.3)
    assert matrices["weight_decay"] == 0.3 and vectors["weight_decay"] == 0.0
    assert {p.ndim for p in matrices["params"]} == {2} and {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))
    optimizer = model.configure_optimizers(0.2, 3e-4, (0.8, 0.9))
    assert type(optimizer) is AdamW and optimizer.param_groups[0]["lr"] == 3e-4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert optimizer.param_groups[1]["betas"] == (0.8, 0.9)
    assert len(decay_groups(Linear(2, 2, bias=False))) == 1


def hugging_face(model):
    """A state_dict as Hugging Face's GPT-2 has it, made from a model's."""
    state = {}
    for name, value in model.state_dict().items():
        turned = re.search(r"(c_attn|c_proj|c_fc)\.weight$", name)
        if name != "lm_head.weight":
            state[name.removeprefix("transformer.")] = value.T.copy() if turned else value
    for i in range(model.config.n_layer):
        state[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 6, 6)))
        state[f"h.{i}.attn.masked_bias"] = np.array(-1e4)
    return state


def test_weights_in_gpt2s_layout_are_loaded():
    source = GPT(GPTConfig(11, 6, 2, 2, 8, activation="gelu_tanh"), generator=0)
    x = np.random.default_rng(0).integers(0, 11, (2, 6))
    foreign = hugging_face(source)
    prefixed = {f"transformer.{name}": torch.tensor(value) for name, value in foreign.items()}
    for state in (source.state_dict(), foreign, prefixed, {**prefixed, "lm_head.weight": source.lm_head.weight}):
        target = GPT(source.config, generator=1)
        assert load_gpt2_weights(target, state) is target
        agree(target(x), source(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"c_attn"):
        load_gpt2_weights(GPT(source.config), {"wte.weight": foreign["wte.weight"]})
    with pytest.raises(ValueError, match=r"wpe\.weight has shape \(6, 8\), expected \(7, 8\)"):
        load_gpt2_weights(GPT(GPTConfig(11, 7, 2, 2, 8)), foreign)


def test_dropout_acts_in_training_alone_and_everywhere():
    model = GPT(GPTConfig(11, 6, 1, 2, 8, dropout=0.5), generator=0)
    x = np.random.default_rng(0).integers(0, 11, (4, 6))
    manual_seed(0)
    a, b = model(x).data, model(x).data
    assert (a != b).any()
    model.eval()
    agree(model(x), model(x).data, rtol=0, atol=0)
    block = model.transformer.h[0]
    block.train()
    h = Tensor(numbers(0, 2, 6, 8, dtype=np.float32))
    assert (block.attn(h).data == 0).mean() > 0.2 and (block.mlp(h).data == 0).mean() > 0.2
    block.attn.resid_dropout.p = 0.0
    assert (block.attn(h).data != block.attn(h).data).any()  # the weights of attention


def test_attention_maps_are_the_weights_that_were_used():
    model = GPT(GPTConfig(11, 9, 3, 2, 8, positions="rotary"), generator=0)
    x = np.random.default_rng(0).integers(0, 11, (2, 9))
    maps = model.attention_maps(x)
    assert maps.shape == (3, 2, 2, 9, 9)
    agree(maps.sum(-1), np.ones((3, 2, 2, 9)), rtol=1e-5)
    assert not np.triu(maps, 1).any() and not model.transformer.h[0].attn._forward_hooks
    h = model.transformer.h[0].ln_1(model.transformer.wte(x))
    agree(maps[0], model.transformer.h[0].attn.weights(h), rtol=1e-5)


def test_a_small_gpt_learns_to_reverse():
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(8, 9, 1, 2, 32, bias=False), generator=0)
    optimizer = model.configure_optimizers(0.0, 1e-2)
    for _ in range(150):
        digits = rng.integers(0, 7, (64, 5))
        text = np.concatenate([digits, digits[:, ::-1]], 1)
        targets = np.where(np.arange(9) < 4, -100, text[:, 1:])
        loss = model.loss(text[:, :-1], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5  # guessing has ln 7 = 1.95


# ---- generating ----

def tiny(positions="learned", seed=0, **options):
    """A GPT whose next tokens are not all alike."""
    model = GPT(GPTConfig(13, 16, 2, 2, 16, positions=positions, **options), generator=seed)
    for p in model.parameters():
        if p.ndim > 1:
            p.data *= 8
    return model


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("length", [1, 5, 16, 30])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_cache_changes_nothing(positions, length, temperature):
    model = tiny(positions)
    prompt = np.random.default_rng(1).integers(0, 13, length)
    a, b = (generate(model, prompt, 40, seed=3, temperature=temperature, use_cache=use) for use in (True, False))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a[:length], prompt)
    assert len(a) == length + 40 and (not temperature or len(set(a.tolist())) > 4)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_logits_with_a_cache_are_those_without(positions, pre_norm):
    model = tiny(positions, pre_norm=pre_norm)
    ids = np.random.default_rng(1).integers(0, 13, (3, 16))
    whole, cache = model(ids).data, model.new_cache()
    with no_grad():
        pieces = [model(ids[:, a:b], cache=cache).data for a, b in ((0, 5), (5, 6), (6, 7), (7, 12), (12, 16))]
    agree(np.concatenate(pieces, 1), whole, rtol=1e-3, atol=1e-4)
    assert cache[0].length == 16
    agree(model(ids, last_only=True), whole[:, -1:], rtol=1e-3, atol=1e-5)


def test_a_cached_token_costs_the_same_products_wherever_it_stands(monkeypatch):
    """Rows that go through the linear layers: one a token, but for the few times that the window jumps."""
    model, rows = tiny(), []
    forward = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, x: (rows.append(x.shape[1]), forward(self, x))[1])
    generate(model, [1], 10, seed=0)
    assert set(rows) == {1}
    per_pass = len(rows) // 10
    rows.clear()
    generate(model, [1], 16 + 9 * 8, seed=0)
    assert sum(n > 1 for n in rows) <= 9 * per_pass
    rows.clear()
    generate(model, [1], 10, seed=0, use_cache=False)
    assert max(rows) == 10


def test_a_full_context_jumps_ahead_and_keeps_its_last_half():
    model, seen = tiny(), []
    forward = GPT.forward
    model.forward = lambda idx, **options: (seen.append(idx.tolist()), forward(model, idx, **options))[1]
    text = generate(model, [1, 2, 3], 40, seed=0, use_cache=False).tolist()
    del model.forward
    assert [len(idx[0]) for idx in seen[:16]] == [*range(3, 17), 8, 9]
    assert seen[14][0] == text[9:17]
    assert all(idx[0] == text[n - len(idx[0]) : n] for n, idx in enumerate(seen, 3))
    seen.clear()
    model.forward = lambda idx, **options: (seen.append(idx.tolist()), forward(model, idx, **options))[1]
    prompt = np.arange(50) % 13
    generate(model, prompt, 1, seed=0)
    assert seen == [prompt[None, -16:].tolist()]


def test_greedy_generation_takes_the_likeliest():
    model = tiny()
    text = generate(model, [1, 2], 10, temperature=0)
    for n in range(2, 12):
        assert text[n] == model(text[None, :n]).data[0, -1].argmax()
    np.testing.assert_array_equal(text, generate(model, [1, 2], 10, top_k=1, seed=5))
    np.testing.assert_array_equal(text, generate(model, [1, 2], 10, top_p=1e-9, seed=5))
    np.testing.assert_array_equal(text, generate(model, [1, 2], 10, temperature=1e-300, seed=5))


def test_seeds_and_several_prompts_at_once():
    model = tiny()
    a, b, c = (generate(model, [1, 2], 20, seed=seed) for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()
    generator = np.random.default_rng(0)
    assert (generate(model, [1, 2], 20, seed=generator) == a).all()
    assert (generate(model, [1, 2], 20, seed=generator) != a).any()
    manual_seed(4)
    d = generate(model, [1, 2], 20)
    manual_seed(4)
    assert (generate(model, [1, 2], 20) == d).all()
    batch = generate(model, [[1, 2], [3, 4], [1, 2]], 20, temperature=0)
    assert batch.shape == (3, 22) and (batch[0] == batch[2]).all()
    for row in batch:
        np.testing.assert_array_equal(row, generate(model, row[:2], 20, temperature=0))
    assert generate(model, [[1, 2]], 0).tolist() == [[1, 2]] and generate(model, Tensor([1, 2]), 0).tolist() == [1, 2]
    assert [p.shape for p in generate(model, [[1, 2], [3, 4]], 3, stream=True)] == [(2,)] * 3


def test_tokens_are_drawn_with_their_probabilities():
    model = tiny()
    p = token_probabilities(model([[1, 2]]).data[0, -1], 1.3, top_k=6)
    drawn = generate(model, np.tile([1, 2], (20_000, 1)), 1, temperature=1.3, top_k=6, seed=0)[:, -1]
    counts = np.bincount(drawn, minlength=13)
    assert not counts[p == 0].any()
    np.testing.assert_allclose(counts / 20_000, p, atol=4 * (0.25 / 20_000) ** 0.5)


def test_temperature_top_k_and_top_p():
    logits = np.log([0.5, 0.2, 0.15, 0.1, 0.05])
    agree(token_probabilities(logits), [0.5, 0.2, 0.15, 0.1, 0.05])
    agree(token_probabilities(logits, 0.5), np.square([0.5, 0.2, 0.15, 0.1, 0.05]) / 0.325)
    agree(token_probabilities(logits, top_k=2), [5 / 7, 2 / 7, 0, 0, 0])
    agree(token_probabilities(logits, top_k=99), np.exp(logits))
    agree(token_probabilities(logits, top_p=0.75), np.array([0.5, 0.2, 0.15, 0, 0]) / 0.85)
    agree(token_probabilities(logits, top_p=0.5), [1, 0, 0, 0, 0])
    agree(token_probabilities(logits, top_p=1.0), np.exp(logits))
    agree(token_probabilities(logits, top_k=3, top_p=0.8), np.array([0.5, 0.2, 0, 0, 0]) / 0.7)  # first k, then p
    agree(token_probabilities(logits, 0), [1, 0, 0, 0, 0])
    agree(token_probabilities(np.float32([1000.0, -1000.0]), 1e-30), [1, 0])
    agree(token_probabilities([0.0, -np.inf]), [1, 0])
    agree(token_probabilities([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], top_k=1), [[0.5, 0.5, 0], [0, 0.5, 0.5]])


def test_generation_stops_where_it_is_told_to_and_streams_what_it_returns():
    tokenizer = CharTokenizer("abcdefghijklm")
    model = tiny()
    text = generate(model, "ab", 60, tokenizer=tokenizer, seed=1)
    assert text.startswith("ab") and len(text) == 62
    assert "".join(generate(model, "ab", 60, tokenizer=tokenizer, seed=1, stream=True)) == text[2:]
    stop = text[20:23]
    end = text.index(stop, 2) + 3
    for stops in (stop, ["zz", stop]):
        assert generate(model, "ab", 60, tokenizer=tokenizer, seed=1, stop=stops) == text[:end]
        assert "".join(generate(model, "ab", 60, tokenizer=tokenizer, seed=1, stop=stops, stream=True)) == text[2:end]
    ids = generate(model, [0, 1], 60, seed=1)
    assert generate(model, [0, 1], 60, seed=1, stop=int(ids[10])).tolist() == ids[: ids.tolist().index(ids[10], 2) + 1].tolist()
    pieces = generate(model, [0, 1], 60, seed=1, stream=True)
    assert next(pieces) == ids[2] and type(next(pieces)) is int


def test_a_stop_inside_a_longer_token_cuts_it():
    tokenizer = BPETokenizer.train("abcabcabc" * 20, 260)
    model = GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 2, 8), generator=0)
    whole = generate(model, "abcabc", 30, tokenizer=tokenizer, seed=0)
    inside = [i for i, c in enumerate(whole) if c == "b" and i > 6]
    if inside:
        assert generate(model, "abcabc", 30, tokenizer=tokenizer, seed=0, stop="b") == whole[: inside[0] + 1]
    pieces = engine._until(iter(["xxab", "cabc"]), ["bc", "ca"])
    assert list(pieces) == ["xxab", "c"]


def test_generation_leaves_the_models_mode_and_takes_no_dropout():
    model = tiny(dropout=0.9)
    assert (generate(model, [1], 20, temperature=0) == generate(model, [1], 20, temperature=0)).all()
    assert model.training and model.transformer.h[0].training
    stream = generate(model, [1], 20, stream=True)
    next(stream)
    stream.close()
    assert model.training
    model.eval()
    generate(model, [1], 2)
    assert not model.training


# ---- tokenisers ----

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. It's 1603!"
ANY = st.text(st.characters(codec="utf-8"), max_size=60)


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_tokenisers_give_back_every_text(text):
    for tokenizer in (CharTokenizer(text + "x"), WordTokenizer(text), BPETokenizer.train(TEXT + text, 300)):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int64 and ids.ndim == 1
        assert tokenizer.decode(ids) == text
        assert "".join(tokenizer.decode_each(ids.tolist())) == text
        assert not len(ids) or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size == len(tokenizer)


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_no_text_is_unknown_to_byte_pairs(text):
    tokenizer = BPETokenizer.train(TEXT, 280)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert BPETokenizer().encode(text).tolist() == list(text.encode())


def test_characters_have_the_order_of_their_code_points():
    tokenizer = CharTokenizer("hello\n😀é")
    assert tokenizer.pieces == ["\n", "e", "h", "l", "o", "é", "😀"]
    assert tokenizer.encode("hé😀\n").tolist() == [2, 5, 6, 0]
    text = datasets.drama()
    known = sorted(set(text))
    assert CharTokenizer(text).encode(text).tolist() == [known.index(c) for c in text]


def test_words_have_the_order_of_their_frequency():
    tokenizer = WordTokenizer("a b, a b. A b", vocab_size=4)
    assert tokenizer.pieces == [" ", "b", "a", ","]
    assert tokenizer.encode("b a").tolist() == [1, 0, 2]
    assert tokenizer.encode("b c", unknown=",").tolist() == [1, 0, 3]


def naive_merges(words, count, first):
    """Byte-pair encoding as its definition says it: everything is counted anew for every merge."""
    words, merges = dict(words), []
    for new in range(first, first + count):
        counts = {}
        for word, n in words.items():
            for two in pairwise(word):
                counts[two] = counts.get(two, 0) + n
        if not counts:
            break
        best = min(counts, key=lambda two: (-counts[two], two))
        merges.append(best)
        merged = {}
        for word, n in words.items():
            ids, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == best else 1
                ids.append(new if step == 2 else word[i])
                i += step
            merged[tuple(ids)] = merged.get(tuple(ids), 0) + n
        words = merged
    return merges


@given(st.dictionaries(st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple), st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_merges_are_those_of_the_definition(words):
    assert engine.learn_merges(words, 12, 4) == naive_merges(words, 12, 4)


def test_byte_pairs_of_the_papers_example():
    """Sennrich, Haddow and Birch (2016), algorithm 1: low 5, lower 2, newest 6, widest 3; there es, est, lo, low, ... follow."""
    text = " ".join(["newest"] * 6 + ["widest"] * 3 + ["low"] * 5 + ["lower"] * 2)
    words = {tuple(word.encode()): n for word, n in {"newest": 6, "widest": 3, "low": 5, "lower": 2}.items()}
    merges = engine.learn_merges(words, 5, 256)
    pieces = [bytes([i]) for i in range(256)]
    for a, b in merges:
        pieces.append(pieces[a] + pieces[b])
    assert pieces[256:] == [b"es", b"est", b"lo", b"low", b"ew"]
    tokenizer = BPETokenizer.train(text, 262)
    assert tokenizer.vocab_size == 262 and tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.pieces[i] for i in tokenizer.encode("newest")][-1] == b"est"
    assert BPETokenizer.train("aaab", 999).vocab_size == 259  # aa, aaa, aaab: then no pair is left


def test_a_character_of_several_tokens_is_streamed_whole():
    tokenizer = BPETokenizer()
    assert list(tokenizer.decode_each("é!".encode())) == ["", "é", "!"]
    assert tokenizer.decode([0xC3]) == "\ufffd" and tokenizer.decode([0xFF, 65]) == "\ufffdA"


@pytest.mark.parametrize("make", [CharTokenizer, WordTokenizer, lambda text: BPETokenizer.train(text, 290)])
def test_tokenisers_are_kept_as_json(make, tmp_path, monkeypatch):
    tokenizer, path = make(TEXT + " é😀"), tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert isinstance(json.loads(path.read_text()), dict)
    for loader in (Tokenizer, type(tokenizer)):
        again = loader.load(path)
        assert type(again) is type(tokenizer) and again.pieces == tokenizer.pieces
        np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("interrupted")))
    before = path.read_bytes()
    with pytest.raises(OSError, match="interrupted"):
        make(TEXT[:20]).save(path)
    assert path.read_bytes() == before


def test_damaged_tokenisers_are_refused(tmp_path):
    path = tmp_path / "t.json"
    for content in ("", "[1", "[]", "{}", '{"tokenizer": "Other"}', '{"tokenizer": "BPETokenizer"}',
                    '{"tokenizer": "BPETokenizer", "merges": [[1, 900]]}', '{"tokenizer": "BPETokenizer", "merges": [[1]]}',
                    '{"tokenizer": "WordTokenizer", "words": 3}', '{"tokenizer": "CharTokenizer"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"t\.json"):
            Tokenizer.load(path)
    CharTokenizer("ab").save(path)
    with pytest.raises(ValueError, match="CharTokenizer, expected a BPETokenizer"):
        BPETokenizer.load(path)


# ---- bad input ----

MODEL = GPT(GPTConfig(13, 16, 1, 2, 8), generator=0)
CHARACTERS = CharTokenizer("abc ")
BAD = [
    (lambda: CHARACTERS.encode("ab?c"), ValueError, r"'\?' at position 2"),
    (lambda: CHARACTERS.encode("a😀"), ValueError, "'😀' at position 1"),
    (lambda: CHARACTERS.encode("a?", unknown="!"), ValueError, "replacement '!'"),
    (lambda: CharTokenizer("").encode("a"), ValueError, "empty"),
    (lambda: CHARACTERS.decode([0, 7]), ValueError, "id 7 at position 1"),
    (lambda: CHARACTERS.decode([-1]), ValueError, "id -1 at position 0"),
    (lambda: WordTokenizer("a b").encode("a  b c"), ValueError, "'  ' at position 1"),
    (lambda: WordTokenizer("a b").encode("a c"), ValueError, "'c' at position 2"),
    (lambda: WordTokenizer("a b").encode("a c", unknown="x"), ValueError, "replacement 'x'"),
    (lambda: WordTokenizer("a b", 0), ValueError, "vocab_size"),
    (lambda: BPETokenizer.train("a b", 255), ValueError, "at least 256"),
    (lambda: BPETokenizer([(97, 256)]), ValueError, r"\(97, 256\)"),
    (lambda: BPETokenizer().decode([256]), ValueError, "id 256 at position 0"),
    (lambda: MODEL(np.array([[1, 13]])), IndexError, r"id 13 at \(0, 1\) is outside of 0 to 12"),
    (lambda: MODEL(np.array([[1, -1]])), IndexError, r"id -1 at \(0, 1\)"),
    (lambda: MODEL(np.array([[1.0, 2.0]])), TypeError, "integers"),
    (lambda: MODEL(np.array([1, 2])), ValueError, r"\(B, T\)"),
    (lambda: MODEL(np.zeros((2, 0), int)), ValueError, "at least one"),
    (lambda: MODEL(np.zeros((1, 17), int)), ValueError, "17 tokens, the context holds at most 16"),
    (lambda: Embedding(0, 3), ValueError, "at least 1"),
    (lambda: Embedding(3, 3, padding_idx=3), ValueError, "padding_idx 3"),
    (lambda: GPTConfig(n_embd=10, n_head=3), ValueError, "n_embd = 10 is not divisible by n_head = 3"),
    (lambda: MultiHeadAttention(10, 3), ValueError, "n_embd = 10 is not divisible by n_head = 3"),
    (lambda: GPTConfig(n_layer=0), ValueError, "n_layer"),
    (lambda: GPTConfig(dropout=1.5), ValueError, "dropout"),
    (lambda: GPTConfig(norm="batch"), ValueError, "layer, rms"),
    (lambda: GPTConfig(positions="none"), ValueError, "learned, sinusoidal, rotary"),
    (lambda: GPTConfig(activation="tanh"), ValueError, "gelu, gelu_tanh, relu2"),
    (lambda: GPTConfig(n_embd=6, n_head=2, positions="rotary"), ValueError, "even"),
    (lambda: RotaryEmbedding(3), ValueError, "even"),
    (lambda: SinusoidalPositionalEncoding(3), ValueError, "even"),
    (lambda: RotaryEmbedding(4, 5)(Tensor(np.ones((6, 4)))), ValueError, "position 5 asked for, the table ends at 4"),
    (lambda: RotaryEmbedding(4, 5)(Tensor(np.ones((2, 4), np.float16))), TypeError, "float16"),
    (lambda: layer_norm(Tensor(np.ones((2, 3))), 4), ValueError, r"\(2, 3\) does not end with normalized_shape \(4,\)"),
    (lambda: layer_norm(Tensor(np.ones((2, 3))), 3, Tensor(np.ones(2))), ValueError, r"weight \(2,\)"),
    (lambda: rms_norm(Tensor(np.ones((2, 3))), (3, 2)), ValueError, "rms_norm"),
    (lambda: scaled_dot_product_attention(*[Tensor(np.ones(4))] * 3), ValueError, "do not fit"),
    (lambda: scaled_dot_product_attention(*(Tensor(np.ones(s)) for s in ((2, 3), (2, 4), (2, 4)))), ValueError, r"\(2, 4\)"),
    (lambda: scaled_dot_product_attention(*(Tensor(np.ones(s)) for s in ((2, 3), (2, 3), (4, 3)))), ValueError, r"\(4, 3\)"),
    (lambda: scaled_dot_product_attention(*[Tensor(np.ones((2, 3)))] * 3, np.ones((2, 2), bool), is_causal=True), ValueError,
     "both given"),
    (lambda: scaled_dot_product_attention(*[Tensor(np.ones((2, 3)))] * 3, dropout_p=-0.1), ValueError, "dropout_p"),
    (lambda: generate(MODEL, [], 3), ValueError, "prompt is empty"),
    (lambda: generate(MODEL, "", 3, tokenizer=CHARACTERS), ValueError, "prompt is empty"),
    (lambda: generate(MODEL, "a?", 3, tokenizer=CHARACTERS), ValueError, r"'\?' at position 1"),
    (lambda: generate(MODEL, [1, 99], 3), IndexError, "id 99"),
    (lambda: generate(MODEL, [1, -2], 3), IndexError, "id -2"),
    (lambda: generate(MODEL, [1.5], 3), ValueError, "float"),
    (lambda: generate(MODEL, [1], -1), ValueError, "max_new_tokens"),
    (lambda: generate(MODEL, [1], 3, temperature=-0.5), ValueError, "temperature must be at least 0, got -0.5"),
    (lambda: generate(MODEL, [1], 3, temperature=float("nan")), ValueError, "temperature"),
    (lambda: generate(MODEL, [1], 3, top_k=0), ValueError, "top_k"),
    (lambda: generate(MODEL, [1], 3, top_p=0), ValueError, "top_p"),
    (lambda: generate(MODEL, [1], 3, top_p=1.1), ValueError, "top_p"),
    (lambda: generate(MODEL, [[1], [2]], 3, stop=4), ValueError, "one prompt at a time"),
    (lambda: generate(MODEL, "a", 3, tokenizer=CHARACTERS, stop=""), ValueError, "not empty"),
    (lambda: generate(MODEL, "a", 3, tokenizer=CHARACTERS, stop=3), ValueError, "stop is text with a tokenizer, got 3"),
    (lambda: generate(MODEL, [1], 3, stop=["a"]), ValueError, r"stop is an id without a tokenizer, got \['a'\]"),
    (lambda: attention_weights(*(Tensor(np.ones((3, 4))),) * 2, np.tri(3, dtype=int)), TypeError, "attn_mask is booleans.*int64"),
    (lambda: scaled_dot_product_attention(*(Tensor(np.ones((3, 4))),) * 3, np.tri(3, dtype="i4")), TypeError, "booleans.*int32"),
    (lambda: MultiHeadAttention(6, 2)(Tensor(np.ones((1, 3, 6))), np.tri(3, dtype=int)), TypeError, "attn_mask is booleans"),
    (lambda: generate(MODEL, 1, 3), ValueError, r"expected ids \(T,\) or \(B, T\).*shape \(\)"),
    (lambda: MultiHeadAttention(6, 2)(Tensor(np.ones((3, 6)))), ValueError, r"MultiHeadAttention.*\(B, T, 6\), got \(3, 6\)"),
    (lambda: token_probabilities([1.0, float("nan")]), ValueError, "NaN"),
    (lambda: MODEL(np.array([[1]]), cache=MODEL.new_cache()), RuntimeError, r"no_grad\(\)"),
    (lambda: KVCache(2).append(np.ones((1, 1, 3, 2)), np.ones((1, 1, 3, 2))), ValueError, "at most 2 positions"),
    (lambda: no_grad()(MODEL.transformer.h[0].attn)(Tensor(np.ones((1, 2, 8))), np.ones((2, 2), bool), KVCache(4)), ValueError,
     "both given"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_with_a_message(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_unseen_character_can_be_replaced():
    assert CHARACTERS.decode(CHARACTERS.encode("a?b😀", unknown=" ")) == "a b "


def test_the_library_has_the_chapters_names_where_pytorch_has_them():
    for name in ("Embedding", "LayerNorm", "RMSNorm"):
        assert getattr(nn, name) is getattr(engine, name) and hasattr(torch.nn, name)
    for name in ("embedding", "layer_norm", "rms_norm", "scaled_dot_product_attention"):
        assert getattr(functional, name) is getattr(engine, name) and hasattr(F, name)


def test_layers_describe_themselves_as_in_pytorch():
    for make in (lambda n: n.Embedding(3, 4), lambda n: n.Embedding(3, 4, padding_idx=1), lambda n: n.RMSNorm(3, eps=0.5)):
        assert repr(make(nn)) == repr(make(torch.nn))
    assert repr(LayerNorm((2, 3))).startswith("LayerNorm((2, 3), eps=1e-05")
    assert RMSNorm(4, elementwise_affine=False).weight is None
    assert set(LayerNorm(4, bias=False).state_dict()) == {"weight"}
