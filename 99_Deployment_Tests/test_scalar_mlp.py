"""Modules, optimisers, losses, data and diagnostics of chapter 03: on Values, and on arrays, as chapters 05 to 07 use them."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.checks import exercises, grade
from shared.scalar_autograd import Value
from shared.scalar_mlp import (
    MLP,
    SGD,
    Layer,
    Module,
    Neuron,
    Optimizer,
    activation_histogram,
    activation_statistics,
    binary_cross_entropy,
    clear_gradient,
    data_of,
    dead_units,
    gradient_norms,
    hinge,
    is_parameter,
    make_circles,
    make_moons,
    make_spirals,
    make_xor,
    minibatches,
    record_activations,
    squared_error,
    update_to_data_ratio,
)

CHAPTER = Path(__file__).resolve().parent.parent / "03_Scalar_MLP"


class Array:
    """A stand-in for a tensor: data and grad, but no parameter."""

    def __init__(self, data):
        self.data, self.grad = np.array(data, dtype=np.float32), None


class Weight(Array):
    """A stand-in for a parameter of tensors."""

    is_parameter = True


class Linear(Module):
    """A layer of arrays, as chapter 05 will write it."""

    def __init__(self, inputs, outputs, seed=0):
        rng = np.random.default_rng(seed)
        self.inputs, self.outputs = inputs, outputs
        self.weight = Weight(rng.normal(size=(outputs, inputs)))
        self.bias = Weight(np.zeros(outputs))

    def forward(self, x):
        return x @ self.weight.data.T + self.bias.data

    def extra_repr(self):
        return f"in_features={self.inputs}, out_features={self.outputs}, bias=True"


class Norm(Module):
    """Something with a parameter, buffers of every kind, and arrays that are neither."""

    def __init__(self, width):
        self.register_buffer("running_mean", np.zeros(width, np.float32))
        self.register_buffer("count", 0)
        self.register_buffer("mask", Array(np.tril(np.ones((2, 2)))))
        self.register_buffer("scratch", np.zeros(3), persistent=False)
        self.register_buffer("later", None)
        self.weight = Weight(np.ones(width))
        self.cached = Array([1.0, 2.0])
        self.table = np.ones(2)


class Net(Module):
    """Parts assigned before the module's own parameter, a list, a tuple, a dictionary, and a tied layer."""

    def __init__(self):
        self.stem = Linear(2, 3)
        self.blocks = [Linear(3, 3, seed=1), (Norm(3), Linear(3, 3, seed=2))]
        self.heads = {"left": Linear(3, 1), "right": Linear(3, 2)}
        self.scale = Weight(1.5)
        self.tied = self.stem
        self.nothing = None


# ---- Module: what is found, in which order, under which name ----


def test_names_and_order_are_pytorchs():
    names = [name for name, _ in Net().named_parameters()]
    assert names == [
        "scale", "stem.weight", "stem.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.0.weight",
        "blocks.1.1.weight", "blocks.1.1.bias", "heads.left.weight", "heads.left.bias", "heads.right.weight",
        "heads.right.bias",
    ]
    assert [name for name, _ in MLP(2, [2, 1], rng=0).named_parameters()][:4] == [
        "layers.0.neurons.0.weights.0", "layers.0.neurons.0.weights.1", "layers.0.neurons.0.bias",
        "layers.0.neurons.1.weights.0",
    ]


def test_tied_parameters_count_once_and_are_saved_under_both_names():
    net = Net()
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters())) == 12
    state = net.state_dict()
    assert {"stem.weight", "tied.weight"} <= set(state)
    doubled = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert doubled.count("tied.weight") == 1 and len(doubled) == 14
    assert [name for name, _ in net.named_children()] == [
        "stem", "blocks.0", "blocks.1.0", "blocks.1.1", "heads.left", "heads.right"]
    assert len(list(net.children())) == 6
    assert len(list(net.modules())) == 7
    assert dict(net.named_modules())["blocks.1.0"] is net.blocks[1][0]
    assert [name for name, _ in net.named_parameters(prefix="net", recurse=False)] == ["net.scale"]


def test_a_weight_shared_by_two_layers_counts_once():
    model = Module()
    model.embedding, model.inner, model.head = Linear(2, 3), Module(), Linear(2, 3, seed=1)
    model.head.weight = model.embedding.weight
    model.inner.again = model.embedding
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight", "embedding.bias", "head.bias"]
    assert [name for name, _ in model.named_modules()] == ["", "embedding", "inner", "head"]
    assert list(model.state_dict()) == [
        "embedding.weight", "embedding.bias", "inner.again.weight", "inner.again.bias", "head.weight", "head.bias"]
    assert len(SGD(model.parameters()).param_groups[0]["params"]) == 3


def test_what_is_no_parameter_is_not_found():
    norm = Norm(3)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert not is_parameter(norm.cached)
    assert not is_parameter(np.ones(2))
    assert not is_parameter(1.0)
    assert is_parameter(Value(1.0))
    assert is_parameter(norm.weight)
    assert data_of(2.5) == 2.5
    assert data_of(Value(2.5)) == 2.5
    assert data_of(norm.table) is norm.table


def test_a_value_assigned_anywhere_is_a_parameter():
    module = Module()
    module.a, module.deep = Value(1.0), [[Value(2.0)], {"x": (Value(3.0),)}]
    assert [(name, p.data) for name, p in module.named_parameters()] == [("a", 1.0), ("deep.0.0", 2.0), ("deep.1.x.0", 3.0)]


def test_buffers_are_saved_and_not_trained():
    norm = Norm(2)
    assert [name for name, _ in norm.named_buffers()] == ["running_mean", "count", "mask", "scratch"]
    assert len(list(norm.buffers())) == 4
    assert list(norm.state_dict()) == ["weight", "running_mean", "count", "mask"]
    norm.register_buffer("frozen", Value(2.0))
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert norm.state_dict()["frozen"] == 2.0
    norm.running_mean, norm.count, norm.later = norm.running_mean + 1, norm.count + 1, np.ones(2)
    state = norm.state_dict()
    assert state["running_mean"].tolist() == [1, 1]
    assert state["count"] == 1
    assert "later" in state
    other = Norm(2)
    other.load_state_dict(state, strict=False)
    assert other.running_mean.tolist() == [1, 1] and other.running_mean.dtype == np.float32
    assert other.count == 1 and isinstance(other.count, int)
    assert [name for name, _ in Module().named_buffers()] == [], "buffers of one module must not appear in another"


@pytest.mark.parametrize("name", ["", "a.b", 3, "weight", "training", "forward"])
def test_a_buffers_name_must_be_plain_and_free(name):
    with pytest.raises(ValueError, match="register_buffer"):
        Norm(2).register_buffer(name, np.ones(1))


# ---- state_dict ----


def test_state_dict_is_a_snapshot_and_a_round_trip():
    for make in (Net, lambda: MLP(2, [3, 1], rng=0)):
        first, second = make(), make()
        state = first.state_dict()
        kept = copy.deepcopy(state)
        for parameter in first.parameters():
            parameter.data += 1.0
        assert all(np.array_equal(state[name], value) for name, value in kept.items())
        assert not all(np.array_equal(first.state_dict()[name], value) for name, value in kept.items())
        second.load_state_dict(first.state_dict())
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert np.array_equal(a.data, b.data)
            assert isinstance(a.data, float) or not np.shares_memory(a.data, b.data)
        first.load_state_dict(state)
        assert all(np.array_equal(first.state_dict()[name], value) for name, value in state.items())


def test_loading_fills_arrays_in_place_keeps_their_type_and_reads_other_kinds():
    layer = Linear(2, 3)
    array = layer.weight.data
    layer.load_state_dict({"weight": np.arange(6.0).reshape(3, 2).tolist(), "bias": Array([1, 2, 3])})
    assert layer.weight.data is array
    assert array.dtype == np.float32
    assert array.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert layer.bias.data.tolist() == [1, 2, 3]
    neuron = Neuron(1, rng=0)
    neuron.load_state_dict({"weights.0": np.float32(0.5), "bias": np.array(3)})
    assert [p.data for p in neuron.parameters()] == [0.5, 3.0]


def test_all_misfits_stand_in_one_message_and_nothing_changes():
    net = Net()
    before = net.state_dict()
    state = {**before, "scale": [1.0, 2.0], "extra": 1.0, "stem.bias": "text", "heads.left.weight": np.ones((3, 1)),
             "blocks.0.bias": np.full(3, 7.0), "other": 2.0, "blocks.0.weight": np.ones((3, 3), complex),
             "stem.weight": [[1.0], [2.0, 3.0]]}
    del state["tied.weight"], state["blocks.1.0.count"]
    with pytest.raises(ValueError, match="load_state_dict") as caught:
        net.load_state_dict(state)
    for words in ("missing: blocks.1.0.count, tied.weight", "unexpected: extra, other", "scale has shape (2,), expected ()",
                  "heads.left.weight has shape (3, 1), expected (1, 3)", "stem.bias is a str", "blocks.0.weight is a ndarray",
                  "stem.weight is a list and not numbers"):
        assert words in str(caught.value)
    after = net.state_dict()
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match="misshapen"):
        net.load_state_dict(state, strict=False)
    with pytest.raises(TypeError, match="load_state_dict"):
        net.load_state_dict([1, 2])
    with pytest.raises(TypeError, match="load_state_dict"):
        net.load_state_dict(None)


def test_not_strict_returns_what_was_left_out():
    layer = Linear(2, 1)
    keys = layer.load_state_dict({"bias": [4.0], "more": 1}, strict=False)
    assert keys == (["weight"], ["more"])
    assert layer.bias.data.tolist() == [4]


def test_state_dicts_move_to_and_from_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    ours, theirs = Linear(4, 3), torch.nn.Linear(4, 3)
    ours.load_state_dict(theirs.state_dict())
    assert np.array_equal(ours.weight.data, theirs.weight.detach().numpy())
    ours.weight.data += 1
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    assert np.array_equal(ours.weight.data, theirs.weight.detach().numpy())


# ---- the rest of Module ----


def test_train_and_eval_reach_every_part():
    net = Net()
    assert net.training is True
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net.train() is net and all(module.training for module in net.modules())
    assert Module.training is True


def test_apply_visits_parts_before_the_whole():
    seen = []
    net = Net()
    assert net.apply(seen.append) is net
    assert seen[-1] is net
    assert [type(module).__name__ for module in seen] == ["Linear", "Linear", "Norm", "Linear", "Linear", "Linear", "Net"]


def test_zero_grad_forgets_or_fills():
    for value in (Value(1.0), Weight([1.0, 2.0])):
        clear_gradient(value, set_to_none=False)
        assert value.grad is None or value.grad == 0.0
    layer, number = Linear(2, 2), Value(1.0)
    layer.number = number
    gradient = layer.weight.grad = np.ones((2, 2))
    number.grad = 3.0
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad is gradient and not gradient.any()
    assert number.grad == 0.0 and layer.bias.grad is None
    layer.zero_grad()
    assert layer.weight.grad is None and number.grad is None
    (number * 2).backward()
    assert number.grad == 2.0


def test_calling_runs_forward_and_hooks():
    layer, heard = Linear(2, 1), []
    x = np.ones((3, 2), np.float32)
    first = layer.register_forward_hook(lambda module, args, output: heard.append((module, args, output)))
    second = layer.register_forward_hook(lambda module, args, output: output * 2)
    assert np.array_equal(layer(x), 2 * layer.forward(x))
    assert heard[0][0] is layer
    assert heard[0][1][0] is x
    second.remove()
    second.remove()
    first.remove()
    assert np.array_equal(layer(x), layer.forward(x)) and len(heard) == 1
    with pytest.raises(NotImplementedError, match="Norm: it has no method forward"):
        Norm(2)(x)


def test_a_module_can_be_copied():
    net = Net()
    twin = copy.deepcopy(net)
    twin.scale.data += 1
    assert net.scale.data == 1.5
    assert twin.tied is twin.stem


def test_repr_is_pytorchs():
    torch = pytest.importorskip("torch", reason="the oracle of the engine")

    class Ours(Module):
        def __init__(self):
            self.first, self.inner = Linear(2, 3), Module()
            self.inner.last = Linear(3, 1)

        def extra_repr(self):
            return "depth=2"

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = torch.nn.Linear(2, 3), torch.nn.Module()
            self.inner.last = torch.nn.Linear(3, 1)

        def extra_repr(self):
            return "depth=2"

    assert repr(Ours()) == repr(Theirs()).replace("Theirs", "Ours")


def test_repr_folds_equal_neighbours_in_a_list():
    text = repr(MLP(2, [3, 3, 1], rng=0))
    assert "(neurons.0-2): 3 x Neuron(2, tanh)" in text
    assert "(neurons.0): Neuron(3, linear)" in text
    module = Module()
    module.blocks = [Linear(1, 1), Linear(1, 1), Linear(1, 2), Linear(1, 1)]
    assert [line.split(":")[0].strip() for line in repr(module).splitlines()[1:-1]] == [
        "(blocks.0-1)", "(blocks.2)", "(blocks.3)"]


# ---- Optimizer and SGD ----

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
]


@pytest.mark.parametrize("settings_", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["float32 array", "Value"])
def test_sgd_equals_pytorchs_over_20_steps(settings_, kind):
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    rng = np.random.default_rng(3)
    shape = (4, 3) if kind == "float32 array" else ()
    start, unused = rng.normal(size=shape).astype(np.float32), Value(2.0)
    ours = Weight(start) if shape else Value(float(start))
    theirs = torch.tensor(start, dtype=torch.float32 if shape else torch.float64, requires_grad=True)
    widened = {name: value if name == "nesterov" else np.float64(value) for name, value in settings_.items()}
    optimizers = SGD([ours, unused], **widened), torch.optim.SGD([theirs], **settings_)
    unused.grad = None
    memory = ours.data
    for step in range(20):
        gradient = rng.normal(size=shape).astype(np.float32)
        if step == 7:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = np.float64(0.02)       # as a schedule would write it
        for optimizer in optimizers:
            optimizer.zero_grad()
        ours.grad, theirs.grad = (gradient if shape else float(gradient)), torch.tensor(gradient, dtype=theirs.dtype)
        for optimizer in optimizers:
            optimizer.step()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert unused.data == 2.0
    if shape:
        assert ours.data is memory
        assert ours.data.dtype == np.float32
        assert all(value.dtype == np.float32 for value in optimizers[0].state[ours].values())


def test_momentum_does_not_share_memory_with_the_gradient():
    weight = Weight([1.0])
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    weight.grad = np.ones(1, np.float32)
    for _ in range(2):
        optimizer.step()
    assert weight.grad.tolist() == [1.0]
    assert weight.data.tolist() == [1 - 1 - 1.5]


def test_groups_have_settings_of_their_own():
    fast, slow = Value(0.0), Value(0.0)
    optimizer = SGD([{"params": [fast], "lr": 1.0}, {"params": slow}], lr=0.1)
    fast.grad = slow.grad = 1.0
    optimizer.step()
    assert (fast.data, slow.data) == (-1.0, -0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
    assert "lr" in repr(optimizer)
    with pytest.raises(ValueError, match="given twice"):
        optimizer.add_param_group({"params": [Value(1.0), slow]})
    optimizer.zero_grad()
    assert fast.grad is None


@pytest.mark.parametrize("setting", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_negative_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"SGD: {setting} must be at least 0"):
        SGD([Value(1.0)], **{setting: value})
    with pytest.raises(ValueError, match=f"SGD: {setting} must be at least 0"):
        SGD([{"params": [Value(1.0)], setting: value}])


def test_other_bad_arguments_are_refused():
    p, model = Value(1.0), MLP(2, [1], rng=0)
    for settings_ in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov"):
            SGD([p], **settings_)
    with pytest.raises(ValueError, match="no parameters"):
        SGD([])
    with pytest.raises(ValueError, match="given twice"):
        SGD([p, p])
    for wrong in (p, Weight([1.0]), model.parameters, 3.0, np.ones(3)):
        with pytest.raises(TypeError, match="iterable of parameters"):
            SGD(wrong)
    for wrong in ([1.0], model.named_parameters(), [{"lr": 0.1}], [{"params": [p]}, p]):
        with pytest.raises(TypeError, match="SGD"):
            SGD(wrong)
    with pytest.raises(NotImplementedError):
        Optimizer([p], {}).step()


def test_a_resumed_run_equals_an_uninterrupted_one():
    def steps(model, optimizer, n, rng):
        for _ in range(n):
            x = rng.normal(size=(3, 2)).tolist()
            loss = squared_error([model(row) for row in x], [1.0, -1.0, 0.5])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def fresh(seed):
        model = MLP(2, [3, 1], rng=seed)
        return model, SGD(model.parameters(), lr=0.05, momentum=0.9)

    whole = fresh(0)
    steps(*whole, 10, np.random.default_rng(1))
    first, rng = fresh(0), np.random.default_rng(1)
    steps(*first, 4, rng)
    saved = first[0].state_dict(), first[1].state_dict()
    steps(*first, 3, np.random.default_rng(9))                 # goes astray after the snapshot
    second = fresh(5)
    second[1].param_groups[0]["lr"] = 7.0
    for part, state in zip(second, saved, strict=True):
        part.load_state_dict(state)
    steps(*second, 6, rng)
    assert whole[0].state_dict() == second[0].state_dict()


def test_an_optimizers_state_has_pytorchs_layout_and_must_fit():
    a, b = Value(1.0), Value(2.0)
    optimizer = SGD([a, b], lr=0.1, momentum=0.9)
    b.grad, a.grad = 1.0, None
    optimizer.step()
    state = optimizer.state_dict()
    assert state["state"] == {1: {"momentum_buffer": 1.0}}
    assert state["param_groups"][0]["params"] == [0, 1]
    with pytest.raises(ValueError, match=r"groups of \[2\].*of \[1\]"):
        SGD([Value(0.0)]).load_state_dict(state)


# ---- the network ----


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_network_matches_matrices_and_pytorchs_gradients(activation):
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    model = MLP(3, [4, 5, 2], activation=activation, rng=1)
    for i, parameter in enumerate(model.parameters()):
        parameter.data += 0.1 * np.sin(i)                      # so that biases count
    bend = torch.tanh if activation == "tanh" else torch.relu
    weights = [[torch.tensor([[w.data for w in n.weights] for n in layer.neurons], dtype=torch.float64, requires_grad=True),
                torch.tensor([n.bias.data for n in layer.neurons], dtype=torch.float64, requires_grad=True)]
               for layer in model.layers]
    x = np.random.default_rng(2).normal(size=(6, 3))
    h = torch.tensor(x)
    for i, (w, b) in enumerate(weights):
        h = h @ w.T + b
        h = h if i == 2 else bend(h)
    (h**2).sum().backward()
    scores = [model(row) for row in x.tolist()]
    sum(s * s for row in scores for s in row).backward()
    np.testing.assert_allclose(model.evaluate(x), h.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose([[s.data for s in row] for row in scores], h.detach().numpy(), rtol=1e-12)
    for layer, (w, b) in zip(model.layers, weights, strict=True):
        np.testing.assert_allclose([[v.grad for v in n.weights] for n in layer.neurons], w.grad.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose([n.bias.grad for n in layer.neurons], b.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_sizes_seeds_and_spread_of_the_network():
    model = MLP(3, [5, 4, 2], rng=0)
    assert len(list(model.parameters())) == 54
    assert MLP(3, [5], rng=7).state_dict() == MLP(3, [5], rng=np.random.default_rng(7)).state_dict()
    assert MLP(3, [5], rng=7).state_dict() != MLP(3, [5], rng=8).state_dict()
    for activation, gain in (("tanh", 1.0), ("relu", 2**0.5)):
        weights = [w.data for neuron in Layer(100, 60, activation, rng=0).neurons for w in neuron.weights]
        assert np.std(weights) == pytest.approx(gain / 10, rel=0.03)
    assert len({neuron.weights[0].data for neuron in model.layers[0].neurons}) == 5
    assert isinstance(MLP(2, [1], rng=0)([1.0, 2.0]), Value)
    assert len(model([1.0, 2.0, 3.0])) == 2


def test_a_network_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="activation is one of tanh, relu, linear, got 'step'"):
        Neuron(2, "step", rng=0)
    with pytest.raises(ValueError, match="Neuron: got 3 inputs, expected 2"):
        MLP(2, [3, 1], rng=0)([1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="rng"):
        MLP(2, [1])


# ---- losses ----


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=5))
def test_losses_equal_pytorchs(pairs):
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    scores, classes = [score for score, _ in pairs], [int(label) for _, label in pairs]
    signs = [2 * c - 1 for c in classes]
    functional = torch.nn.functional
    for ours, theirs, targets in (
        (squared_error, functional.mse_loss, signs),
        (binary_cross_entropy, functional.binary_cross_entropy_with_logits, classes),
        (hinge, lambda s, t: torch.relu(1 - s * t).mean(), signs),
    ):
        values, tensor = [Value(s) for s in scores], torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        loss, expected = ours(values, targets), theirs(tensor, torch.tensor(targets, dtype=torch.float64))
        loss.backward()
        expected.backward()
        assert loss.data == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
        assert [v.grad for v in values] == pytest.approx(tensor.grad.tolist(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("z", "target", "loss", "gradient"), [
    (1e4, 0, 1e4, 1.0), (1e4, 1, 0.0, 0.0), (-1e4, 1, 1e4, -1.0), (-1e4, 0, 0.0, 0.0), (0.0, 1, np.log(2), -0.5),
    (0.0, 0.25, np.log(2), 0.25),
])
def test_cross_entropy_neither_overflows_nor_loses_the_gradient(z, target, loss, gradient):
    value = Value(z)
    result = binary_cross_entropy([value], [target])
    result.backward()
    assert result.data == pytest.approx(loss)
    assert value.grad == pytest.approx(gradient)


def test_losses_refuse_bad_targets():
    scores = [Value(0.0), Value(1.0)]
    for loss in (squared_error, hinge, binary_cross_entropy):
        for bad in ([1], [1, 1, 1]):
            with pytest.raises(ValueError, match=f"{loss.__name__}: 2 scores"):
                loss(scores, bad)
        with pytest.raises(ValueError, match=f"{loss.__name__}: 0 scores"):
            loss([], [])
        assert loss(scores, np.array([1, 1])).data == loss(scores, [1, 1]).data
    with pytest.raises(ValueError, match="hinge: targets are -1 and"):
        hinge(scores, [0, 1])
    for bad in (-1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="binary_cross_entropy: targets lie between"):
            binary_cross_entropy(scores, [0, bad])


# ---- data ----


@pytest.mark.parametrize("make", [make_moons, make_circles, make_xor, make_spirals])
def test_generators_are_seeded_and_balanced(make):
    x, y = make(60, rng=3)
    assert x.shape == (60, 2) and x.dtype == np.float64
    assert y.shape == (60,) and y.dtype.kind == "i" and np.bincount(y).tolist() == [30, 30]
    again = make(60, rng=np.random.default_rng(3))
    assert np.array_equal(x, again[0])
    assert not np.array_equal(x, make(60, rng=4)[0])
    np.random.seed(0)  # noqa: NPY002  the global state must not matter
    assert np.array_equal(x, make(60, rng=3)[0])


def test_generators_draw_the_shapes_they_name():
    x, y = make_xor(4, noise=0.0, rng=0)
    assert x.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert y.tolist() == [0, 1, 1, 0]
    x, y = make_circles(50, noise=0.0, factor=0.3, rng=0)
    assert np.allclose(np.hypot(*x.T), np.where(y == 0, 1.0, 0.3))
    x, y = make_moons(50, noise=0.0, rng=0)
    assert np.allclose(np.hypot(*(x - np.where(y[:, None] == 0, 0.0, [1.0, 0.5])).T), 1)
    assert np.all(x[y == 0, 1] >= 0)
    assert np.all(x[y == 1, 1] <= 0.5)
    x, y = make_spirals(50, noise=0.0, turns=2, rng=0)
    radius = np.hypot(*x.T)
    turned = np.mod(np.arctan2(x[:, 1], x[:, 0]) - 4 * np.pi * radius - np.pi * y + 1, 2 * np.pi)
    assert np.allclose(turned, 1)
    assert make_moons(51, noise=0.5, rng=1)[0].std() > make_moons(51, noise=0.0, rng=1)[0].std()


def test_minibatches_hold_everything_once():
    batches = list(minibatches(10, 4, rng=0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches).tolist()) == list(range(10))
    rng = np.random.default_rng(0)
    epochs = [np.concatenate(list(minibatches(10, 4, rng))).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1] and epochs[0] == np.concatenate(batches).tolist()
    with pytest.raises(ValueError, match="size"):
        list(minibatches(10, 0, rng=0))


# ---- diagnostics ----


def test_activations_are_recorded_for_values_and_for_arrays():
    model = MLP(2, [3, 1], rng=0)
    x = np.random.default_rng(0).normal(size=(5, 2))
    heard = record_activations(model, x.tolist(), of=Layer)
    assert {name: array.shape for name, array in heard.items()} == {"layers.0": (5, 3), "layers.1": (5, 1)}
    assert np.allclose(heard["layers.1"][:, 0], model.evaluate(x))
    assert all(module._forward_hooks == () for module in model.modules())

    net = Module()
    net.parts = [Linear(2, 4), Linear(4, 1)]
    net.forward = lambda batch: net.parts[1](net.parts[0](batch))
    heard = record_activations(net, [x[:2], x[2:]], of=(Linear,))
    assert heard["parts.0"].shape == (5, 4)
    assert np.allclose(heard["parts.1"], net(x))


def test_hooks_are_removed_even_where_the_model_fails():
    model = MLP(2, [3, 1], rng=0)
    with pytest.raises(ValueError, match="Neuron"):
        record_activations(model, [[1.0]], of=Layer)
    assert all(module._forward_hooks == () for module in model.modules())


def test_dead_units_and_statistics():
    activations = np.array([[0.0, 0.0, 2.0, -0.98], [0.0, 1.0, 0.0, 0.5]])
    assert dead_units(activations) == 0.25
    assert dead_units(np.moveaxis(activations[..., None, None], 1, 1), unit_axis=1) == 0.25
    assert dead_units(np.zeros((2, 3, 4, 4)), unit_axis=1) == 1.0
    mean, std, dead, saturated = activation_statistics(activations)
    assert mean == pytest.approx(activations.mean())
    assert std == pytest.approx(activations.std())
    assert (dead, saturated) == (0.25, 3 / 8)
    centres, shares = activation_histogram([-5.0, -0.9, 0.1, 0.9, 0.95], bins=4)
    assert centres.tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert shares == pytest.approx([0.4, 0, 0.2, 0.4])


def test_gradient_norms_and_update_ratios():
    layer = Linear(2, 1)
    layer.weight.grad = np.array([[3.0, 4.0]], np.float32)
    assert gradient_norms(layer) == {"weight": 5.0, "bias": 0.0}
    model = MLP(2, [2, 1], rng=0)
    for parameter in model.parameters():
        parameter.grad = 2.0
    assert gradient_norms(model, depth=2) == pytest.approx({"layers.0": 2 * 6**0.5, "layers.1": 2 * 3**0.5})
    before = {"a.w": np.array([3.0, 4.0]), "a.b": 0.0, "c": 0.0, "d": 0.0}
    after = {"a.w": np.array([3.0, 4.5]), "a.b": 0.0, "c": 1.0, "d": 0.0}
    assert update_to_data_ratio(before, after) == {"a.w": 0.1, "a.b": 0.0, "c": float("inf"), "d": 0.0}
    assert update_to_data_ratio(before, after, depth=1)["a"] == pytest.approx(0.1)


# ---- training, the stored weights, the notebook's numbers ----


def test_xor_is_learned():
    x, y = make_xor(4, noise=0.0, rng=0)
    model = MLP(2, [4, 1], rng=2)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(150):
        loss = binary_cross_entropy([model(row) for row in x.tolist()], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.data < 0.01
    assert ((model.evaluate(x) > 0) == y).all()


def test_the_stored_spiral_network_is_as_good_as_it_says():
    stored = json.loads((CHAPTER / "checkpoints" / "spiral.json").read_text(encoding="utf-8"))
    x, y = make_spirals(200, rng=stored["seed"])
    fresh, labels = make_spirals(1000, rng=1)
    assert np.allclose(x / x.std(), stored["x"], atol=5.1e-4)
    assert y.tolist() == stored["y"]
    model = MLP(2, [8, 8, 1], rng=3)
    model.load_state_dict(stored["state_dict"])
    assert np.mean((model.evaluate(x / stored["scale"]) > 0) == y) == stored["training_accuracy"] >= 0.98
    assert np.mean((model.evaluate(fresh / stored["scale"]) > 0) == labels) == pytest.approx(stored["fresh_accuracy"], abs=0.002)


def cells(name):
    """The code cells of one of the chapter's notebooks, by their ids."""
    notebook = json.loads((CHAPTER / name).read_text(encoding="utf-8"))
    return {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}


def test_the_notebooks_numbers_from_pytorch_are_pytorchs():
    torch = pytest.importorskip("torch", reason="the oracle of the engine")
    source = cells("scalar_mlp.ipynb")["torch-compare"]
    names = {}
    exec(source.split("for (momentum")[0], names)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    numbers = iter(np.sin(np.arange(1.0, 14.0)))
    start = {}
    for part in (0, 2):
        rows = [[next(numbers) for _ in range(model[part].in_features + 1)] for _ in range(model[part].out_features)]
        start[f"{part}.weight"], start[f"{part}.bias"] = torch.tensor(rows)[:, :-1], torch.tensor(rows)[:, -1]
    x, y = torch.tensor(names["inputs"], dtype=torch.float64), torch.tensor(names["targets"], dtype=torch.float64)
    criterion = torch.nn.BCEWithLogitsLoss()
    for (momentum, nesterov, decay), stored in names["from_torch"].items():
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        for _ in range(20):
            optimizer.zero_grad()
            criterion(model(x)[:, 0], y).backward()
            optimizer.step()
        assert (criterion(model(x)[:, 0], y).item(), model[2].bias.item()) == pytest.approx(stored, abs=1e-12)


# ---- exercises: stub, solution, mistakes ----

IDS = list(exercises("03"))


@pytest.mark.parametrize("id", IDS)
def test_stub_is_not_attempted_and_mistakes_are_told_apart(id):
    exercise = exercises("03")[id]
    stub = next(source for source in cells("scalar_mlp.ipynb").values() if f'check("{id}"' in source)
    verdicts = []
    exec(stub, {"check": lambda _, answer: verdicts.append(grade(exercise, answer)), "Module": Module})
    assert [verdict.passed for verdict in verdicts] == [None]
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        verdict = grade(exercise, mistake.answer)
        assert verdict.passed is False
        assert verdict.message == mistake.diagnosis


@pytest.mark.parametrize("id", IDS)
def test_solution_passes(id):
    source = cells("solutions.ipynb")
    solution = next(text for text in source.values() if f'check("{id}"' in text)
    names, verdicts = {"np": np}, []
    exec(source["imports"], names)
    names["check"] = lambda id, answer: verdicts.append(grade(exercises("03")[id], answer))
    exec(solution, names)
    assert [verdict.message for verdict in verdicts] == ["passed"]
