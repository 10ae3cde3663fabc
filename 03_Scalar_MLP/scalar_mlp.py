"""Scalar MLP: a network built of single numbers

Exported from 03_Scalar_MLP/scalar_mlp.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import copy
import textwrap
from collections import defaultdict
from itertools import groupby
from operator import mul
from typing import NamedTuple

import numpy as np

from shared.scalar_autograd import Value

__all__ = [
    "MLP",
    "SGD",
    "ActivationStatistics",
    "HookHandle",
    "IncompatibleKeys",
    "Layer",
    "Module",
    "Neuron",
    "Optimizer",
    "activation_histogram",
    "activation_statistics",
    "binary_cross_entropy",
    "clear_gradient",
    "data_of",
    "dead_units",
    "gradient_norms",
    "hinge",
    "is_parameter",
    "make_circles",
    "make_moons",
    "make_spirals",
    "make_xor",
    "minibatches",
    "record_activations",
    "squared_error",
    "update_to_data_ratio",
]


def _blurred(points, labels, noise, rng):
    """Points with normal noise of standard deviation `noise` added, and integer labels."""
    return points + noise * rng.standard_normal(points.shape), labels.astype(int)


def make_moons(n_samples=100, noise=0.1, *, rng):
    """Two half circles of radius 1 that reach into each other, as in scikit-learn.

    Returns x (N, 2) and the classes y (N,), 0 and 1 in turns. `noise` is the standard deviation
    of what is added to both coordinates, `rng` a NumPy generator or a seed.
    """
    rng = np.random.default_rng(rng)
    y = np.arange(n_samples) % 2
    angle = np.pi * rng.random(n_samples)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    return _blurred(np.where(y[:, None] == 0, upper, [1.0, 0.5] - upper), y, noise, rng)


def make_circles(n_samples=100, noise=0.1, factor=0.5, *, rng):
    """A circle of radius 1 (class 0) around one of radius `factor` (class 1).

    Returns and arguments as `make_moons`.
    """
    rng = np.random.default_rng(rng)
    y = np.arange(n_samples) % 2
    angle = 2 * np.pi * rng.random(n_samples)
    radius = np.where(y == 0, 1.0, factor)
    return _blurred(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y, noise, rng)


def make_xor(n_samples=100, noise=0.1, *, rng):
    """The corners of the unit square in turns; class 1 where exactly one coordinate is 1.

    With 4 samples and no noise it is the truth table itself. Returns and arguments as `make_moons`.
    """
    rng = np.random.default_rng(rng)
    corner = np.arange(n_samples) % 4
    first, second = corner // 2, corner % 2
    return _blurred(np.stack([first, second], 1).astype(float), first ^ second, noise, rng)


def make_spirals(n_samples=100, noise=0.02, turns=1.5, *, rng):
    """Two spiral arms that make `turns` turns from the centre out to radius 1, half a turn apart.

    Returns and arguments as `make_moons`. The points lie evenly over the area, so the outer
    windings hold more of them. A gentler relative of the task in Lang and Witbrock (1988),
    Learning to tell two spirals apart.
    """
    rng = np.random.default_rng(rng)
    y = np.arange(n_samples) % 2
    radius = np.sqrt(rng.random(n_samples))
    angle = 2 * np.pi * turns * radius + np.pi * y
    return _blurred(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y, noise, rng)


def is_parameter(thing):
    """Whether a Module that holds `thing` in an attribute should train it.

    A `Value` always is a parameter. Of other classes those are that have an attribute
    ``is_parameter = True``, besides the `data` and `grad` that every parameter has.
    """
    return isinstance(thing, Value) or getattr(thing, "is_parameter", False) is True


def data_of(thing):
    """The bare number or array: `thing.data` where `thing` also has a `grad`, else `thing`
    itself.
    """
    return thing.data if hasattr(thing, "grad") else thing


def _leaves(name, thing):
    """What an attribute holds, with dotted names; lists, tuples and dictionaries are opened."""
    if isinstance(thing, list | tuple | dict):
        for key, item in thing.items() if isinstance(thing, dict) else enumerate(thing):
            yield from _leaves(f"{name}.{key}", item)
    else:
        yield name, thing


def _join(path, name):
    """A dotted name under a path, which is empty for the outermost module."""
    return f"{path}.{name}" if path else name


class Module:
    """A part of a model, which may hold parameters and further modules in its attributes.

    A subclass assigns them in `__init__` and computes in `forward`; calling the module runs
    `forward`. Lists, tuples and dictionaries of parameters or modules are found too. Names and
    semantics are those of ``torch.nn.Module``. Nothing is registered on assignment: an attribute
    is looked for when it is asked for.
    """

    training = True      # False after eval(); dropout and batch normalisation ask for it
    _buffers = ()        # names of the attributes that are buffers
    _unsaved = ()        # those of them that no state_dict holds
    _forward_hooks = ()

    def __call__(self, *args, **kwargs):
        """Run `forward`, then the forward hooks."""
        output = self.forward(*args, **kwargs)
        for hook in self._forward_hooks:
            replaced = hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    def forward(self, *args, **kwargs):
        """What the module computes; a subclass says it, or NotImplementedError is raised."""
        name = type(self).__name__
        raise NotImplementedError(f"{name}: it has no method forward, so it cannot be called")

    def _held(self):
        """(dotted name, thing) for all that the attributes hold but buffers, in order of
        assignment.
        """
        for name, thing in vars(self).items():
            if name not in self._buffers:
                yield from _leaves(name, thing)

    def named_modules(self, prefix="", remove_duplicate=True, *, _seen=None):
        """Yield (name, module) for this module and all its parts, depth first, each once by default."""
        seen = set() if _seen is None else _seen
        if remove_duplicate and id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, thing in self._held():
            if isinstance(thing, Module):
                yield from thing.named_modules(_join(prefix, name), remove_duplicate, _seen=seen)

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        """Yield (name, parameter): a module's own ones before those of its parts.

        A tied one comes once, under its first name, unless `remove_duplicate` is False.
        """
        seen = set()
        parts = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in parts:
            for name, thing in module._held():
                if is_parameter(thing) and not (remove_duplicate and id(thing) in seen):
                    seen.add(id(thing))
                    yield _join(path, name), thing

    def parameters(self, recurse=True):
        """Yield every parameter once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def modules(self):
        """Yield this module and all its parts, each once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self):
        """Yield (name, module) for the parts one level down, each once."""
        seen = set()
        for name, thing in self._held():
            if isinstance(thing, Module) and id(thing) not in seen:
                seen.add(id(thing))
                yield name, thing

    def children(self):
        """Yield the parts one level down, each once."""
        for _, module in self.named_children():
            yield module

    def apply(self, function):
        """Call `function` on every part and then on this module, which is returned."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def zero_grad(self, set_to_none=True):
        """Clear the gradient of every parameter, see `clear_gradient`."""
        for parameter in self.parameters():
            clear_gradient(parameter, set_to_none)

    def train(self, mode=True):
        """Set `training` of this module and all its parts; returns the module."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self):
        """Switch this module and all its parts to evaluation; returns the module."""
        return self.train(False)

    def register_buffer(self, name, value, persistent=True):
        """Keep `value` as an attribute that is not trained; where `persistent`, state_dict holds it.

        `value` is an array, a number, an object with `data` and `grad`, or None (kept for later, not
        yet in the state_dict). Raises ValueError where the name is not a plain one, or is taken.
        """
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"register_buffer: a name is text without dots, got {name!r}")
        if hasattr(self, name) and name not in self._buffers:
            owner = type(self).__name__
            raise ValueError(f"register_buffer: {owner} already has an attribute {name!r}")
        self._buffers = (*(other for other in self._buffers if other != name), name)
        unsaved = [other for other in self._unsaved if other != name]
        self._unsaved = (*unsaved, *([] if persistent else [name]))
        setattr(self, name, value)

    def named_buffers(self, prefix="", recurse=True, remove_duplicate=True):
        """Yield (name, buffer) for this module and all its parts; a buffer that is None is left out."""
        seen = set()
        parts = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in parts:
            for name in module._buffers:
                buffer = getattr(module, name, None)
                if buffer is not None and not (remove_duplicate and id(buffer) in seen):
                    seen.add(id(buffer))
                    yield _join(path, name), buffer

    def buffers(self, recurse=True):
        """Yield every buffer once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def _state(self):
        """Yield (name, owner, attribute): where each entry of the state_dict is kept."""
        for path, module in self.named_modules(remove_duplicate=False):
            for name, thing in module._held():
                if is_parameter(thing):
                    yield _join(path, name), thing, "data"
            for name in module._buffers:
                buffer = getattr(module, name, None)
                if buffer is not None and name not in module._unsaved:
                    kept = (buffer, "data") if hasattr(buffer, "grad") else (module, name)
                    yield _join(path, name), *kept

    def state_dict(self):
        """A table from names to copies of all parameters and persistent buffers, module by module.

        A tied parameter stands under each of its names. The copies are bare numbers and arrays.
        """
        return {name: copy.copy(getattr(owner, attribute)) for name, owner, attribute in self._state()}

    def load_state_dict(self, state_dict, strict=True):
        """Write the numbers of a state_dict into this module; returns the IncompatibleKeys.

        Arrays are filled in place and keep their type. Raises TypeError where `state_dict` is not a
        table, and ValueError, with every missing, unexpected and misshapen entry in one message,
        where it does not fit; nothing is changed then. With `strict` False missing and unexpected
        entries are left alone.
        """
        if not hasattr(state_dict, "keys"):
            kind = type(state_dict).__name__
            raise TypeError(f"load_state_dict: expected a table from names to numbers, got {kind}")
        places = {name: (owner, attribute) for name, owner, attribute in self._state()}
        missing = [name for name in places if name not in state_dict]
        unexpected = [name for name in state_dict if name not in places]
        shared = [name for name in places if name in state_dict]
        misfits = (_misfit(name, state_dict[name], getattr(*places[name])) for name in shared)
        problems = {"misshapen": list(filter(None, misfits))}
        if strict:
            problems = {"missing": missing, "unexpected": unexpected, **problems}
        if any(problems.values()):
            lines = [f"{kind}: {', '.join(map(str, names))}" for kind, names in problems.items() if names]
            head = f"the state does not fit this {type(self).__name__}, nothing was changed"
            raise ValueError("\n  ".join([f"load_state_dict: {head}", *lines]))
        for name in shared:
            owner, attribute = places[name]
            old, new = getattr(owner, attribute), _as_numbers(state_dict[name])
            if isinstance(old, np.ndarray):
                old[...] = new
            else:
                setattr(owner, attribute, new.item())
        return IncompatibleKeys(missing, unexpected)

    def extra_repr(self):
        """What stands in the brackets of the module's `repr`; a subclass may say it."""
        return ""

    def __repr__(self):
        """The tree of parts, as PyTorch prints it."""
        children = [(name, repr(thing)) for name, thing in self._held() if isinstance(thing, Module)]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        parts = [f"({name}): {text}" for name, text in _folded(children)]
        lines = self.extra_repr().splitlines() + parts
        return f"{type(self).__name__}(\n" + textwrap.indent("\n".join(lines), "  ") + "\n)"

    def register_forward_hook(self, hook):
        """Call ``hook(module, args, output)`` after each forward pass.

        What the hook returns, if not None, replaces the output. Returns a handle, whose `remove()`
        ends it.
        """
        self._forward_hooks = (*self._forward_hooks, hook)
        return HookHandle(self, hook)


def clear_gradient(parameter, set_to_none=True):
    """Forget a parameter's gradient: None, or zeros where `set_to_none` is False and there was one.

    None says that no gradient has reached the parameter, which an optimiser treats otherwise than
    a gradient of zero.
    """
    if set_to_none or parameter.grad is None:
        parameter.grad = None
    elif isinstance(data_of(parameter.grad), np.ndarray):
        data_of(parameter.grad)[...] = 0
    else:
        parameter.grad = 0.0


class IncompatibleKeys(NamedTuple):
    """Names that `load_state_dict` could not match: those that the state, or the module, lacks."""

    missing_keys: list
    unexpected_keys: list


def _as_numbers(entry):
    """An entry of a state_dict as an array of numbers, or None where it is something else."""
    try:
        array = np.asarray(data_of(entry))
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _misfit(name, entry, wanted):
    """Say why an entry cannot take the place of `wanted`, or None where it can."""
    array = _as_numbers(entry)
    if array is None:
        return f"{name} is a {type(entry).__name__} and not numbers"
    if array.shape != np.shape(wanted):
        return f"{name} has shape {array.shape}, expected {np.shape(wanted)}"
    return None


def _folded(children):
    """Fold equal neighbours in a list, (name.0, text), ..., into one, (name.0-7, 8 x text)."""
    def stem_and_text(child):
        return child[0].rpartition(".")[0], child[1]

    for (stem, text), run in groupby(children, key=stem_and_text):
        names = [name for name, _ in run]
        if len(names) > 1 and stem and names[0].rpartition(".")[2].isdigit():
            yield f"{names[0]}-{names[-1].rpartition('.')[2]}", f"{len(names)} x {text}"
        else:
            yield from ((name, text) for name in names)


class HookHandle:
    """What `register_forward_hook` returns: `remove()` takes the hook away again."""

    def __init__(self, module, hook):
        self.module, self.hook = module, hook

    def remove(self):
        """Take the hook away; a second time does nothing."""
        others = (hook for hook in self.module._forward_hooks if hook is not self.hook)
        self.module._forward_hooks = tuple(others)


_BENDS = {  # on a Value, on numbers, and the gain that suits it
    "tanh": (Value.tanh, np.tanh, 1.0),
    "relu": (Value.relu, lambda z: np.maximum(z, 0.0), 2.0**0.5),
    "linear": (lambda z: z, lambda z: z, 1.0),
}


class Neuron(Module):
    """One neuron: activation(w . x + b), with `inputs` weights and a bias, all of them Values.

    `activation` is "tanh", "relu" or "linear". The weights are normal with standard deviation
    gain / sqrt(inputs); the gain is 1, for "relu" the square root of 2, unless given. The bias is
    0. `rng` is a NumPy generator or a seed. Raises ValueError for another activation, and when
    called with another number of inputs.
    """

    def __init__(self, inputs, activation="tanh", *, rng, gain=None):
        if activation not in _BENDS:
            known = ", ".join(_BENDS)
            raise ValueError(f"Neuron: activation is one of {known}, got {activation!r}")
        gain = _BENDS[activation][2] if gain is None else gain
        draws = np.random.default_rng(rng).standard_normal(inputs) * gain / max(inputs, 1) ** 0.5
        self.weights = [Value(w) for w in draws.tolist()]
        self.bias = Value(0.0)
        self.activation = activation

    def forward(self, x):
        """The output, a Value, for a list of inputs that are numbers or Values."""
        if len(x) != len(self.weights):
            raise ValueError(f"Neuron: got {len(x)} inputs, expected {len(self.weights)}")
        return _BENDS[self.activation][0](sum(map(mul, self.weights, x), self.bias))

    def evaluate(self, x):
        """The same on bare numbers, or on arrays that hold one input of many examples: no graph."""
        terms = (w.data * v for w, v in zip(self.weights, x, strict=True))
        return _BENDS[self.activation][1](sum(terms, self.bias.data))

    def extra_repr(self):
        """The number of inputs and the activation."""
        return f"{len(self.weights)}, {self.activation}"


class Layer(Module):
    """A fully connected layer: `outputs` neurons that see the same `inputs`.

    The other arguments are those of Neuron.
    """

    def __init__(self, inputs, outputs, activation="tanh", *, rng, gain=None):
        rng = np.random.default_rng(rng)
        self.neurons = [Neuron(inputs, activation, rng=rng, gain=gain) for _ in range(outputs)]

    def forward(self, x):
        """A list of `outputs` Values for a list of `inputs` numbers or Values."""
        return [neuron(x) for neuron in self.neurons]

    def evaluate(self, x):
        """The same on bare numbers or arrays; builds no graph."""
        return [neuron.evaluate(x) for neuron in self.neurons]


class MLP(Module):
    """A multi-layer perceptron: one Layer for each of `widths`, the last one linear.

    ``MLP(2, [8, 8, 1], rng=0)`` has two hidden layers of 8 neurons and one output. The other
    arguments are those of Neuron. Rumelhart, Hinton and Williams (1986), Learning representations
    by back-propagating errors.
    """

    def __init__(self, inputs, widths, activation="tanh", *, rng, gain=None):
        rng = np.random.default_rng(rng)
        sizes, bends = [inputs, *widths], [activation] * (len(widths) - 1) + ["linear"]
        shapes = zip(sizes, widths, bends, strict=False)
        self.layers = [Layer(*shape, rng=rng, gain=gain) for shape in shapes]

    def forward(self, x):
        """The scores of one example, a list of `inputs` numbers: a Value, or a list of several."""
        for layer in self.layers:
            x = layer(x)
        return x[0] if len(x) == 1 else x

    def evaluate(self, x):
        """The scores (N,) or (N, outputs) of many examples x (N, inputs), without a graph."""
        columns = list(np.asarray(x, dtype=float).T)
        for layer in self.layers:
            columns = layer.evaluate(columns)
        return columns[0] if len(columns) == 1 else np.stack(columns, -1)


def _matched(name, scores, targets):
    """The targets as a list, as many as scores and at least one; raises ValueError otherwise."""
    targets = targets.tolist() if isinstance(targets, np.ndarray) else list(targets)
    if len(scores) != len(targets) or not targets:
        counts = f"{len(scores)} scores and {len(targets)} targets"
        raise ValueError(f"{name}: {counts}; as many of each, and at least one")
    return targets


def squared_error(scores, targets):
    """Mean squared error: the average of (score - target)^2, a Value.

    `scores` is a list of N Values, `targets` N numbers. Raises ValueError where the lengths
    differ or are zero.
    """
    targets = _matched("squared_error", scores, targets)
    return sum((s - t) ** 2 for s, t in zip(scores, targets, strict=True)) / len(targets)


def hinge(scores, targets):
    """Mean hinge loss: the average of max(0, 1 - target * score), a Value; targets are -1 and +1.

    Raises ValueError for another target, and where the lengths differ or are zero.
    Cortes and Vapnik (1995), Support-vector networks.
    """
    targets = _matched("hinge", scores, targets)
    if not set(targets) <= {-1, 1}:
        raise ValueError(f"hinge: targets are -1 and +1, got {sorted(set(targets) - {-1, 1})[:5]}")
    return sum((1 - s * t).relu() for s, t in zip(scores, targets, strict=True)) / len(targets)


def _softplus(z):
    """ln(1 + e^z) of a Value, in the form that cannot overflow."""
    small = (-z if z.data > 0 else z).exp()          # e^-|z|, at most 1
    return (z if z.data > 0 else 0.0) + (1 + small).log()


def binary_cross_entropy(logits, targets):
    """Mean binary cross-entropy from logits: the average of ln(1 + e^z) - y z, a Value. Stable
    for any z.

    `logits` is a list of N Values, `targets` N probabilities of class 1, mostly the classes 0 and
    1 themselves. Raises ValueError for a target outside [0, 1], and where the lengths differ or
    are zero.
    """
    targets = _matched("binary_cross_entropy", logits, targets)
    outside = [t for t in targets if not 0 <= t <= 1]
    if outside:
        raise ValueError(f"binary_cross_entropy: targets lie between 0 and 1, got {outside[:5]}")
    return sum(_softplus(z) - z * t for z, t in zip(logits, targets, strict=True)) / len(targets)


_NOT_NEGATIVE = ("lr", "momentum", "weight_decay", "eps")


class Optimizer:
    """What all optimisers share; a subclass adds `step`. ``torch.optim.Optimizer`` is the model.

    `params` is an iterable of parameters, or of tables {"params": parameters, setting: value,
    ...} for groups with settings of their own; `defaults` holds the settings of the others. A
    parameter is anything with `data`, a number or an array, and `grad`, that compares and hashes
    by identity. Raises TypeError where something is not one, and ValueError where there are none,
    where one is given twice, and for a negative setting.
    """

    def __init__(self, params, defaults):
        if hasattr(params, "data") or not hasattr(params, "__iter__"):
            raise TypeError(f"{type(self).__name__}: params must be an iterable of parameters, such as "
                            f"model.parameters(), got {type(params).__name__}")
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: got no parameters at all")
        self.defaults, self.state, self.param_groups = dict(defaults), defaultdict(dict), []
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def step(self):
        """Move every parameter that has a gradient; a subclass says how."""
        raise NotImplementedError(f"{type(self).__name__}: it has no method step")

    def zero_grad(self, set_to_none=True):
        """Clear the gradient of every parameter, see `clear_gradient`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                clear_gradient(parameter, set_to_none)

    def __repr__(self):
        """The settings of each group and the number of its parameters."""
        groups = [{**group, "params": len(group["params"])} for group in self.param_groups]
        return f"{type(self).__name__}({', '.join(map(str, groups))})"

    def add_param_group(self, group):
        """Add a table {"params": parameters, setting: value, ...}, completed from the defaults."""
        name = type(self).__name__
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"{name}: a parameter group is a table with an entry 'params', got {group!r}")
        given = group["params"]
        group = {**self.defaults, **group, "params": [given] if hasattr(given, "grad") else list(given)}
        for setting in _NOT_NEGATIVE:
            if setting in group and not group[setting] >= 0:
                raise ValueError(f"{name}: {setting} must be at least 0, got {group[setting]}")
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for parameter in group["params"]:
            if not (hasattr(parameter, "data") and hasattr(parameter, "grad")):
                raise TypeError(f"{name}: a parameter has data and grad, got {type(parameter).__name__}")
            if id(parameter) in taken:
                raise ValueError(f"{name}: a parameter was given twice")
            taken.add(id(parameter))
        self.param_groups.append(group)

    def state_dict(self):
        """A copy of all settings and memories: {"state", "param_groups"}, parameters by position."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        position = {id(p): i for i, p in enumerate(parameters)}
        groups = [
            {**{key: copy.deepcopy(value) for key, value in group.items() if key != "params"},
             "params": [position[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        remembered = {position[id(p)]: copy.deepcopy(memory) for p, memory in self.state.items()}
        return {"state": remembered, "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Take over settings and memories from the state_dict of an optimiser with groups as large.

        Raises ValueError where the groups differ; nothing is changed then.
        """
        saved, ours = (
            [len(group["params"]) for group in groups]
            for groups in (state_dict["param_groups"], self.param_groups)
        )
        if saved != ours:
            name = type(self).__name__
            raise ValueError(f"load_state_dict: the state has groups of {saved} parameters, this {name} of {ours}")
        parameters = {}
        for group, other in zip(self.param_groups, state_dict["param_groups"], strict=True):
            parameters.update(zip(other["params"], group["params"], strict=True))
            group.update({key: copy.deepcopy(value) for key, value in other.items() if key != "params"})
        self.state = defaultdict(dict)
        for position, memory in state_dict["state"].items():
            self.state[parameters[position]] = copy.deepcopy(memory)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay, PyTorch's rule.

    With g the gradient plus weight_decay times the parameter: the velocity is g on the first
    step, then momentum times itself plus (1 - dampening) g; the parameter moves by -lr times g,
    or the velocity where momentum is not 0, or g plus momentum times the velocity where
    `nesterov`. Parameters whose gradient is None are left alone. Raises ValueError for a negative
    setting, and for `nesterov` without momentum or with dampening. Polyak (1964); Sutskever,
    Martens, Dahl and Hinton (2013), On the importance of initialization and momentum.
    """

    def __init__(
        self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False
    ):
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum above 0 and a dampening of 0")
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening,
                                  "weight_decay": weight_decay, "nesterov": nesterov})

    def step(self):
        """Move every parameter that has a gradient by one step."""
        for group in self.param_groups:
            lr, decay = float(group["lr"]), float(group["weight_decay"])  # keep an array's type
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = data_of(p.grad)
                if decay:
                    g = g + decay * p.data
                if group["momentum"]:
                    g = self._with_momentum(p, g, group)
                p.data -= lr * g

    def _with_momentum(self, p, g, group):
        """Renew the velocity of `p` and return the direction of its step."""
        momentum, memory = float(group["momentum"]), self.state[p]
        if "momentum_buffer" not in memory:
            velocity = copy.copy(g)
        else:
            velocity = memory["momentum_buffer"]
            velocity *= momentum  # in place for an array, a new number for a float
            velocity += (1 - float(group["dampening"])) * g
        memory["momentum_buffer"] = velocity
        return g + momentum * velocity if group["nesterov"] else velocity


def minibatches(n, size, rng):
    """Yield arrays of `size` indices, the last one shorter, that share out 0 to n - 1 at random.

    `rng` is a NumPy generator or a seed. Raises ValueError where `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"minibatches: size must be at least 1, got {size}")
    order = np.random.default_rng(rng).permutation(n)
    for start in range(0, n, size):
        yield order[start : start + size]


def record_activations(model, inputs, of):
    """What the parts of class `of` put out when `model` is called on `inputs`: {name: (N, ...)}.

    For a scalar network `inputs` are N examples; for one of tensors, batches, whose outputs are
    joined along the first axis. `of` is a class or a tuple of classes. The parts are watched
    through forward hooks, which are then removed.
    """
    heard = {name: [] for name, module in model.named_modules() if isinstance(module, of)}

    def listener(name):
        return lambda module, args, output: heard[name].append(_as_batch(output))

    parts = [(name, part) for name, part in model.named_modules() if name in heard]
    handles = [part.register_forward_hook(listener(name)) for name, part in parts]
    try:
        for example in inputs:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(outputs) for name, outputs in heard.items() if outputs}


def _as_batch(output):
    """An output as an array whose first axis counts examples; a list of Values is one example."""
    if isinstance(output, list | tuple):
        output = [data_of(value) for value in output]
    return np.atleast_2d(np.array(data_of(output)))


class ActivationStatistics(NamedTuple):
    """Mean, standard deviation, share of dead units and of saturated outputs of one layer."""

    mean: float
    std: float
    dead: float
    saturated: float


def dead_units(activations, unit_axis=-1):
    """The share of units that put out 0 for every example: such a ReLU passes no gradient on.

    `activations` is (N, ...) with the units along `unit_axis`, for pictures (N, C, H, W) axis 1.
    """
    activations = np.asarray(activations)
    others = tuple(axis for axis in range(activations.ndim) if axis != unit_axis % activations.ndim)
    return float(np.mean(np.all(activations == 0, axis=others)))


def activation_statistics(activations, unit_axis=-1, limit=0.97):
    """The ActivationStatistics of one layer's outputs (N, ...).

    Saturated are those beyond `limit` in absolute value. This is meant for tanh, whose slope at
    an output of 0.97 is 0.06; of a ReLU look at the dead units instead, see `dead_units`.
    """
    activations = np.asarray(activations)
    mean, std = float(activations.mean()), float(activations.std())
    saturated = float(np.mean(np.abs(activations) > limit))
    return ActivationStatistics(mean, std, dead_units(activations, unit_axis), saturated)


def activation_histogram(activations, bins=40, limits=(-1.0, 1.0)):
    """How the outputs of a layer are spread over `bins` equal intervals between `limits`.

    Returns the centres of the intervals and the share of outputs in each, both (bins,). What
    lies outside the limits counts in the outermost intervals.
    """
    inside = np.clip(np.ravel(activations), *limits)
    counts, edges = np.histogram(inside, bins, limits)
    return (edges[1:] + edges[:-1]) / 2, counts / max(inside.size, 1)


def _grouped(named, depth):
    """One flat array for all numbers and arrays whose names begin with the same `depth` parts."""
    groups = defaultdict(list)
    for name, numbers in named:
        groups[".".join(name.split(".")[:depth])].append(np.ravel(numbers))
    return {name: np.concatenate(parts) for name, parts in groups.items()}


def gradient_norms(model, depth=None):
    """The length of the gradient of each parameter: a table {name: float}.

    With `depth`, names that share their first `depth` parts are taken together. A parameter that
    no gradient has reached counts as zeros.
    """
    def gradient(p):
        return np.zeros_like(p.data) if p.grad is None else data_of(p.grad)

    gradients = [(name, gradient(p)) for name, p in model.named_parameters()]
    return {name: float(np.linalg.norm(g)) for name, g in _grouped(gradients, depth).items()}


def update_to_data_ratio(before, after, depth=None):
    """How far numbers moved between two state_dicts: |after - before| / |before|.

    A table {name: float}, grouped like `gradient_norms`; infinite where zeros have moved, 0 where
    nothing has. Around 1e-3 per step is usual in large networks; small ones stand more.
    """
    old, new = _grouped(before.items(), depth), _grouped(after.items(), depth)
    moved = {name: float(np.linalg.norm(new[name] - old[name])) for name in old}
    sizes = {name: float(np.linalg.norm(old[name])) for name in old}
    never = {name: float("inf") if moved[name] else 0.0 for name in old}  # where there was nothing
    return {name: moved[name] / sizes[name] if sizes[name] else never[name] for name in old}
