"""Transformers: a model that writes Shakespeare

Exported from 07_Transformers/transformers.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import codecs
import heapq
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from shared.scalar_mlp import Module, data_of
from shared.tensor import Tensor, default_generator, differentiable, is_grad_enabled, no_grad
from shared.tensor_mlp import (
    AdamW,
    Dropout,
    Linear,
    ModuleDict,
    ModuleList,
    Parameter,
    cross_entropy,
    gelu,
    normal_,
    zeros_,
)
from shared.threads import parallel_for

__all__ = [
    "GPT",
    "BPETokenizer",
    "Block",
    "CharTokenizer",
    "Embedding",
    "FeedForward",
    "GPTConfig",
    "KVCache",
    "LayerNorm",
    "MultiHeadAttention",
    "RMSNorm",
    "RotaryEmbedding",
    "SinusoidalPositionalEncoding",
    "Tokenizer",
    "WordTokenizer",
    "attention_weights",
    "decay_groups",
    "embedding",
    "generate",
    "layer_norm",
    "learn_merges",
    "load_gpt2_weights",
    "merge_pair",
    "next_token_loss",
    "rms_norm",
    "scaled_dot_product_attention",
    "squared_relu",
    "token_probabilities",
]


def _rows_added_up(ids, g, count):
    """An array of `count` rows in which row i is the sum of the rows of g (N, C) whose id is i."""
    if count <= 512:  # few rows: a product with the one-hot matrix
        chosen = np.zeros((len(ids), count), g.dtype)
        chosen[np.arange(len(ids)), ids] = 1
        return chosen.T @ g
    d = np.zeros((count, g.shape[1]), g.dtype)
    if len(ids):
        order = np.argsort(ids, kind="stable")
        rows, starts = np.unique(ids[order], return_index=True)
        d[rows] = np.add.reduceat(g[order], starts)  # sorted, and summed run by run
    return d


@differentiable
def _embedding(weight, *, ids, padding_idx):
    """`embedding` as one operation."""
    def pullback(g):
        d = _rows_added_up(ids.reshape(-1), g.reshape(-1, weight.shape[1]), len(weight))
        if padding_idx is not None:
            d[padding_idx] = 0
        return d

    return weight[ids], pullback


def embedding(input, weight, padding_idx=None):
    """Rows of `weight` (V, C), picked by the ids in `input`, integers of any shape (...): the result is (..., C).

    The gradient of a row is the sum over all places where its id stands; row `padding_idx` gets none. Raises
    TypeError where ids are not integers, IndexError, with the id and its place, where one is not from 0 to V - 1.
    """
    ids, (count, _) = np.asarray(data_of(input)), np.shape(data_of(weight))
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids are integers, got {ids.dtype}")
    if ids.size and not (ids.min() >= 0 and ids.max() < count):
        place = tuple(np.argwhere((ids < 0) | (ids >= count))[0].tolist())
        raise IndexError(f"embedding: id {ids[place]} at {place} is outside of 0 to {count - 1}")
    return _embedding(weight, ids=ids, padding_idx=padding_idx)


class Embedding(Module):
    """A table of `num_embeddings` vectors of `embedding_dim` numbers, looked up by id; see `embedding`.

    `weight` (num_embeddings, embedding_dim) starts normal with mean 0 and variance 1, row `padding_idx` at 0, as in
    PyTorch. `generator` is a NumPy generator; without one the engine's own is used. Raises ValueError for a size
    below 1 and for a padding_idx that is no row.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, *, generator=None):
        if num_embeddings < 1 or embedding_dim < 1:
            raise ValueError(f"Embedding: expected sizes of at least 1, got {num_embeddings} and {embedding_dim}")
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is none of the {num_embeddings} rows")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), np.float32))
        normal_(self.weight, generator=generator)
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, input):
        """Vectors (..., embedding_dim) for ids (...)."""
        return embedding(input, self.weight, self.padding_idx)

    def extra_repr(self):
        """The sizes, as PyTorch prints them."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def _check_mask(name, attn_mask):
    """Raise TypeError for a mask of whole numbers: it would be added to the scores, as if 1 and 0 were hardly
    different."""
    kind = np.asarray(data_of(attn_mask)).dtype
    if kind.kind not in "bf":
        raise TypeError(f"{name}: attn_mask is booleans, or floating-point numbers to be added, got {kind}")


def attention_weights(query, key, attn_mask=None, is_causal=False, scale=None):
    """softmax(query key^T * scale) of tensors (..., L, D) and (..., S, D): (..., L, S),
    the rows of which add up to 1.

    The first half of `scaled_dot_product_attention`, whose arguments it has, step by step; for looking at. A row that
    may look at nothing is 0.
    """
    if attn_mask is not None:
        _check_mask("attention_weights", attn_mask)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.transpose(-2, -1)) * scale
    hidden = np.zeros(scores.shape, bool)
    if is_causal:
        hidden |= ~np.tri(*scores.shape[-2:], dtype=bool)
    if attn_mask is not None and data_of(attn_mask).dtype.kind == "b":
        hidden |= ~data_of(attn_mask)
    elif attn_mask is not None:
        scores = scores + attn_mask
        hidden |= np.isneginf(scores.data)
    blind = hidden.all(-1, keepdims=True)
    return scores.masked_fill(hidden & ~blind, -np.inf).masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


_TILE = 1 << 16  # scores that are worked on at a time, so that several passes over them stay in the cache


_LEAST = 1 << 18  # numbers that are worth a thread of their own


class _Attention:
    """One call of attention on arrays q (B, H, L, D), k (B, H, S, D) and v (B, H, S, E), forward and backward.

    The scores are never whole: they come in tiles (b, h, keys, rows), some queries against the keys that they may
    see. Keys run down the columns, since NumPy adds up columns faster than rows. The tiles of exponentials are kept
    for the backward pass, where `keep` says so; all else is computed again. The row that a softmax divides by divides
    the result instead, which is smaller. The last band of queries, which sees the most keys, comes first. Groups of
    heads are spread over the threads. `offset` is the position of the first query, where it is causal. The idea of
    tiles: Dao et al. (2022), FlashAttention.
    """

    def __init__(self, q, k, v, mask=None, *, scale=None, causal=False, offset=0, dropout_p=0.0, generator=None):
        self.q, self.k, self.v, self.mask = q, k, v, mask
        self.scale = q.dtype.type(q.shape[-1] ** -0.5 if scale is None else scale)
        self.causal, self.offset, self.dropout_p = causal, offset, dropout_p
        (batch, heads, length, _), keys = q.shape, k.shape[2]
        rows = min(length, max(32, _TILE // max(heads * keys, 1)))
        each = min(heads, max(1, _TILE // max(rows * keys, 1)))  # heads in a tile
        some = max(1, _TILE // max(heads * rows * keys, 1)) if rows == length and each == heads else 1
        self.groups = [(slice(b, b + some), slice(h, h + each))
                       for b in range(0, batch, some) for h in range(0, heads, each)]
        ends = [min(r + rows, length) for r in range(0, length, rows)]
        self.bands = [(slice(end - min(rows, end - start), end), min(keys, end + offset) if causal else keys)
                      for start, end in zip(range(0, length, rows), ends, strict=True)][::-1]
        self.least = max(1, _LEAST // max(some * each * length * keys, 1))  # groups that are worth a thread
        self.seeds = generator.integers(2**63, size=(len(self.groups), len(self.bands))) if dropout_p else None
        self.inverse = np.empty((batch, heads, length), q.dtype)
        self.tiles = [[None] * len(self.bands) for _ in self.groups]

    def forward(self, out, keep):
        """Write softmax(q k^T * scale) v into `out` (B, H, L, E), which may be a view."""
        def some(start, stop):
            for group in range(start, stop):
                place = self.groups[group]
                shift = self._may_overflow(place)
                for band, (rows, seen) in enumerate(self.bands):
                    e = self._exponentials(place, rows, seen, shift)
                    total = np.ones(seen, e.dtype) @ e  # (b, h, rows)
                    if self.mask is not None or not seen:
                        total[total == 0] = np.inf  # a row that sees nothing: its result is 0
                    inverse = np.reciprocal(total, out=self.inverse[(*place, rows)])
                    kept = e * self._kept(group, band, e.shape) if self.dropout_p else e
                    y = np.matmul(kept.swapaxes(-1, -2), self.v[place][:, :, :seen], out=out[(*place, rows)])
                    y *= inverse[..., None]
                    if keep:
                        self.tiles[group][band] = e

        parallel_for(some, len(self.groups), self.least)
        return out

    def _may_overflow(self, place):
        """Whether exponentials of scores, or sums of them, come near the largest number, as far as lengths can tell.

        They are asked where it is less work than the rows' largest scores: with more queries than numbers in each.
        """
        q, k = self.q[place], self.k[place]
        if self.mask is not None or q.shape[2] < q.shape[3]:
            return True
        q_longest, k_longest = (float(np.einsum("bhtd,bhtd->bht", a, a).max(initial=0)) ** 0.5 for a in (q, k))
        bound = abs(float(self.scale)) * q_longest * k_longest
        return not bound + np.log(max(1, k.shape[2])) < np.log(np.finfo(q.dtype).max) / 2

    def _exponentials(self, place, rows, seen, shift):
        """exp(score), one tile: (b, h, seen, rows); where `shift`, exp(score - largest score of the query)."""
        s = self.k[place][:, :, :seen] @ _turned(self.q[(*place, rows)], self.scale)
        first = rows.start + self.offset + 1  # the first key that some query of the tile must not see
        if self.causal and first < seen:
            late = s[:, :, first:]
            late += np.where(np.tri(*late.shape[2:], dtype=bool), s.dtype.type(-np.inf), s.dtype.type(0))
        if self.mask is not None:
            mask = self.mask[(*place, rows)][..., :seen].swapaxes(-1, -2)
            np.copyto(s, -np.inf, where=~mask) if mask.dtype.kind == "b" else np.add(s, mask, out=s)
        if shift:
            top = np.maximum.reduce(s, 2, keepdims=True, initial=-np.inf if self.mask is not None or not seen else None)
            if self.mask is not None:
                top[np.isneginf(top)] = 0
            s -= top
        return np.exp(s, out=s)

    def _kept(self, group, band, shape):
        """What dropout multiplies a tile with: 0 with probability `dropout_p`, else 1 / (1 - p).

        Drawn again when needed."""
        generator = np.random.Generator(np.random.SFC64(self.seeds[group, band]))
        kept = generator.integers(0, 1 << 16, shape, np.uint16) >= round(self.dropout_p * (1 << 16))
        return kept * self.q.dtype.type(1 / (1 - self.dropout_p) if self.dropout_p < 1 else 0)

    def backward(self, g, out, dq, dk, dv, dmask=None):
        """Write the gradients, from that of the result, g, and the result, `out` (B, H, L, E), into dq, dk and dv."""
        def some(start, stop):
            for group in range(start, stop):
                place = self.groups[group]
                k, v = self.k[place], self.v[place]
                for band, (rows, seen) in enumerate(self.bands):
                    e = kept = self.tiles[group][band]
                    above = g[(*place, rows)] * self.inverse[(*place, rows)][..., None]
                    d = v[:, :, :seen] @ _turned(above)  # of the weights
                    if self.dropout_p:
                        factor = self._kept(group, band, e.shape)
                        d *= factor
                        kept = e * factor
                    _add_product(dv[place], kept, above, fresh=band == 0)
                    d -= np.einsum("bhre,bhre->bhr", above, out[(*place, rows)])[:, :, None]
                    d *= e  # of the scores
                    _add_product(dk[place], d, self.q[(*place, rows)] * self.scale, fresh=band == 0)
                    d = d.swapaxes(-1, -2)
                    np.multiply(d @ k[:, :, :seen], self.scale, out=dq[(*place, rows)])
                    if dmask is not None:
                        dmask[(*place, rows)][..., :seen] = d

        parallel_for(some, len(self.groups), self.least)


def _turned(a, factor=1):
    """a (..., L, D) times a factor, turned to (..., D, L) in memory, too: BLAS likes small matrices so."""
    a = a.swapaxes(-1, -2)
    return np.multiply(a, factor, out=np.empty(a.shape, a.dtype))


def _add_product(out, a, b, fresh):
    """Add a @ b to the first rows of `out` (..., S, D). A `fresh` one holds nothing yet: the other rows become 0."""
    seen = a.shape[-2]
    if fresh:
        np.matmul(a, b, out=out[..., :seen, :])
        out[..., seen:, :] = 0
    else:
        out[..., :seen, :] += a @ b


@differentiable
def _attention(query, key, value, mask=None, *, scale=None, causal=False, dropout_p=0.0, generator=None):
    """`scaled_dot_product_attention` as one operation."""
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    dtype = np.result_type(query, key, value)

    def four(a, last):  # (..., L, D) as (B, H, L, D)
        a = np.broadcast_to(np.asarray(a, dtype) if a.dtype.kind == "f" else a, (*lead, *last))
        return a.reshape(-1, lead[-1] if len(lead) > 1 else 1, *last)

    q, k, v = (four(a, a.shape[-2:]) for a in (query, key, value))
    sizes = (query.shape[-2], key.shape[-2])
    m = None if mask is None else four(mask, sizes)
    core = _Attention(q, k, v, m, scale=scale, causal=causal, dropout_p=dropout_p, generator=generator)
    out = core.forward(np.empty((*q.shape[:3], v.shape[3]), dtype), keep=is_grad_enabled())

    def pullback(g, wanted):
        dq, dk, dv = np.empty(q.shape, dtype), np.empty(k.shape, dtype), np.empty(v.shape, dtype)
        dmask = np.zeros(m.shape, dtype) if len(wanted) > 3 and wanted[3] else None
        core.backward(four(g, g.shape[-2:]), out, dq, dk, dv, dmask)
        shaped = [d.reshape(*lead, *d.shape[-2:]) if w else None
                  for d, w in zip((dq, dk, dv, dmask), wanted, strict=False)]
        return tuple(shaped)

    return out.reshape(*lead, *out.shape[-2:]), pullback


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, *,
                                 generator=None):
    """softmax(query key^T * scale) value, for query (..., L, D), key (..., S, D), value (..., S, E): (..., L, E).

    `attn_mask` broadcasts to (..., L, S): booleans, true where a query may look at a key, or numbers that are added
    to the scores. With `is_causal` query i sees the keys 0 to i. `scale` is 1 / sqrt(D) unless given. `dropout_p` is
    the probability with which a weight is set to 0, and the others divided by 1 - p, always, as in PyTorch: pass 0
    outside of training. A query that may look at nothing gets zeros. The scores are never twice in memory.
    Raises ValueError where shapes do not fit, for a mask beside `is_causal`, and for a `dropout_p` outside 0 to 1,
    TypeError for a mask of whole numbers. Vaswani et al. (2017), Attention is all you need, section 3.2.
    """
    name, (q, k, v) = "scaled_dot_product_attention", (np.shape(data_of(a)) for a in (query, key, value))
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        raise ValueError(f"{name}: query {q}, key {k} and value {v} do not fit; "
                         "expected (..., L, D), (..., S, D), (..., S, E)")
    if attn_mask is not None and is_causal:
        raise ValueError(f"{name}: attn_mask and is_causal were both given; put the triangle into the mask")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{name}: dropout_p is a probability from 0 to 1, got {dropout_p}")
    options = {"scale": scale, "causal": is_causal, "dropout_p": dropout_p,
               "generator": generator or default_generator()}
    if attn_mask is None:
        return _attention(query, key, value, **options)
    _check_mask(name, attn_mask)
    return _attention(query, key, value, attn_mask, **options)


@differentiable
def _packed_attention(qkv, *, heads, causal=True, turns=None, dropout_p=0.0, generator=None):
    """Attention of qkv (B, T, 3 C), queries, keys and values side by side, each of `heads` parts: (B, T, C).

    One operation, so that the gradient of all three is written into one array. `turns` (T, C / heads / 2) are those
    of a RotaryEmbedding.
    """
    batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3

    def parts(a):  # views (B, H, T, D) of each third
        return a.reshape(batch, length, -1, heads, width // heads).transpose(2, 0, 3, 1, 4)

    q, k, v = parts(qkv)
    if turns is not None:
        turns = np.tile(turns, (1, 2 * heads)).astype(np.result_type(qkv.dtype, np.complex64))  # of q and k together
        q, k = parts((qkv[:, :, : 2 * width].view(turns.dtype) * turns).view(qkv.dtype))
    core = _Attention(q, k, v, causal=causal, dropout_p=dropout_p, generator=generator)
    y = np.empty((batch, length, width), qkv.dtype)
    out = core.forward(parts(y)[0], keep=is_grad_enabled())

    def pullback(g):
        d = np.empty(qkv.shape, qkv.dtype)
        core.backward(parts(g)[0], out, *parts(d))
        if turns is not None:
            both = d[:, :, : 2 * width].view(turns.dtype)
            both *= turns.conj()
        return d

    return y, pullback


class MultiHeadAttention(Module):
    """Self-attention of `n_head` heads: x (B, T, n_embd) to the same shape. Causal: no position sees a later one.

    `c_attn` makes queries, keys and values in one product, (3 n_embd, n_embd); `c_proj` mixes the heads' results.
    These are GPT-2's names; in PyTorch's MultiheadAttention they are in_proj and out_proj. `dropout` acts on the
    weights of attention and on the result, in training. `rotary` is a RotaryEmbedding of n_embd / n_head columns, or
    None. Raises ValueError where n_head does not divide n_embd. Vaswani et al. (2017), section 3.2.2.
    """

    def __init__(self, n_embd, n_head, *, dropout=0.0, bias=True, causal=True, rotary=None, generator=None):
        if n_head < 1 or n_embd % n_head:
            raise ValueError(f"MultiHeadAttention: the width n_embd = {n_embd} is not divisible by n_head = {n_head}")
        self.n_embd, self.n_head, self.causal, self.dropout = n_embd, n_head, causal, dropout
        self.c_attn = Linear(n_embd, 3 * n_embd, bias, generator=generator)
        self.c_proj = Linear(n_embd, n_embd, bias, generator=generator)
        self.resid_dropout = Dropout(dropout)
        self.rotary = rotary

    def forward(self, x, attn_mask=None, cache=None):
        """x (B, T, n_embd) to the same shape.

        `attn_mask` as in `scaled_dot_product_attention`, broadcast to (B, H, T, T). With `cache`, a KVCache, x holds
        the positions after those in the cache, and sees those too; only under no_grad().
        """
        if x.ndim != 3:
            raise ValueError(f"MultiHeadAttention: expected x of shape (B, T, {self.n_embd}), got {tuple(x.shape)}")
        qkv, p = self.c_attn(x), self.dropout if self.training else 0.0
        if cache is not None:
            y = self._cached(qkv, attn_mask, cache)
        elif attn_mask is not None:
            y = self._masked(qkv, attn_mask, p)
        else:
            turns = None if self.rotary is None else self.rotary.table(0, x.shape[1])
            y = _packed_attention(qkv, heads=self.n_head, causal=self.causal, turns=turns, dropout_p=p,
                                  generator=default_generator())
        return self.resid_dropout(self.c_proj(y))

    def extra_repr(self):
        """The sizes."""
        return f"n_embd={self.n_embd}, n_head={self.n_head}, causal={self.causal}"

    def _masked(self, qkv, attn_mask, p):
        """Attention under a mask, on queries, keys and values as tensors of their own."""
        q, k, v = self.heads(qkv)
        if self.causal:
            attn_mask = _with_triangle(attn_mask, q.shape[2])
        return scaled_dot_product_attention(q, k, v, attn_mask, p).transpose(1, 2).reshape(*qkv.shape[:2], self.n_embd)

    def _cached(self, qkv, attn_mask, cache):
        """Attention of the positions that follow those in the cache; on arrays, since there is no graph."""
        if is_grad_enabled() and qkv.requires_grad:
            raise RuntimeError("MultiHeadAttention: a cache keeps no graph; use it under no_grad()")
        if attn_mask is not None:
            raise ValueError("MultiHeadAttention: attn_mask and cache were both given; a cache needs no mask")
        batch, length, _ = qkv.shape
        y, offset = np.empty((batch, length, self.n_embd), qkv.dtype), cache.length
        parts = (batch, length, -1, self.n_head, self.n_embd // self.n_head)
        q, k, v = qkv.data.reshape(parts).transpose(2, 0, 3, 1, 4)
        if self.rotary is not None:
            q, k = (self.rotary(Tensor(a, copy=False), offset).data for a in (q, k))
        core = _Attention(q, *cache.append(k, v), causal=self.causal and length > 1, offset=offset)
        core.forward(y.reshape(parts).transpose(2, 0, 3, 1, 4)[0], keep=False)
        return Tensor(y, copy=False)

    def heads(self, qkv):
        """Queries, keys and values (B, H, T, D) from the result (B, T, 3 C) of `c_attn`, turned where it is rotary."""
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        return (q, k, v) if self.rotary is None else (self.rotary(q), self.rotary(k), v)

    def weights(self, x):
        """How much each position looks at each other one: the attention weights (B, H, T, T) for x (B, T, n_embd)."""
        q, k, _ = self.heads(self.c_attn(x))
        return attention_weights(q, k, is_causal=self.causal)


def _with_triangle(attn_mask, length):
    """A mask that also hides what comes later: booleans stay booleans, numbers get -inf there."""
    _check_mask("MultiHeadAttention", attn_mask)
    past, mask = np.tri(length, dtype=bool), data_of(attn_mask)
    return mask & past if mask.dtype.kind == "b" else attn_mask + np.where(past, 0, -np.inf).astype(mask.dtype)


class SinusoidalPositionalEncoding(Module):
    """Adds to x (..., T, n_embd) waves of its positions:
    even columns sin(t w_i), odd ones cos(t w_i), w_i = base^(-2i/n_embd).

    Nothing is trained. Raises ValueError for an odd `n_embd`, and for positions past `max_positions`.
    Vaswani et al. (2017), Attention is all you need, section 3.5.
    """

    def __init__(self, n_embd, max_positions=1024, base=10000.0):
        if n_embd % 2:
            raise ValueError("SinusoidalPositionalEncoding: n_embd must be even, a sine and a cosine each, "
                             f"got {n_embd}")
        angle = np.arange(max_positions)[:, None] * base ** (-np.arange(0, n_embd, 2) / n_embd)  # (T, C / 2)
        waves = np.stack([np.sin(angle), np.cos(angle)], 2).reshape(max_positions, n_embd)
        self.register_buffer("waves", waves.astype(np.float32), persistent=False)

    def forward(self, x, offset=0):
        """x with the waves of the positions from `offset` on added; the same shape."""
        return x + _positions("SinusoidalPositionalEncoding", self.waves, offset, x.shape[-2])


def _positions(name, table, offset, count):
    """`count` rows of a table of positions. Raises ValueError where it is too short."""
    if offset + count > len(table):
        raise ValueError(f"{name}: position {offset + count - 1} asked for, the table ends at {len(table) - 1}")
    return table[offset : offset + count]


@differentiable
def _rotary(x, *, turns):
    """Neighbouring columns of x (..., T, D) as complex numbers, times `turns` (T, D / 2), which broadcasts."""
    kind = {4: np.complex64, 8: np.complex128}.get(x.dtype.itemsize)
    if x.dtype.kind != "f" or kind is None:
        raise TypeError(f"rotary: expected float32 or float64, got {x.dtype}")

    def turned(a, by):
        return (np.ascontiguousarray(a).view(kind) * by).view(a.dtype).reshape(a.shape)

    # back: by the opposite angles
    return turned(x, turns.astype(kind)), lambda g: turned(g, turns.conj().astype(kind))


class RotaryEmbedding(Module):
    """Turns each pair of neighbouring columns of queries and keys by an angle proportional to their position.

    Pair i of `dim` columns turns by base^(-2i/dim) for each position, so that the product of a turned query and a
    turned key depends on their distance alone. Nothing is trained. Raises ValueError for an odd `dim`, and for
    positions past `max_positions`. Su et al. (2021), RoFormer: enhanced transformer with rotary position embedding.
    """

    def __init__(self, dim, max_positions=1024, base=10000.0):
        if dim % 2:
            raise ValueError(f"RotaryEmbedding: dim must be even, for pairs of columns, got {dim}")
        angle = np.arange(max_positions)[:, None] * base ** (-np.arange(0, dim, 2) / dim)  # (T, D / 2)
        self.register_buffer("turns", np.exp(1j * angle).astype(np.complex64), persistent=False)

    def forward(self, x, offset=0):
        """x (..., T, dim), its rows standing at the positions from `offset` on, turned; the same shape."""
        return _rotary(x, turns=self.table(offset, x.shape[-2]))

    def table(self, offset, count):
        """The turns of `count` positions from `offset` on, as complex numbers of length 1: (count, dim / 2)."""
        return _positions("RotaryEmbedding", self.turns, offset, count)


def _normalise(x, n, r, eps, centred):
    """Write 1 / sqrt(mean square + eps) of each row of x (N, C), less its mean where `centred`, into r,
    and x times it into n."""
    if centred:
        average = np.full(x.shape[1], 1 / x.shape[1], x.dtype)  # a mean is a product with these
        x = np.subtract(x, (x @ average)[:, None], out=n)
    np.divide(np.einsum("nc,nc->n", x, x)[:, None], x.shape[1], out=r)
    r += eps
    np.reciprocal(np.sqrt(r, out=r), out=r)
    np.multiply(x, r, out=n)


def _normalise_back(g, weight, n, r, dx, centred):
    """Write r * (d - mean(d) - n * mean(d * n)) into dx, where d = g * weight;
    without the first mean where not `centred`."""
    average = np.full(n.shape[1], 1 / n.shape[1], n.dtype)
    np.multiply(g, 1 if weight is None else weight, out=dx)
    along = np.einsum("nc,nc->n", dx, n)
    along /= n.shape[1]
    if centred:
        dx -= (dx @ average)[:, None]
    dx -= n * along[:, None]
    dx *= r


@differentiable
def _layer_norm(x, weight, bias, *, eps, centred):
    """`layer_norm` of x (..., C), or `rms_norm` where not `centred`, as one operation;
    the rows are shared by the threads."""
    rows = x.reshape(-1, x.shape[-1])
    y, n, r = np.empty_like(rows), np.empty_like(rows), np.empty((len(rows), 1), rows.dtype)

    def some(start, stop):
        part = slice(start, stop)
        _normalise(rows[part], n[part], r[part], eps, centred)
        np.multiply(n[part], 1 if weight is None else weight, out=y[part])
        if bias is not None:
            y[part] += bias

    parallel_for(some, len(rows), least=1 + _LEAST // rows.shape[1])

    def pullback(g, wanted):
        g, dx, sums = g.reshape(rows.shape), np.empty_like(rows), []

        def some(start, stop):
            part = slice(start, stop)
            if wanted[0]:
                _normalise_back(g[part], weight, n[part], r[part], dx[part], centred)
            sums.append((start, np.einsum("nc,nc->c", g[part], n[part]) if wanted[1] else None,
                         np.ones(stop - start, g.dtype) @ g[part] if wanted[2] else None))  # a sum, as a product

        parallel_for(some, len(rows), least=1 + _LEAST // rows.shape[1])
        _, dweight, dbias = zip(*sorted(sums, key=lambda s: s[0]), strict=True)
        return dx.reshape(x.shape), sum(dweight) if wanted[1] else None, sum(dbias) if wanted[2] else None

    return y.reshape(x.shape), pullback


def _normalised(name, input, normalized_shape, weight, bias, eps, centred):
    """Check the arguments of `layer_norm` or `rms_norm`, and call the operation on rows."""
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    shape = np.shape(data_of(input))
    if not sizes or shape[len(shape) - len(sizes) :] != sizes:
        raise ValueError(f"{name}: input {shape} does not end with normalized_shape {sizes}")
    for what, array in (("weight", weight), ("bias", bias)):
        if array is not None and np.shape(data_of(array)) != sizes:
            raise ValueError(f"{name}: {what} {np.shape(data_of(array))} has not normalized_shape {sizes}")
    if len(sizes) == 1:
        return _layer_norm(input, weight, bias, eps=eps, centred=centred)
    flat = [None if a is None else a.reshape(-1) for a in (weight, bias)]
    return _layer_norm(input.reshape(*shape[: -len(sizes)], -1), *flat, eps=eps, centred=centred).reshape(*shape)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and variance (correction 0) over the last axes.

    `normalized_shape`, an integer or a tuple, are the sizes of these axes, and the shape of weight and bias.
    Raises ValueError where shapes do not fit. Ba, Kiros and Hinton (2016), Layer normalization.
    """
    return _normalised("layer_norm", input, normalized_shape, weight, bias, eps, centred=True)


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight, the mean over the last axes; see `layer_norm` for the shapes.

    `eps` is the type's machine epsilon unless given. Zhang and Sennrich (2019), Root mean square layer normalization.
    """
    eps = float(np.finfo(data_of(input).dtype).eps) if eps is None else eps
    return _normalised("rms_norm", input, normalized_shape, weight, None, eps, centred=False)


class LayerNorm(Module):
    """`layer_norm` with a `weight`, ones at first, and a `bias`, zeros;
    neither where `elementwise_affine` is False."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = sizes, eps
        self.weight = Parameter(np.ones(sizes, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(sizes, np.float32)) if elementwise_affine and bias else None

    def forward(self, input):
        """The same shape as the input."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self):
        """The sizes, as PyTorch prints them."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class RMSNorm(Module):
    """`rms_norm` with a `weight`, ones at first; none where `elementwise_affine` is False."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = sizes, eps
        self.weight = Parameter(np.ones(sizes, np.float32)) if elementwise_affine else None

    def forward(self, input):
        """The same shape as the input."""
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self):
        """The sizes, as PyTorch prints them."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


@differentiable
def squared_relu(x):
    """max(0, x)^2, elementwise. So et al. (2021), Primer: searching for efficient transformers."""
    y = np.clip(x, 0, np.inf)
    return y * y, lambda g: g * (y + y)


_ACTIVATIONS = {"gelu": gelu, "gelu_tanh": lambda x: gelu(x, approximate="tanh"), "relu2": squared_relu}


class FeedForward(Module):
    """Two linear layers with an activation between them, four times as wide there: x (..., n_embd) to the same shape.

    `c_fc` and `c_proj` are GPT-2's names. Takes its sizes from a GPTConfig.
    """

    def __init__(self, config, generator=None):
        self.activation = config.activation
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias, generator=generator)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias, generator=generator)
        self.dropout = Dropout(config.dropout)

    def forward(self, x):
        """The same shape as x."""
        return self.dropout(self.c_proj(_ACTIVATIONS[self.activation](self.c_fc(x))))


@dataclass
class GPTConfig:
    """The sizes of a GPT and what it is made of. The defaults are GPT-2's, but for its "gelu_tanh".

    `activation` is "gelu", "gelu_tanh" (GPT-2's) or "relu2", `norm` "layer" or "rms", `positions` "learned",
    "sinusoidal" or "rotary". `bias` is for linear layers and layer norms alike. With `tie_weights` the last layer's
    weights are the embedding's. `pre_norm` False puts the norms after the additions, as in the transformer of 2017.
    Raises ValueError for what does not fit together.
    """

    vocab_size: int = 50257
    block_size: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    activation: str = "gelu"
    norm: str = "layer"
    positions: str = "learned"
    tie_weights: bool = True
    pre_norm: bool = True

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPTConfig: {name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("activation", _ACTIVATIONS), ("norm", ("layer", "rms")),
                            ("positions", ("learned", "sinusoidal", "rotary"))):
            if getattr(self, name) not in known:
                raise ValueError(f"GPTConfig: {name} is one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"GPTConfig: the width n_embd = {self.n_embd} is not divisible "
                             f"by n_head = {self.n_head}")
        if self.positions == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(f"GPTConfig: rotary positions need an even head size, got {self.n_embd // self.n_head}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"GPTConfig: dropout is a probability from 0 to 1, got {self.dropout}")


def _norm(config):
    """A norm of the kind that the configuration names."""
    return RMSNorm(config.n_embd) if config.norm == "rms" else LayerNorm(config.n_embd, bias=config.bias)


class Block(Module):
    """Attention, then a feed-forward network, each added to the residual stream x (B, T, n_embd): x + f(norm(x)).

    Takes its sizes from a GPTConfig; where that says so, norm(x + f(x)) instead. `rotary` is for the attention.
    """

    def __init__(self, config, rotary=None, generator=None):
        self.pre_norm = config.pre_norm
        self.ln_1 = _norm(config)
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias,
                                       rotary=rotary, generator=generator)
        self.ln_2 = _norm(config)
        self.mlp = FeedForward(config, generator)

    def forward(self, x, cache=None):
        """The same shape as x. `cache` is a KVCache, for generating."""
        if self.pre_norm:
            x = x + self.attn(self.ln_1(x), cache=cache)
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x, cache=cache))
        return self.ln_2(x + self.mlp(x))


class Tokenizer:
    """Turns text into ids, integers from 0 to `vocab_size` - 1, and back; a subclass says how.

    A subclass has `encode`, text to an int64 array, and `pieces`, the list of what each id stands for.
    """

    def __len__(self):
        return len(self.pieces)

    @property
    def vocab_size(self):
        """The number of different tokens."""
        return len(self.pieces)

    def encode(self, text):
        """The ids of a text, int64, shape (T,)."""
        raise NotImplementedError(f"{type(self).__name__}: it has no method encode")

    def decode(self, ids):
        """The text of ids: an array, a tensor or a list. Raises ValueError for an id that no token has."""
        return "".join(self.decode_each(ids))

    def decode_each(self, ids):
        """Yield the text of one id after the other: joined, the whole text."""
        for place, i in enumerate(ids):
            yield self.pieces[self._checked(i, place)]

    def _checked(self, i, place):
        """An id as an integer. Raises ValueError where no token has it."""
        i = int(i)
        if not 0 <= i < self.vocab_size:
            raise ValueError(f"decode: id {i} at position {place} is no token; "
                             f"there are the ids 0 to {self.vocab_size - 1}")
        return i

    def __repr__(self):
        return f"{type(self).__name__}({self.vocab_size} tokens)"

    def save(self, path):
        """Write the tokeniser as JSON, under a temporary name that is renamed when the file is whole."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"tokenizer": type(self).__name__, **self._content()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path):
        """Read a tokeniser that `save` wrote. `Tokenizer.load` reads any kind, a subclass only its own.

        Raises ValueError, naming the file, where it is damaged or holds another kind.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            kind = {k.__name__: k for k in (CharTokenizer, WordTokenizer, BPETokenizer)}[content.pop("tokenizer")]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: it holds no tokeniser: {type(error).__name__} {error}") from error
        if not issubclass(kind, cls):
            raise ValueError(f"{path}: it holds a {kind.__name__}, expected a {cls.__name__}")
        try:
            return kind._from_content(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: its {kind.__name__} is damaged: {type(error).__name__} {error}") from error


class CharTokenizer(Tokenizer):
    """One token for each character that occurs in `text`, in the order of their code points."""

    def __init__(self, text):
        self.pieces = sorted(set(text))
        self._codes = np.array([ord(c) for c in self.pieces], np.uint32)

    def encode(self, text, unknown=None):
        """The ids of a text, int64 (T,).

        A character that is not in the vocabulary becomes `unknown`, if that is given. Raises ValueError, naming the
        first such character and its position, without `unknown`, or where it has no id.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        if not self.pieces:
            raise ValueError("encode: the vocabulary is empty")
        ids = np.searchsorted(self._codes, codes).astype(np.int64)
        ids[ids == len(self.pieces)] = 0
        missing = self._codes[ids] != codes
        if missing.any():
            ids[missing] = self._replacement(text, int(np.argmax(missing)), unknown)
        return ids

    def _replacement(self, text, place, unknown):
        if unknown is None:
            raise ValueError(f"encode: the character {text[place]!r} at position {place} is not among the "
                             f"{self.vocab_size} known ones; unknown=... names one to put in its place")
        if unknown not in self.pieces:
            raise ValueError(f"encode: the replacement {unknown!r} is itself not in the vocabulary")
        return self.pieces.index(unknown)

    def _content(self):
        return {"characters": "".join(self.pieces)}

    @classmethod
    def _from_content(cls, content):
        return cls(content["characters"])


_WORD = re.compile(r"\w+|\s+|[^\w\s]+")  # every character belongs to exactly one of the three


class WordTokenizer(Tokenizer):
    """One token for each word, run of spaces, or run of punctuation marks that occurs in `text`, the commonest first.

    `vocab_size` keeps only that many of them; the rarest are then unknown. Their joined pieces give the text again.
    Raises ValueError for a `vocab_size` below 1.
    """

    def __init__(self, text, vocab_size=None):
        if vocab_size is not None and vocab_size < 1:
            raise ValueError(f"WordTokenizer: vocab_size must be at least 1, got {vocab_size}")
        counts = Counter(_WORD.findall(text))
        self._set(sorted(counts, key=lambda word: (-counts[word], word))[:vocab_size])

    def _set(self, pieces):
        self.pieces = pieces
        self._ids = {word: i for i, word in enumerate(pieces)}

    def encode(self, text, unknown=None):
        """The ids of a text, int64 (T,). A word that is not in the vocabulary becomes `unknown`, if that is given.

        Raises ValueError, naming the first such word and its position, without `unknown`, or where it has no id.
        """
        if unknown is not None and unknown not in self._ids:
            raise ValueError(f"encode: the replacement {unknown!r} is itself not in the vocabulary")
        ids = []
        for match in _WORD.finditer(text):
            i = self._ids.get(match.group(), self._ids.get(unknown))
            if i is None:
                raise ValueError(f"encode: the word {match.group()!r} at position {match.start()} is not among the "
                                 f"{self.vocab_size} known ones; unknown=... names one to put in its place")
            ids.append(i)
        return np.array(ids, np.int64)

    def _content(self):
        return {"words": self.pieces}

    @classmethod
    def _from_content(cls, content):
        tokenizer = cls("")
        tokenizer._set([str(word) for word in content["words"]])
        return tokenizer


def merge_pair(ids, pair, new):
    """A list of ids in which every occurrence of `pair`, from the left, is replaced by the one id `new`."""
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def learn_merges(words, count, first):
    """The `count` merges that byte-pair encoding learns, fewer where no pair is left: a list of pairs of ids.

    `words` is a table from tuples of ids to how often each word occurs; the merged pairs get the ids `first`,
    `first` + 1, ... The commonest pair is merged each time, of equally common ones the one with the smallest ids.
    Sennrich, Haddow and Birch (2016), Neural machine translation of rare words with subword units.
    """
    words = [[list(word), n] for word, n in words.items()]
    counts, holders = Counter(), defaultdict(set)  # how often each pair occurs, and in which words
    for w, (ids, n) in enumerate(words):
        for pair in pairwise(ids):
            counts[pair] += n
            holders[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)
    merges = []
    while len(merges) < count and heap:
        n, pair = heapq.heappop(heap)
        if counts[pair] != -n:  # an entry that a later count has replaced
            continue
        merges.append(pair)
        for changed in _merge_everywhere(words, holders, counts, pair, first + len(merges) - 1):
            if counts[changed]:
                heapq.heappush(heap, (-counts[changed], changed))
    return merges


def _merge_everywhere(words, holders, counts, pair, new):
    """Merge a pair in all words that hold it, with the counts kept up to date;
    returns the pairs whose count changed."""
    changed = set()
    for w in list(holders[pair]):
        ids, n = words[w]
        merged = merge_pair(ids, pair, new)
        for old in pairwise(ids):
            counts[old] -= n
            holders[old].discard(w)
            changed.add(old)
        for fresh in pairwise(merged):
            counts[fresh] += n
            holders[fresh].add(w)
            changed.add(fresh)
        words[w][0] = merged
    return changed


# GPT-2's way to cut a text
_CHUNK = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


class BPETokenizer(Tokenizer):
    """Byte-pair encoding of UTF-8 bytes: the 256 bytes, and one further token for each of the `merges`, pairs of ids.

    ``BPETokenizer.train(text, vocab_size)`` learns the merges. No text is unknown to it. Merges never cross
    the border of a word; a word begins with its space, as in GPT-2. Raises ValueError for a merge of an id
    that does not exist yet. Sennrich, Haddow and Birch (2016); on bytes: Radford et al. (2019), Language
    models are unsupervised multitask learners.
    """

    def __init__(self, merges=()):
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pieces = [bytes([i]) for i in range(256)]
        for a, b in self.merges:
            if not 0 <= min(a, b) <= max(a, b) < len(self.pieces):
                raise ValueError(f"BPETokenizer: merge {(a, b)} uses an id that does not exist "
                                 f"before id {len(self.pieces)}")
            self.pieces.append(self.pieces[a] + self.pieces[b])
        self._ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        self._known = {}  # words that were encoded before

    @classmethod
    def train(cls, text, vocab_size):
        """Learn `vocab_size` - 256 merges from a text, fewer where it has no more pairs. ValueError below 256."""
        if vocab_size < 256:
            raise ValueError(f"BPETokenizer: vocab_size must be at least 256, one for each byte, got {vocab_size}")
        chunks = Counter(_CHUNK.findall(text))
        words = Counter()
        for chunk, n in chunks.items():
            words[tuple(chunk.encode("utf-8", "surrogatepass"))] += n
        return cls(learn_merges(words, vocab_size - 256, 256))

    def encode(self, text):
        """The ids of a text, int64 (T,)."""
        ids = []
        for chunk in _CHUNK.findall(text):
            if chunk not in self._known:
                self._known[chunk] = self._merged(chunk.encode("utf-8", "surrogatepass"))
            ids += self._known[chunk]
        return np.array(ids, np.int64)

    def _merged(self, word):
        """The ids of one word: its bytes, merged in the order in which the merges were learned."""
        ids = list(word)
        while len(ids) > 1:
            new, pair = min((self._ranks.get(pair, len(self.pieces)), pair) for pair in pairwise(ids))
            if new == len(self.pieces):
                break
            ids = merge_pair(ids, pair, new)
        return ids

    def decode_each(self, ids):
        """Yield the text that each id completes; a character of several tokens comes with its last one.

        Bytes that are no UTF-8 give the replacement character, U+FFFD.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for place, i in enumerate(ids):
            yield decoder.decode(self.pieces[self._checked(i, place)])
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _content(self):
        return {"merges": self.merges}

    @classmethod
    def _from_content(cls, content):
        return cls(content["merges"])


class GPT(Module):
    """A decoder-only transformer: ids (B, T) to logits (B, T, vocab_size) for the token that follows each of them.

    The parameters have GPT-2's names: transformer.wte (tokens), transformer.wpe (positions),
    transformer.h.0.ln_1, .attn.c_attn, .attn.c_proj, .ln_2, .mlp.c_fc, .mlp.c_proj, ..., transformer.ln_f,
    lm_head. Weights start normal with standard deviation 0.02, those that write into the residual stream with
    0.02 / sqrt(2 n_layer), biases at 0. `generator` is a NumPy generator or a seed; without one the engine's
    own is used. Radford et al. (2019), section 2.3.
    """

    def __init__(self, config, generator=None):
        generator = default_generator() if generator is None else np.random.default_rng(generator)
        self.config = config
        rotary = sinusoidal = None
        if config.positions == "rotary":
            rotary = RotaryEmbedding(config.n_embd // config.n_head, config.block_size)
        elif config.positions == "sinusoidal":
            sinusoidal = SinusoidalPositionalEncoding(config.n_embd, config.block_size)
        parts = {"wte": Embedding(config.vocab_size, config.n_embd, generator=generator)}
        if config.positions == "learned":
            parts["wpe"] = Embedding(config.block_size, config.n_embd, generator=generator)
        parts["drop"] = Dropout(config.dropout)
        parts["h"] = ModuleList([Block(config, rotary, generator) for _ in range(config.n_layer)])
        parts["ln_f"] = _norm(config)
        self.transformer = ModuleDict(parts)
        self.sinusoidal = sinusoidal
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False, generator=generator)
        if config.tie_weights:
            self.lm_head.weight = self.transformer.wte.weight
        for name, p in self.named_parameters():
            if p.ndim > 1:
                normal_(p, std=0.02 * (2 * config.n_layer) ** -0.5 if "c_proj" in name else 0.02, generator=generator)
            elif name.endswith("bias"):
                zeros_(p)

    def forward(self, idx, cache=None, last_only=False):
        """Logits (B, T, vocab_size) for ids (B, T); with `last_only` those of the last position, (B, 1, vocab_size).

        With `cache`, from `new_cache`, the ids are those that follow what the cache has seen; only under no_grad().
        Raises ValueError for another shape, for no ids, and for more than block_size;
        IndexError for an id that does not exist.
        """
        idx = np.asarray(data_of(idx))
        before = cache[0].length if cache else 0
        if idx.ndim != 2 or not idx.size:
            raise ValueError(f"GPT: expected ids (B, T), at least one, got shape {idx.shape}")
        if before + idx.shape[1] > self.config.block_size:
            raise ValueError(f"GPT: {before + idx.shape[1]} tokens, the context holds at most {self.config.block_size}")
        x = self._embedded(idx, before)
        for i, block in enumerate(self.transformer.h):
            x = block(x, cache[i] if cache else None)
        return self.lm_head(self.transformer.ln_f(x[:, -1:] if last_only else x))

    def _embedded(self, idx, before):
        """Token vectors (B, T, n_embd), with their positions, which begin at `before`."""
        x = self.transformer.wte(idx)
        if self.config.positions == "learned":
            x = x + self.transformer.wpe(np.arange(before, before + idx.shape[1]))
        elif self.config.positions == "sinusoidal":
            x = self.sinusoidal(x * self.config.n_embd**0.5, before)  # scaled up beside waves of height 1, as in 2017
        return self.transformer.drop(x)

    def loss(self, idx, targets):
        """The `next_token_loss` of the tokens `targets` (B, T) that follow ids (B, T)."""
        return next_token_loss(self(idx), targets)

    def new_cache(self):
        """Empty key-value caches, one for each block, for `forward`."""
        return [KVCache(self.config.block_size) for _ in self.transformer.h]

    def configure_optimizers(self, weight_decay=0.1, learning_rate=1e-3, betas=(0.9, 0.95)):
        """AdamW that decays the matrices and leaves biases and norms alone."""
        return AdamW(decay_groups(self, weight_decay), lr=learning_rate, betas=betas)

    def num_parameters(self, non_embedding=True):
        """How many numbers are trained; without those of the position table, unless told otherwise,
        as nanoGPT counts."""
        positions = self.transformer.wpe.weight.data.size if non_embedding and self.config.positions == "learned" else 0
        return sum(p.data.size for p in self.parameters()) - positions

    def attention_maps(self, idx):
        """How much each position looks at each earlier one, in every block and head:
        an array (n_layer, B, n_head, T, T)."""
        maps = []

        def listen(module, args, output):
            maps.append(module.weights(args[0]).data)

        handles = [block.attn.register_forward_hook(listen) for block in self.transformer.h]
        try:
            with no_grad():
                self(idx)
        finally:
            for handle in handles:
                handle.remove()
        return np.stack(maps)


def next_token_loss(logits, targets):
    """The mean cross-entropy, in nats, of logits (B, T, V) for ids (B, T); the id -100 does not count."""
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), np.reshape(data_of(targets), -1))


def decay_groups(model, weight_decay=0.1):
    """A model's parameters in two groups for an optimiser:
    matrices with weight decay, vectors (biases, norms) without."""
    parameters = list(model.parameters())
    groups = [([p for p in parameters if p.ndim >= 2], weight_decay), ([p for p in parameters if p.ndim < 2], 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities, float64, from which the next token is drawn, for logits (..., V): the same shape.

    Logits are divided by `temperature`; 0 is greedy, all for the largest. `top_k` keeps the k largest (and
    what is equal to the last of them), `top_p` the fewest tokens that together have at least that probability.
    Raises ValueError for a temperature below 0, a top_k below 1, a top_p outside of (0, 1], and for NaN.
    Holtzman et al. (2020), The curious case of neural text degeneration.
    """
    logits = np.asarray(data_of(logits), np.float64)
    _check_sampling(temperature, top_k, top_p)
    if np.isnan(logits).any():
        raise ValueError("generate: the model's logits are not numbers (NaN)")
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    z = logits - logits.max(-1, keepdims=True)
    with np.errstate(over="ignore"):
        z /= temperature
    if top_k is not None and top_k < z.shape[-1]:
        z[z < np.partition(z, -top_k, axis=-1)[..., -top_k, None]] = -np.inf
    p = np.exp(z)
    p /= p.sum(-1, keepdims=True)
    if top_p is not None:
        order = np.argsort(-p, axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, -1)
        ranked[..., 1:][ranked.cumsum(-1)[..., :-1] >= top_p] = 0  # those before it have enough already
        np.put_along_axis(p, order, ranked, -1)
        p /= p.sum(-1, keepdims=True)
    return p


def _check_sampling(temperature, top_k, top_p):
    """Raises ValueError for settings that make no sense."""
    if not temperature >= 0:
        raise ValueError(f"generate: temperature must be at least 0, got {temperature}")
    if top_k is not None and not top_k >= 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must lie above 0 and be at most 1, got {top_p}")


class KVCache:
    """The keys and values of one layer for the positions seen so far, (B, H, length, D) each;
    grows up to `capacity`."""

    def __init__(self, capacity):
        self.capacity, self.length, self._both = capacity, 0, None

    def append(self, k, v):
        """Add keys and values (B, H, t, D) at the end; returns all of them, as views. ValueError where it is full."""
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"KVCache: it holds at most {self.capacity} positions, {end} asked for")
        if self._both is None:
            self._both = np.empty((2, *k.shape[:2], self.capacity, k.shape[3]), k.dtype)
        self._both[0, :, :, self.length : end], self._both[1, :, :, self.length : end] = k, v
        self.length = end
        return self._both[:, :, :, :end]


def _next_ids(model, ids, count, settings, generator, use_cache):
    """Yield `count` times the ids (B,) that follow ids (B, T): the model reads, one is drawn, and so on."""
    size, training = model.config.block_size, model.training
    start, cache = max(0, ids.shape[1] - size), None  # the prompt is cropped to its end
    text = list(ids.T)
    model.eval()
    try:
        for _ in range(count):
            if len(text) - start > size:  # full: the window jumps ahead, and keeps the last half of itself
                start, cache = len(text) - (size + 1) // 2, None
            fresh = cache is None
            if fresh and use_cache:
                cache = model.new_cache()
            with no_grad():
                idx = np.stack(text[start:] if fresh else text[-1:], 1)
                logits = model(idx, cache=cache, last_only=True).data[:, -1]
            p = token_probabilities(logits, *settings).cumsum(-1)
            chosen = (p > generator.random((len(p), 1)) * p[:, -1:]).argmax(-1)
            text.append(chosen)
            yield chosen
    finally:
        model.train(training)


def generate(model, prompt, max_new_tokens=200, *, tokenizer=None, temperature=1.0, top_k=None, top_p=None, seed=None,
             stop=None, stream=False, use_cache=True):
    """Let a GPT continue a prompt: draw the next token, append it, and read on.

    Parameters
    ----------
    prompt : text, with a `tokenizer`; else ids, (T,) or (B, T). Only its last block_size tokens are read.
    max_new_tokens : how many tokens to add, at most.
    temperature, top_k, top_p : see `token_probabilities`; temperature 0 always takes the likeliest token.
    seed : a number or a NumPy generator; the engine's own generator without one.
    stop : text, with a `tokenizer`, else an id, or a list of them; it ends with the first of them that comes up,
        which is still part of it. Not for several prompts at once.
    stream : return an iterator over the new pieces, as they come, instead of the whole.
    use_cache : keep the keys and values of what was read, instead of computing them for every token again.

    Returns the prompt with its continuation, as text or ids, like the prompt. When the context of block_size tokens
    is full it jumps ahead, keeping its last half; so the tokens are the same with and without cache, and the time for
    one does not grow with the text. Raises ValueError for an empty prompt and for settings that make no sense.
    """
    _check_sampling(temperature, top_k, top_p)
    ids = tokenizer.encode(prompt) if tokenizer else np.asarray(data_of(prompt))
    if not ids.size:
        raise ValueError("generate: the prompt is empty; it needs at least one token, such as a line's end")
    if not 1 <= ids.ndim <= 2 or ids.dtype.kind not in "iu" or max_new_tokens < 0:
        raise ValueError("generate: expected ids (T,) or (B, T) and max_new_tokens of at least 0, "
                         f"got shape {ids.shape} of {ids.dtype} and {max_new_tokens}")
    stops = _stops(stop, ids, tokenizer)
    generator = default_generator() if seed is None else np.random.default_rng(seed)
    new = _next_ids(model, np.atleast_2d(ids), max_new_tokens, (temperature, top_k, top_p), generator, use_cache)
    pieces = _until(_texts(tokenizer, new) if tokenizer else new if ids.ndim > 1 else (int(i[0]) for i in new), stops)
    if stream:
        return pieces
    if tokenizer:
        return prompt + "".join(pieces)
    pieces = np.array(list(pieces), np.int64)
    return np.concatenate([ids, pieces.T if pieces.size else ids[..., :0]], -1)


def _texts(tokenizer, new):
    """Yield the text of each new id, of one sequence."""
    yield from tokenizer.decode_each(i[0] for i in new)


def _stops(stop, ids, tokenizer):
    """What `generate` was told to stop at, as a list, checked."""
    stops = [] if stop is None else list(stop) if isinstance(stop, list | tuple | set | np.ndarray) else [stop]
    if any(isinstance(s, str) != (tokenizer is not None) for s in stops):
        kind = "text with a" if tokenizer else "an id without a"
        raise ValueError(f"generate: stop is {kind} tokenizer, got {stop!r}")
    if stops and (ids.ndim > 1 or "" in stops):
        raise ValueError("generate: stop is for one prompt at a time, and not empty; "
                         f"got {stop!r} for ids of shape {ids.shape}")
    return stops


def _until(pieces, stops):
    """Yield the pieces, texts or ids, up to the end of the first stop."""
    text, longest = "", max([len(s) for s in stops if isinstance(s, str)], default=0)
    for piece in pieces:
        if not isinstance(piece, str):
            yield piece
            if stops and piece in stops:
                return
            continue
        begin = len(text)
        text += piece
        ends = [text.find(s) + len(s) for s in stops if s in text]
        yield piece[: min(ends) - begin] if ends else piece
        if ends:
            return
        text = text[len(text) - longest + 1 :] if longest > 1 else ""


_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def load_gpt2_weights(model, state_dict):
    """Load a `state_dict` in GPT-2's layout into a GPT of the same sizes; returns the model.

    Hugging Face's files are understood: their four linear weights a block are (in, out) and are turned over
    here, names may lack "transformer.", the masks attn.bias and attn.masked_bias are left out, and lm_head is
    the token table where it is missing. So are those of a GPT written for PyTorch, with weights (out, in); the
    shape of c_attn tells the two apart. GPT-2 itself needs ``GPTConfig(activation="gelu_tanh")``. Raises
    ValueError where names or shapes do not fit.
    """
    state = {}
    for name, value in state_dict.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        known = name.startswith(("transformer.", "lm_head."))
        state[name if known else f"transformer.{name}"] = np.asarray(data_of(value))
    first = state.get("transformer.h.0.attn.c_attn.weight")
    if first is None:
        raise ValueError("load_gpt2_weights: it has no h.0.attn.c_attn.weight, so it is not in GPT-2's layout")
    if first.ndim == 2 and first.shape[1] == 3 * first.shape[0]:
        state = {name: value.T if name.endswith(_CONV1D) else value for name, value in state.items()}
    if "lm_head.weight" not in state and "transformer.wte.weight" in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    model.load_state_dict(state)
    return model
