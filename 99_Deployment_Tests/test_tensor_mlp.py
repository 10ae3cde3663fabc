"""Chapter 05 against PyTorch, against its unfused twins, and against bad input, interruption and damaged files."""

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared
from shared import datasets, functional, nn, optim
from shared import tensor_mlp as mlp
from shared.scalar_mlp import SGD
from shared.tensor import OPERATIONS, Tensor, default_generator, gradcheck, log_softmax, manual_seed, no_grad
from shared.tensor_mlp import (
    GELU,
    Adam,
    AdamW,
    CheckpointError,
    DataLoader,
    Dropout,
    Linear,
    Parameter,
    ReLU,
    RMSprop,
    Sequential,
    TensorDataset,
    Trainer,
    TrainingDiverged,
    binary_cross_entropy_with_logits,
    clip_grad_norm_,
    cross_entropy,
    dropout,
    gelu,
    leaky_relu,
    linear,
    load,
    load_metadata,
    mse_loss,
    save,
)

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this chapter")
F = torch.nn.functional
ROOT = Path(shared.__file__).resolve().parent.parent
CHAPTER = ROOT / "05_Tensor_MLP"


def numbers(seed, *shape, dtype=np.float64):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def both(array):
    """The same numbers as a leaf of the engine and as one of PyTorch."""
    return Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)


def agree(ours, theirs, rtol=1e-6, atol=1e-8):
    """Values and gradients are equal."""
    np.testing.assert_allclose(ours, np.asarray(theirs.detach()), rtol=rtol, atol=atol)


def small_net(dtype=np.float32, seed=0):
    """A network of the engine and one of PyTorch with the same parameters."""
    manual_seed(seed)
    ours = Sequential(Linear(7, 5), GELU(), Linear(5, 3))
    theirs = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
    return ours, theirs


# ---- operations: numerical gradients, PyTorch, and the unfused twins ----

GRADCHECKS = {
    "linear": lambda: gradcheck(linear, (leaf(0, 4, 2, 3), leaf(1, 5, 3), leaf(2, 5))),
    "leaky_relu": lambda: gradcheck(lambda x: leaky_relu(x, negative_slope=0.3), leaf(0, 4, 3)),
    "gelu": lambda: gradcheck(gelu, leaf(0, 4, 3)) and gradcheck(lambda x: gelu(x, approximate="tanh"), leaf(0, 4, 3)),
    "dropout": lambda: gradcheck(lambda x: dropout(x, 0.4, generator=np.random.default_rng(1)), leaf(0, 4, 3)),
    "mse_loss": lambda: gradcheck(mse_loss, (leaf(0, 4, 3), leaf(1, 4, 3))),
    "binary_cross_entropy_with_logits": lambda: gradcheck(
        lambda z: binary_cross_entropy_with_logits(z, np.linspace(0, 1, 12).reshape(4, 3)), leaf(0, 4, 3)),
    "cross_entropy": lambda: gradcheck(
        lambda z: cross_entropy(z, np.array([0, 2, -1, 1]), ignore_index=-1, label_smoothing=0.2), leaf(0, 4, 3)),
}


def leaf(seed, *shape):
    """A float64 leaf."""
    return Tensor(numbers(seed, *shape), requires_grad=True)


@pytest.mark.parametrize("name", sorted(name for name, f in OPERATIONS.items() if f.__module__ == "shared.tensor_mlp"))
def test_every_operation_of_the_chapter_has_the_gradient_of_its_difference_quotient(name):
    assert GRADCHECKS[name]()


@pytest.mark.parametrize("shape", [(3,), (6, 3), (2, 4, 3), (0, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_equals_pytorch_and_its_unfused_twin(shape, with_bias):
    arrays = numbers(0, *shape), numbers(1, 5, 3), numbers(2, 5)
    ours, theirs, twin = [[make(a) for a in arrays] for make in (leaf_of, torch_leaf, leaf_of)]
    used = slice(None) if with_bias else slice(2)
    y, t = linear(*ours[used]), F.linear(*theirs[used])
    u = twin[0] @ twin[1].transpose(0, 1)
    u = u + twin[2] if with_bias else u
    upstream = numbers(3, *y.shape)
    y.backward(upstream)
    t.backward(torch.tensor(upstream))
    u.backward(upstream)
    agree(y.data, t)
    np.testing.assert_allclose(y.data, u.data, rtol=1e-12)
    for a, b, c in list(zip(ours, theirs, twin, strict=True))[used]:
        agree(a.grad, b.grad)
        np.testing.assert_allclose(a.grad, c.grad, rtol=1e-10, atol=1e-12)
    assert with_bias or ours[2].grad is None


def leaf_of(array):
    """A leaf of the engine."""
    return Tensor(array, requires_grad=True)


def torch_leaf(array):
    """A leaf of PyTorch."""
    return torch.tensor(array, requires_grad=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_equals_pytorch_over_its_whole_range(dtype, approximate):
    x = np.concatenate([np.linspace(-12, 12, 40_001), [0.0, -0.0, 1e4, -1e4]]).astype(dtype)
    ours, theirs = both(x)
    y, t = gelu(ours, approximate=approximate), F.gelu(theirs, approximate=approximate)
    atol = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=2e-6 if dtype == np.float32 else 1e-13, atol=atol)
    finite = slice(0, 40_003)
    y.backward(np.ones_like(x))
    t.sum().backward()
    np.testing.assert_allclose(ours.grad[finite], theirs.grad.numpy()[finite], rtol=1e-5, atol=atol)
    assert y.dtype == dtype


def test_gelu_equals_its_unfused_twin():
    x, twin = leaf(0, 40), leaf(0, 40)
    y = gelu(x, approximate="tanh")
    u = 0.5 * twin * (1 + ((2 / np.pi) ** 0.5 * (twin + 0.044715 * twin**3)).tanh())
    for z in (y, u):
        z.sum().backward()
    np.testing.assert_allclose(y.data, u.data, rtol=1e-12)
    np.testing.assert_allclose(x.grad, twin.grad, rtol=1e-10)


def spread(kind):
    """Numbers of one shape, (6, 4, 5, 7), that lie in memory in different ways."""
    x = numbers(0, 6, 4, 5, 7)
    return {
        "plain": lambda: x,
        "channels last": lambda: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "transposed": lambda: numbers(0, 7, 5, 4, 6).T,
        "broadcast": lambda: np.broadcast_to(x[:, :1, :, :1], x.shape),
        "one number": lambda: np.broadcast_to(np.array(0.3), x.shape),
        "sliced": lambda: numbers(0, 12, 4, 5, 22)[::2, :, :, 1::3],
        "reversed": lambda: x[::-1, :, ::-1, ::-1],
        "channels last, reversed": lambda: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)[:, ::-1],
        "a row of ones": lambda: x.reshape(6, 1, 20, 7, 1)[:, :, :, :, 0],
        "empty": lambda: x[:, :0], "no axes": lambda: x[0, 0, 0, 0],
    }[kind]()


KINDS_OF_MEMORY = ["plain", "channels last", "transposed", "broadcast", "one number", "sliced", "reversed",
                   "channels last, reversed", "a row of ones", "empty", "no axes"]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("upstream_too", [True, False])
@pytest.mark.parametrize("kind", KINDS_OF_MEMORY)
def test_gelu_does_not_depend_on_how_its_input_lies_in_memory(kind, upstream_too, approximate, monkeypatch):
    """In pieces of 100 numbers on two threads, so that a wrong order would show."""
    monkeypatch.setattr(mlp, "_PIECE", 100)
    shared_out = []

    def parallel_for(function, count, least=1):
        shared_out.append(count)
        half = threading.Thread(target=function, args=(count // 2, count))
        half.start()
        function(0, count // 2)
        half.join()

    monkeypatch.setattr(mlp, "parallel_for", parallel_for)
    x = np.asarray(spread(kind))
    before, upstream = x.copy(), x + 1 if upstream_too else np.ones(x.shape)
    ours, theirs = Tensor(x, requires_grad=True, copy=False), torch.tensor(x.copy(), requires_grad=True)
    assert np.shares_memory(ours.data, x) or not x.size
    y, t = gelu(ours, approximate=approximate), F.gelu(theirs, approximate=approximate)
    y.backward(upstream)
    t.backward(torch.tensor(np.array(upstream)))
    assert y.shape == x.shape and y.dtype == np.float64 and shared_out == [x.size]
    np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(x, before)


def test_gelu_keeps_the_order_in_memory_so_that_a_convolution_after_it_need_not_copy():
    x = np.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2)
    assert gelu(Tensor(x, copy=False)).data.strides == x.strides


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_gelu_takes_integers_as_float32(dtype):
    x = np.array([[0, 1, 3], [1, 0, 2]]).astype(dtype)
    y = gelu(Tensor(x))
    assert y.dtype == np.float32
    agree(y.data, F.gelu(torch.tensor(x.astype(np.float32))), rtol=1e-6)


@given(st.integers(1, 6), st.integers(1, 7), st.sampled_from(["mean", "sum", "none"]), st.sampled_from([0.0, 0.1, 1.0]),
       st.sampled_from([(), (2,), (3, 2)]), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_cross_entropy_equals_pytorch(n, classes, reduction, smoothing, places, ignore, seed):
    rng = np.random.default_rng(seed)
    logits, target = 5 * rng.standard_normal((n, classes, *places)), rng.integers(0, classes, (n, *places))
    if ignore:
        target[0] = -7
    ours, theirs = both(logits)
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": -7}
    y, t = cross_entropy(ours, target, **options), F.cross_entropy(theirs, torch.tensor(target), **options)
    y.sum().backward()
    t.sum().backward()
    np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_cross_entropy_equals_its_unfused_twin_and_the_famous_formula():
    logits, target = numbers(0, 6, 4), np.array([0, 3, 1, 1, 2, 0])
    fused, twin = leaf_of(logits), leaf_of(logits)
    y = cross_entropy(fused, target)
    u = -(log_softmax(twin, dim=1)[np.arange(6), target]).mean()
    y.backward()
    u.backward()
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(y.item(), u.item(), rtol=1e-12)
    np.testing.assert_allclose(fused.grad, twin.grad, rtol=1e-10)
    np.testing.assert_allclose(fused.grad, (softmax - np.eye(4)[target]) / 6, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_losses_survive_huge_logits(scale):
    z = np.array([[scale, -scale, 0.0], [-scale, scale, 0.0]], np.float32)
    ours = leaf_of(z)
    loss = cross_entropy(ours, np.array([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(scale, rel=1e-6) and np.isfinite(ours.grad).all()
    ours = leaf_of(z)
    loss = binary_cross_entropy_with_logits(ours, np.zeros_like(z))
    loss.backward()
    assert loss.item() == pytest.approx((2 * scale + 2 * np.log(2)) / 6, rel=1e-5) and np.isfinite(ours.grad).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_regression_and_binary_losses_equal_pytorch_and_their_twins(reduction):
    z, y = numbers(0, 5, 3), np.random.default_rng(1).random((5, 3))
    for ours_f, theirs_f, twin in (
        (mse_loss, F.mse_loss, lambda a, b: (a - b) ** 2),
        (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits,
         lambda a, b: -(a.sigmoid().log() * b) - (1 - a.sigmoid()).log() * (1 - b)),
    ):
        (a, ta), (b, tb), (c, d) = both(z), both(y), (leaf_of(z), leaf_of(y))
        ours, theirs = ours_f(a, b, reduction=reduction), theirs_f(ta, tb, reduction=reduction)
        unfused = twin(c, d)
        unfused = unfused if reduction == "none" else getattr(unfused, reduction)()
        for loss in (ours, theirs, unfused):
            loss.sum().backward()
        agree(ours.data, theirs)
        np.testing.assert_allclose(ours.data, unfused.data, rtol=1e-9)
        for x, t, u in ((a, ta, c), (b, tb, d)):
            agree(x.grad, t.grad)
            np.testing.assert_allclose(x.grad, u.grad, rtol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_modules_equal_those_of_pytorch(reduction):
    z, t, classes = numbers(0, 5, 3), np.random.default_rng(1).uniform(size=(5, 3)), np.array([0, 2, 1, 1, 2])
    for name, target, options in (("MSELoss", t, {}), ("BCEWithLogitsLoss", t, {}), ("CrossEntropyLoss", classes, {}),
                                  ("CrossEntropyLoss", classes, {"ignore_index": 1, "label_smoothing": 0.2})):
        ours = getattr(nn, name)(reduction=reduction, **options)(Tensor(z), target)
        theirs = getattr(torch.nn, name)(reduction=reduction, **options)(torch.tensor(z), torch.tensor(target))
        agree(ours.data, theirs)


def test_activation_modules_equal_pytorch():
    x = numbers(0, 50, dtype=np.float32)
    for ours, theirs in ((nn.ReLU(), torch.nn.ReLU()), (nn.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
                         (nn.Tanh(), torch.nn.Tanh()), (nn.Sigmoid(), torch.nn.Sigmoid()), (nn.GELU(), torch.nn.GELU()),
                         (nn.GELU("tanh"), torch.nn.GELU("tanh"))):
        agree(ours(Tensor(x)).data, theirs(torch.tensor(x)), rtol=1e-5, atol=1e-6)
    for name in ("relu", "tanh", "sigmoid", "gelu", "leaky_relu"):
        agree(getattr(functional, name)(Tensor(x)).data, getattr(F, name)(torch.tensor(x)), rtol=1e-5, atol=1e-6)


def test_dropout_shows_its_probability():
    assert "p=0.3" in repr(Dropout(0.3))


def test_dropout_keeps_the_mean_drops_the_share_and_rests_in_evaluation():
    x = Tensor(np.ones((400, 500), np.float32), requires_grad=True)
    y = dropout(x, 0.3, generator=np.random.default_rng(0))
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.7)}
    assert np.mean(y.data == 0) == pytest.approx(0.3, abs=0.005) and y.data.mean() == pytest.approx(1, abs=0.01)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)  # what was dropped gets no gradient
    assert dropout(x, 0.0) is x and dropout(x, 0.3, training=False) is x
    assert not dropout(x, 1.0).data.any()
    layer = Dropout(0.5)
    assert (layer(x).data == 0).any() and layer.eval()(x) is x
    for bad in (-0.1, 1.5):
        with pytest.raises(ValueError, match="probability"):
            Dropout(bad)


def test_nothing_in_a_training_step_is_float64():
    ours, _ = small_net()
    optimizer = AdamW(ours.parameters(), weight_decay=0.1)
    loss = cross_entropy(ours(Tensor(numbers(0, 4, 7, dtype=np.float32))), np.array([0, 1, 2, 0]), label_smoothing=0.1)
    nodes, found = [loss._node], set()
    while nodes:
        node = nodes.pop()
        found.add(node.dtype)
        nodes += node.parents
    loss.backward()
    clip_grad_norm_(ours.parameters(), np.float64(0.1))
    optimizer.step()
    for p in ours.parameters():
        found |= {p.dtype, p.grad.dtype, *(a.dtype for a in optimizer.state[p].values() if isinstance(a, np.ndarray))}
    assert found == {np.dtype("float32")}


# ---- layers and initialisation ----


def test_linear_starts_as_in_pytorch_and_is_seeded():
    manual_seed(3)
    layer, again = Linear(400, 300), Linear(400, 300, generator=np.random.default_rng(1))
    bound = 1 / 20
    for values in (layer.weight.data, layer.bias.data):
        assert np.abs(values).max() <= bound and values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    theirs = torch.nn.Linear(400, 300)
    assert theirs.weight.abs().max().item() <= float(np.float32(bound)) and theirs.weight.shape == layer.weight.shape
    manual_seed(3)
    np.testing.assert_array_equal(layer.weight.data, Linear(400, 300).weight.data)
    np.testing.assert_array_equal(again.weight.data, Linear(400, 300, generator=np.random.default_rng(1)).weight.data)
    assert repr(layer) == repr(theirs) and Linear(2, 3, bias=False).bias is None


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
@pytest.mark.parametrize("shape", [(300, 500), (64, 32, 3, 5)])
def test_initialisations_have_the_spread_of_pytorch(name, shape):
    ours, theirs = Parameter(np.empty(shape, np.float32)), torch.empty(shape)
    options = {"nonlinearity": "relu", "mode": "fan_out"} if "kaiming" in name else {"gain": 2.0}
    torch.manual_seed(0)
    assert getattr(nn.init, name)(ours, **options, generator=np.random.default_rng(0)) is ours
    getattr(torch.nn.init, name)(theirs, **options)
    assert ours.data.std() == pytest.approx(theirs.std().item(), rel=0.02)
    assert abs(ours.data.mean()) < 0.02 * ours.data.std()
    if "uniform" in name:
        assert np.abs(ours.data).max() == pytest.approx(theirs.abs().max().item(), rel=0.01)


def test_a_tensor_is_filled_with_one_number_and_keeps_its_type():
    for name, arguments, expected in (("constant_", (2.5,), 2.5), ("zeros_", (), 0.0), ("ones_", (), 1.0)):
        tensor = Tensor(np.full((2, 3), 7.0, np.float32))
        assert getattr(nn.init, name)(tensor, *arguments) is tensor and tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor.data, np.full((2, 3), expected))


def test_gains_are_those_of_pytorch():
    for name in ("linear", "sigmoid", "tanh", "relu", "leaky_relu"):
        assert mlp.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert mlp.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))
    with pytest.raises(ValueError, match="expected one of"):
        mlp.calculate_gain("bend")
    with pytest.raises(ValueError, match="at least two dimensions"):
        mlp.xavier_normal_(Parameter(np.ones(3)))


def test_containers_name_their_parts_as_pytorch_does():
    def build(lib):
        class Net(lib.Module):
            def __init__(self):
                super().__init__()
                self.blocks = lib.ModuleList([lib.Linear(4, 4) for _ in range(2)])
                self.parts = lib.ModuleDict({"head": lib.Sequential(lib.ReLU(), lib.Linear(4, 2, bias=False))})

            def forward(self, x):
                for block in self.blocks:
                    x = block(x)
                return self.parts.head(x)

        return Net()

    ours, theirs = build(nn), build(torch.nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
    x = numbers(0, 3, 4, dtype=np.float32)
    agree(ours(Tensor(x)).data, theirs(torch.tensor(x)), rtol=1e-5)
    with pytest.raises(AttributeError, match="no part 'tail'"):
        _ = ours.parts.tail
    net = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    assert len(net) == 3 and isinstance(net[1], ReLU) and list(net[1:].state_dict()) == ["1.weight", "1.bias"]
    assert list(Sequential({"a": Linear(1, 1)}).state_dict()) == ["a.weight", "a.bias"]
    with pytest.raises(TypeError, match="part 1 is a builtin_function_or_method"):
        Sequential(ReLU(), len)


def test_a_parameter_is_found_and_a_plain_tensor_is_not():
    class Holder(nn.Module):
        def __init__(self):
            self.trained, self.fixed = Parameter([1.0, 2.0]), Tensor([3.0])

    assert [name for name, _ in Holder().named_parameters()] == ["trained"]
    array = np.ones((2, 3), np.float32)
    assert np.shares_memory(Parameter(array).data, array) and Parameter(array).requires_grad
    assert Parameter(array.T).data.flags.c_contiguous and Parameter(np.float32(2)).shape == ()


# ---- optimisers, schedules, clipping ----

OPTIMISERS = {
    "SGD": ({"lr": 0.05},),
    "SGD momentum": ({"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},),
    "SGD nesterov": ({"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},),
    "RMSprop": ({"lr": 0.01, "alpha": 0.9},),
    "RMSprop momentum": ({"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1, "eps": 1e-3},),
    "Adam": ({"lr": 0.01},),
    "Adam decay": ({"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-4},),
    "AdamW": ({"lr": 0.01, "weight_decay": 0.3},),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_twenty_steps_equal_those_of_pytorch(name, dtype, monkeypatch):
    """On a small regression, two groups with different rates; pieces of 7 numbers so that several are needed."""
    monkeypatch.setattr(mlp, "_PIECE", 7)
    (settings,) = OPTIMISERS[name]
    kind = name.split()[0]
    arrays = [numbers(0, 6, 5, dtype=dtype), numbers(1, 5, dtype=dtype)]
    x, y = numbers(2, 9, 6, dtype=dtype), numbers(3, 9, 5, dtype=dtype)
    ours, theirs = [Parameter(a.copy()) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    ours[0].data = np.asfortranarray(ours[0].data)  # however its numbers lie
    groups = [[{"params": [ps[0]]}, {"params": [ps[1]], "lr": 0.02}] for ps in (ours, theirs)]
    steps = getattr(optim, kind)(groups[0], **settings), getattr(torch.optim, kind)(groups[1], **settings)
    unused = Parameter(np.ones(3, dtype))
    steps[0].add_param_group({"params": [unused]})
    for _ in range(20):
        for optimizer, (w, b), lib in ((steps[0], ours, None), (steps[1], theirs, torch)):
            wrap = lib.tensor if lib else Tensor
            optimizer.zero_grad()
            ((wrap(x) @ w + b - wrap(y)) ** 2).mean().backward()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-6, atol=1e-6 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(unused.data, np.ones(3))
    assert unused not in steps[0].state


def test_a_step_of_adam_needs_no_array_of_the_size_of_the_model():
    import tracemalloc

    p = Parameter(np.ones((1000, 1000), np.float32))
    p.grad = np.full((1000, 1000), 0.1, np.float32)
    for optimizer in (Adam([p]), AdamW([p], weight_decay=0.1), RMSprop([p], weight_decay=0.1)):
        optimizer.step()
        tracemalloc.start()
        optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < p.data.nbytes / 10


def test_parameters_of_any_size_and_order_move_as_they_would_alone():
    """They share one piece of working memory, which grows where a larger one follows."""
    sizes = (3, 500, 20)
    together, alone = [[Parameter(numbers(i, n)) for i, n in enumerate(sizes)] for _ in range(2)]
    optimizers = [Adam(together, lr=0.1), *(Adam([p], lr=0.1) for p in alone)]
    for _ in range(3):
        for p in (*together, *alone):
            p.grad = np.sin(p.data)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_optimisers_take_columns_and_numbers_and_refuse_nonsense():
    p = Parameter(np.ones((3, 4), np.float32))
    p.data, q = np.ones((4, 3), np.float32).T, Parameter(np.float32(1))
    p.grad, q.grad = np.ones((4, 3), np.float32).T, np.ones((), np.float32)
    Adam([p, q], lr=0.5).step()
    np.testing.assert_allclose(p.data, 0.5, rtol=1e-6)
    assert q.item() == pytest.approx(0.5)
    for kind in (Adam, AdamW, RMSprop, SGD):
        with pytest.raises(ValueError, match=f"{kind.__name__}: lr must be at least 0, got -1"):
            kind([p], lr=-1.0)
    with pytest.raises(ValueError, match="betas"):
        Adam([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="alpha"):
        RMSprop([p], alpha=1.0)


SCHEDULES = {
    "StepLR": {"step_size": 4, "gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 13, "eta_min": 0.01},
    "LinearLR": {"start_factor": 0.1, "end_factor": 0.8, "total_iters": 6},
    "LambdaLR": {"lr_lambda": lambda count: 0.9**count},
    "OneCycleLR": {"max_lr": 0.7, "total_steps": 25},
}


@pytest.mark.parametrize("name", [*SCHEDULES, "SequentialLR", "OneCycleLR momentum"])
def test_schedules_equal_those_of_pytorch(name):
    seen = []
    for lib, p in ((optim, Parameter([1.0])), (torch.optim, torch.nn.Parameter(torch.ones(1)))):
        kind = "SGD" if name.endswith("momentum") else "Adam"
        optimizer = getattr(lib, kind)([{"params": [p], "lr": 0.3}], **({"momentum": 0.9} if kind == "SGD" else {}))
        rules = lib.lr_scheduler
        if name == "SequentialLR":
            parts = [rules.LinearLR(optimizer, 0.1, total_iters=5), rules.CosineAnnealingLR(optimizer, 15)]
            scheduler = rules.SequentialLR(optimizer, parts, milestones=[5])
        else:
            scheduler = getattr(rules, name.split()[0])(optimizer, **SCHEDULES[name.split()[0]])
        values = []
        for _ in range(20):
            group = optimizer.param_groups[0]
            values.append((group["lr"], group.get("momentum", 0), *group.get("betas", ())))
            assert scheduler.get_last_lr() == [group["lr"]]
            p.grad = torch.ones(1) if lib is torch.optim else np.ones(1, np.float32)
            optimizer.step()
            scheduler.step()
        seen.append(values)
    np.testing.assert_allclose(*seen, rtol=1e-9, atol=1e-12)


def test_a_cycle_ends_and_a_schedule_goes_on_where_it_stood():
    optimizer = Adam([Parameter([1.0])], lr=0.1)
    with pytest.raises(ValueError, match="expected total_steps"):
        mlp.OneCycleLR(optimizer, 0.1)
    with pytest.raises(ValueError, match="momentum"):
        mlp.OneCycleLR(SGD([Parameter([1.0])]), 0.1, total_steps=5)
    assert mlp.OneCycleLR(Adam([Parameter([1.0])]), 0.1, epochs=5, steps_per_epoch=4).total_steps == 20
    scheduler = mlp.OneCycleLR(optimizer, 0.1, total_steps=5)
    for _ in range(5):
        scheduler.step()
    with pytest.raises(ValueError, match="5 steps"):
        scheduler.step()
    first = mlp.CosineAnnealingLR(Adam([Parameter([1.0])], lr=0.4), 10)
    for _ in range(3):
        first.step()
    other = mlp.CosineAnnealingLR(Adam([Parameter([1.0])], lr=0.4), 10)
    other.load_state_dict(first.state_dict())
    assert other.get_last_lr() == first.get_last_lr()


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_equals_pytorch(max_norm):
    ours, theirs = small_net()
    x, y = numbers(0, 4, 7, dtype=np.float32), np.array([0, 1, 2, 0])
    cross_entropy(ours(Tensor(x)), y).backward()
    F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).backward()
    ours_norm = clip_grad_norm_(ours.parameters(), max_norm)
    assert ours_norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm).item(), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        agree(a.grad, b.grad, rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="at least 0"):
        clip_grad_norm_(ours.parameters(), -1)
    next(ours.parameters()).grad[0, 0] = np.nan
    with pytest.raises(RuntimeError, match="nan"):
        clip_grad_norm_(ours.parameters(), 1.0, error_if_nonfinite=True)


# ---- data ----


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_a_loader_shows_every_row_once_and_keeps_or_drops_the_rest(drop_last, sizes):
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    loader = DataLoader((x, y), 4, shuffle=True, drop_last=drop_last, generator=0)
    epochs = [[(a.data, b.data) for a, b in loader] for _ in range(2)]
    for batches in epochs:
        assert [len(a) for a, _ in batches] == sizes == [len(b) for _, b in batches] and len(loader) == len(sizes)
        rows = np.concatenate([b for _, b in batches])
        assert len(set(rows)) == len(rows)
        np.testing.assert_array_equal(np.concatenate([a for a, _ in batches]), x[rows])
    assert not np.array_equal(epochs[0][0][1], epochs[1][0][1])
    again = next(iter(DataLoader((x, y), 4, shuffle=True, generator=0)))
    np.testing.assert_array_equal(epochs[0][0][1], again[1].data)
    assert [b.tolist() for _, b in DataLoader((x, y), 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_loader_takes_any_data_set_and_a_transform():
    items = [(np.full(3, i), i) for i in range(5)]
    loader = DataLoader(items, 2, transform=lambda x, y: (x / np.float32(2), y))
    first = next(iter(loader))
    np.testing.assert_array_equal(first[0].data, [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert [len(y) for _, y in loader] == [2, 2, 1] and all(isinstance(part, Tensor) for part in first)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: DataLoader((np.zeros((0, 3)), np.zeros(0)), 2), "empty"),
    (lambda: DataLoader((np.zeros(3),), 0), "batch_size"),
    (lambda: TensorDataset(np.zeros(3), np.zeros(4)), "one length"),
    (lambda: TensorDataset(), "one length"),
])
def test_bad_data_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_shifted_pictures_are_the_same_pictures_elsewhere():
    pictures = np.zeros((200, 5, 6), np.uint8)
    pictures[:, 2, 3] = 7
    moved = mlp.random_shift(pictures, np.random.default_rng(0))
    places = {tuple(place[1:]) for place in np.argwhere(moved)}
    assert places == {(i, j) for i in (1, 2, 3) for j in (2, 3, 4)} and moved.dtype == np.uint8
    assert (moved.sum((1, 2)) == 7).all() and moved.shape == pictures.shape


# ---- bad input of losses and layers ----


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: cross_entropy(np.zeros((2, 3)), np.array([0, 3])), ValueError, "target 3 at row 1 is no class"),
    (lambda: cross_entropy(np.zeros((2, 3)), np.array([-1, 0])), ValueError, "target -1 at row 0"),
    (lambda: cross_entropy(np.zeros((2, 3)), np.array([0, 1, 2])), ValueError, r"\(2, 3\) and targets \(3,\)"),
    (lambda: cross_entropy(np.zeros((2, 3)), np.array([0.0, 1.0])), TypeError, "float64"),
    (lambda: cross_entropy(np.zeros((2, 3)), np.array([0, 1]), reduction="median"), ValueError, "median"),
    (lambda: mse_loss(np.zeros((4, 1)), np.zeros(4)), ValueError, r"\(4, 1\) and target \(4,\)"),
    (lambda: mse_loss(np.zeros(4), np.zeros(4), reduction="median"), ValueError, "median"),
    (lambda: binary_cross_entropy_with_logits(np.zeros(2), np.array([0.0, 2.0])), ValueError, "0 to 1"),
    (lambda: linear(np.zeros((4, 3)), np.zeros((5, 2))), ValueError, r"\(4, 3\) and weight \(5, 2\)"),
    (lambda: linear(np.zeros((4, 3)), np.zeros((5, 3)), np.zeros(3)), ValueError, r"bias \(3,\)"),
    (lambda: Linear(0, 3), ValueError, "at least 1"),
    (lambda: gelu(np.zeros(3), approximate="erf"), ValueError, "erf"),
    (lambda: dropout(np.zeros(3), 1.5), ValueError, "from 0 to 1, got 1.5"),
    (lambda: mlp.kaiming_normal_(Tensor(np.zeros((2, 3))), mode="fan_both"), ValueError, "fan_both"),
    (lambda: mlp.LRScheduler(Adam([Parameter([1.0])])), NotImplementedError, "LRScheduler: it has no method rate"),
    (lambda: mlp.SequentialLR(Adam([Parameter([1.0])]), [None] * 2, [3, 5]), ValueError, "2 schedulers need 1 milestones"),
])
def test_bad_input_is_explained(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- files ----

KINDS = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]


def test_what_is_saved_is_loaded_and_safetensors_reads_it(tmp_path):
    numpy_reader = pytest.importorskip("safetensors.numpy", reason="reads the same files")
    state = {f"{kind}.{i}": (10 * numbers(i, *shape)).astype(kind)
             for i, kind in enumerate(KINDS) for shape in [(3, 2), (), (0, 4)][i % 3 : i % 3 + 1]}
    state["transposed"] = numbers(0, 4, 3).T
    state["big endian"] = numbers(0, 4).astype(">f8")
    path = tmp_path / "x.safetensors"
    save(state, path, {"note": "grüße"})
    ours, theirs = load(path), numpy_reader.load_file(path)
    assert set(ours) == set(state) == set(theirs) and load_metadata(path) == {"note": "grüße"}
    for name, array in state.items():
        for read in (ours[name], theirs[name]):
            assert read.shape == array.shape and read.dtype == array.dtype.newbyteorder("=")
            np.testing.assert_array_equal(read, array)
    ours["float64.0"][...] = 1  # what is loaded may be written to
    numpy_reader.save_file({"a": numbers(0, 3, 2), "b": np.arange(5)}, tmp_path / "y.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "y.safetensors")["a"], numbers(0, 3, 2))
    assert load_metadata(tmp_path / "y.safetensors") == {}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_state_dict_moves_to_pytorch_and_back(tmp_path):
    files = pytest.importorskip("safetensors.torch", reason="PyTorch's reader and writer of these files")
    ours, theirs = small_net()
    x = numbers(0, 4, 7, dtype=np.float32)
    save(ours.state_dict(), tmp_path / "ours.safetensors")
    fresh = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    before = fresh(torch.tensor(x))
    fresh.load_state_dict(files.load_file(tmp_path / "ours.safetensors"))
    agree(ours(Tensor(x)).data, fresh(torch.tensor(x)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, fresh(torch.tensor(x)))
    torch.manual_seed(1)
    for layer in (theirs[0], theirs[2]):
        torch.nn.init.normal_(layer.weight)
    files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load_state_dict(load(tmp_path / "theirs.safetensors"))
    agree(ours(Tensor(x)).data, theirs(torch.tensor(x)), rtol=1e-5, atol=1e-6)
    half = {name: value.to(torch.bfloat16) for name, value in theirs.state_dict().items()}
    files.save_file(half, tmp_path / "half.safetensors")
    for name, array in load(tmp_path / "half.safetensors").items():
        np.testing.assert_array_equal(array, half[name].float().numpy())
    with pytest.raises(ValueError, match=r"missing: 2\.weight, 2\.bias"):
        ours.load_state_dict({name: a for name, a in load(tmp_path / "ours.safetensors").items() if name[0] == "0"})


def good_file():
    """The bytes of a small file."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(text)) + text + np.ones(2, "<f4").tobytes()


def changed(**entry):
    """A small file whose one array is described otherwise."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    return struct.pack("<Q", len(text)) + text + np.ones(2, "<f4").tobytes()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "truncated"),
    (good_file()[:5], "truncated"),
    (good_file()[:30], "truncated"),
    (good_file()[:-1], "truncated"),
    (good_file() + b"x", "too long"),
    (b"PK\x03\x04 not a file of this kind at all, but long enough to have a header", "no .safetensors file"),
    (struct.pack("<Q", 4) + b"nope" + bytes(20), "header cannot be read"),
    (struct.pack("<Q", 2) + b"[]" + bytes(20), "header cannot be read"),
    (changed(data_offsets=[0]), "overlap|header|describes|cannot be read"),
    (changed(data_offsets=[4, 8]), "gaps"),
    (changed(shape=[3]), "a of shape"),
    (changed(shape=[-2]), "a of shape"),
    (changed(shape="x"), "a of shape"),
    (changed(dtype="F8_E4M3"), "F8_E4M3"),
    (changed(dtype=None), "None"),
], ids=range(15))
def test_damaged_and_foreign_files_are_refused(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load(path)
    path.write_bytes(good_file())
    np.testing.assert_array_equal(load(path)["a"], [1, 1])


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save({"a": np.ones(3)}, path)

    def interrupted(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlp.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save({"a": np.zeros(3)}, path)
    np.testing.assert_array_equal(load(path)["a"], np.ones(3))
    for bad in ({"a": np.array(["x"])}, {1: np.ones(2)}, {"__metadata__": np.ones(2)}):
        with pytest.raises(TypeError, match="cannot hold"):
            save(bad, path)
    with pytest.raises(TypeError, match="texts"):
        save({"a": np.ones(2)}, path, {"a": 1})


# ---- the training loop ----


def task(rows=60, seed=0):
    """Points of three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    return (rng.standard_normal((rows, 4)) + 2 * np.eye(3, 4)[y]).astype(np.float32), y


def new_run(folder=None, seed=0, **options):
    """A trainer with dropout, a schedule, momentum and a shuffled loader: everything that has a state."""
    manual_seed(seed)
    model = Sequential(Linear(4, 16), ReLU(), Dropout(0.3), Linear(16, 3))
    optimizer = AdamW(model.parameters(), lr=0.02)
    scheduler = mlp.OneCycleLR(optimizer, 0.02, total_steps=200)
    trainer = Trainer(model, optimizer, metrics={"accuracy": mlp.accuracy}, scheduler=scheduler, schedule="batch",
                      folder=folder, **options)
    return trainer, DataLoader(task(), 16, shuffle=True, generator=seed), DataLoader(task(seed=1), 16)


def test_training_learns_records_and_keeps_the_best(tmp_path):
    trainer, train, validation = new_run(tmp_path)
    history = trainer.fit(train, validation, epochs=12)
    assert trainer.step == len(history.losses) == 12 * len(train) and len(history.epochs) == 12
    assert history.epochs[-1]["val_accuracy"] > 0.8 and history.column("train_loss")[-1] < history.column("train_loss")[0]
    best = history.column("val_loss").argmin()
    assert trainer.best_epoch == best + 1 and trainer.best_loss == history.column("val_loss")[best]
    trainer.restore_best()
    assert trainer.evaluate(validation)["loss"] == pytest.approx(trainer.best_loss, rel=1e-6)
    assert set(load(tmp_path / "best.safetensors")) == set(trainer.model.state_dict())
    assert trainer.model.training


def test_evaluation_weighs_a_small_last_batch_by_its_size():
    trainer, _, _ = new_run()
    x, y = task(rows=33)
    parts, whole = trainer.evaluate(DataLoader((x, y), 16)), trainer.evaluate(DataLoader((x, y), 33))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert parts["accuracy"] == pytest.approx(whole["accuracy"])


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_an_interrupted_run_resumes_to_the_same_parameters(tmp_path, on_disk, stop_at):
    whole, train, validation = new_run(tmp_path / "whole" if on_disk else None)
    whole.fit(train, validation, epochs=5)

    def interrupt(trainer):
        if trainer.step == stop_at:
            raise KeyboardInterrupt

    trainer, train, validation = new_run(tmp_path / "broken" if on_disk else None, on_step=interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train, validation, epochs=5)
    if on_disk and stop_at > len(train):  # a new process knows nothing of the first
        trainer, train, validation = new_run(tmp_path / "broken", seed=5)
    trainer.on_step = None
    assert trainer.resume()
    assert trainer.epoch == (stop_at - 1) // len(train) and trainer.step == trainer.epoch * len(train)
    trainer.fit(train, validation, epochs=5)
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(array, trainer.model.state_dict()[name], err_msg=name)
    assert trainer.history.losses == whole.history.losses and trainer.history.epochs == whole.history.epochs
    assert (trainer.best_epoch, trainer.best_loss) == (whole.best_epoch, whole.best_loss)


def test_there_may_be_nothing_to_resume(tmp_path):
    assert new_run(tmp_path)[0].resume() is False and new_run()[0].resume() is False
    save({"a": np.ones(2)}, tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match="no run to resume"):
        new_run(tmp_path)[0].resume()


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("bad_epoch", [1, 3])
def test_nan_stops_with_step_and_batch_and_keeps_the_last_good_state(tmp_path, on_disk, bad_epoch):
    trainer, train, _ = new_run(tmp_path if on_disk else None)
    good = []
    trainer.on_epoch = lambda t: good.append(t.model.state_dict())
    good.append(trainer.model.state_dict())
    seen = []

    def poisoned(x, y):
        seen.append(1)
        return (x * np.float32(np.nan) if len(seen) == (bad_epoch - 1) * 4 + 3 else x), y

    train.transform = poisoned
    with pytest.raises(TrainingDiverged, match=f"loss is nan at step {len(seen) or (bad_epoch - 1) * 4 + 2}, batch 2") as caught:
        trainer.fit(train, epochs=5)
    error = caught.value
    assert (error.epoch, error.step, error.batch_number) == (bad_epoch, (bad_epoch - 1) * 4 + 2, 2)
    assert np.isnan(error.batch[0].data).all()
    for name, array in good[-1].items():
        np.testing.assert_array_equal(trainer.model.state_dict()[name], array)
    assert trainer.epoch == bad_epoch - 1 and len(trainer.history.losses) == (bad_epoch - 1) * 4 + 2
    if on_disk and bad_epoch > 1:
        assert np.isfinite(load(tmp_path / "best.safetensors")["0.weight"]).all()
    train.transform = None
    trainer.fit(train, epochs=5)
    assert trainer.epoch == 5


def test_parameters_that_the_last_step_spoils_are_not_kept(tmp_path):
    trainer, train, _ = new_run(tmp_path)
    trainer.fit(train, epochs=1)
    before = (tmp_path / "last.safetensors").read_bytes()

    def spoil(t):
        if t.step == 8:
            t.model[0].weight.data[0, 0] = np.inf

    trainer.on_step = spoil
    with pytest.raises(TrainingDiverged, match=r"0\.weight is no longer finite after epoch 2, step 8"):
        trainer.fit(train, epochs=2)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert np.isfinite(trainer.model[0].weight.data).all()


def test_early_stopping_waits_as_long_as_it_was_told():
    trainer, train, _ = new_run(patience=3)
    losses = iter([5.0, 4.0, 4.5, 4.2, 4.0, 3.0, 9.0])
    trainer.evaluate = lambda batches: {"loss": next(losses)}
    trainer.fit(train, [1], epochs=20)
    assert (trainer.epoch, trainer.best_epoch, trainer.best_loss, trainer.stopped_early) == (5, 2, 4.0, True)
    trainer.fit(train, [1], epochs=30)
    assert trainer.epoch == 5
    with pytest.raises(ValueError, match="validation"):
        new_run(patience=3)[0].fit(train, epochs=2)


def test_the_loop_refuses_what_cannot_be_trained_on():
    trainer = new_run()[0]
    with pytest.raises(ValueError, match="no batches"):
        trainer.fit([], epochs=1)
    with pytest.raises(ValueError, match="no batches"):
        trainer.evaluate(DataLoader(task(5), 16, drop_last=True))
    with pytest.raises(ValueError, match="schedule"):
        Trainer(trainer.model, trainer.optimizer, schedule="year")
    with pytest.raises(ValueError, match="none is the best"):
        trainer.restore_best()
    with pytest.raises(ValueError, match="no batches"):
        mlp.lr_range_test(trainer.model, trainer.optimizer, [])


def test_a_schedule_by_epochs_moves_once_an_epoch():
    trainer, train, _ = new_run()
    trainer.scheduler, trainer.schedule = mlp.StepLR(trainer.optimizer, 1, gamma=0.5), "epoch"
    start = trainer.optimizer.param_groups[0]["lr"]
    trainer.fit(train, epochs=3)
    assert [record["lr"] for record in trainer.history.epochs] == pytest.approx([start, start / 2, start / 4])


def test_progress_callbacks_and_clipping_are_called():
    calls = []

    def progress(batches, desc):
        calls.append(desc)
        return batches

    trainer, train, _ = new_run(max_norm=0.01, progress=progress, on_epoch=lambda t: calls.append(t.epoch))
    trainer.fit(train, epochs=2)
    assert calls == ["epoch 1", 1, "epoch 2", 2] and len(trainer.history.norms) == trainer.step
    norm = sum(float((p.grad**2).sum()) for p in trainer.model.parameters()) ** 0.5
    assert norm == pytest.approx(0.01, rel=1e-3) and min(trainer.history.norms) > 0.01


def test_the_range_test_leaves_model_and_optimiser_as_they_were():
    trainer, train, _ = new_run()
    before, lr = trainer.model.state_dict(), trainer.optimizer.param_groups[0]["lr"]
    rates, losses = mlp.lr_range_test(trainer.model, trainer.optimizer, train, low=1e-4, high=100, steps=60)
    assert len(rates) == len(losses) <= 60 and losses.min() < losses[0] and rates[0] == pytest.approx(1e-4)
    np.testing.assert_allclose(rates[1:] / rates[:-1], (1e6) ** (1 / 59), rtol=1e-9)
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert trainer.optimizer.param_groups[0]["lr"] == lr and not trainer.optimizer.state


def test_a_history_draws_itself():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    trainer, train, validation = new_run()
    fig, axes = plt.subplots(1, 2)
    trainer.fit(train, validation, epochs=2).plot(axes)
    assert all(ax.has_data() and ax.get_xlabel() and ax.get_ylabel() for ax in axes)
    plt.close(fig)


def test_memory_does_not_grow_with_the_steps():
    import gc
    import tracemalloc

    trainer, train, _ = new_run()
    gc.disable()
    try:
        trainer.fit(train, epochs=3)
        tracemalloc.start()
        trainer.fit(train, epochs=5)
        early = tracemalloc.get_traced_memory()[0]
        trainer.fit(train, epochs=50)
        grown = (tracemalloc.get_traced_memory()[0] - early) / 45  # an epoch; one step's arrays take 5,000 bytes
        assert grown < 4_000  # the record alone grows
    finally:
        tracemalloc.stop()
        gc.enable()


def test_two_trainings_in_two_threads_do_not_meet():
    def train_one(seed, results):
        rng = np.random.default_rng(seed)
        model = Sequential(Linear(4, 8, generator=rng), ReLU(), Linear(8, 3, generator=rng))
        trainer = Trainer(model, Adam(model.parameters(), lr=0.01))
        trainer.fit(DataLoader(task(), 16, shuffle=True, generator=seed), epochs=4)
        results[seed] = model.state_dict()

    alone, together = {}, {}
    for seed in (0, 1):
        train_one(seed, alone)
    threads = [threading.Thread(target=train_one, args=(seed, together)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        for name, array in alone[seed].items():
            np.testing.assert_array_equal(array, together[seed][name])


# ---- whole models ----


def test_a_model_trains_as_in_pytorch():
    ours, theirs = small_net()
    steps = Adam(ours.parameters(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    x, y = numbers(0, 32, 7, dtype=np.float32), np.random.default_rng(1).integers(0, 3, 32)
    for _ in range(20):
        losses = cross_entropy(ours(Tensor(x)), y), F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        for optimizer, loss in zip(steps, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        agree(a.data, b, rtol=1e-3, atol=2e-5)


def stored(name):
    """The record beside stored weights."""
    return json.loads((CHAPTER / "checkpoints" / f"{name}.json").read_text())


def training_script():
    """The chapter's train.py as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_05", CHAPTER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stored_mnist_network_reaches_its_figure():
    """Measured anew on the official test set, which is embedded."""
    pytest.importorskip("tqdm", reason="the training script shows its progress")
    path, script, data = CHAPTER / "checkpoints" / "mnist_mlp.safetensors", training_script(), datasets.mnist_embedded()
    model = script.mnist_mlp().eval()
    model.load_state_dict(load(path))
    with no_grad():
        guess = model(Tensor(script.pixels(data.x_test, data.y_test)[0])).data.argmax(1)
    reached = np.mean(guess == data.y_test)
    assert reached >= 0.985 and reached == pytest.approx(stored("mnist_mlp")["figure"]["test_accuracy"], abs=2e-4)
    assert path.stat().st_size < 3_000_000
    assert {"data", "seed", "steps", "minutes", "curve", "figure"} <= set(stored("mnist_mlp"))


def test_the_stored_housing_network_is_as_good_as_the_line():
    assert stored("usa_housing_mlp")["figure"]["r2"] >= 0.9185


@pytest.mark.skipif(not datasets.is_cached("usa_housing"), reason="needs the usa_housing table in the cache")
def test_the_script_trains_resumes_and_writes(tmp_path):
    run = [sys.executable, str(CHAPTER / "train.py"), "usa_housing", "--epochs", "2", "--out", str(tmp_path), "--fresh",
           "--seed", "99"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    names = {f"{part}.{kind}" for part in ("line", "bend.0", "bend.2") for kind in ("weight", "bias")}
    assert set(load(tmp_path / "usa_housing_mlp.safetensors")) == names
    assert len(json.loads((tmp_path / "usa_housing_mlp.json").read_text())["curve"]["train_loss"]) == 2


def test_the_faces_offer_what_they_promise():
    for face in (nn, functional, optim):
        assert all(hasattr(face, name) for name in face.__all__)
    assert nn.functional is functional and nn.utils.clip_grad_norm_ is clip_grad_norm_
    assert optim.SGD is SGD and manual_seed(0) is default_generator()
