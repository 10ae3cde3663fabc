"""Deployment: a model leaves the notebook

Exported from 99_Deployment_Tests/deployment.ipynb by `python -m shared.export`: edit the notebook, not this file.
"""
import io
import json
import os
import struct
from collections import deque, namedtuple
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from time import monotonic, perf_counter
from typing import Any

import numpy as np

import shared
from shared.cnn import BatchNorm2d, Conv2d, Flatten, MaxPool2d, WhitenedNet, cifar10_pixels, mnist_pixels, vgg
from shared.datasets import CIFAR10_CLASSES
from shared.scalar_mlp import Module
from shared.tensor import Tensor, no_grad
from shared.tensor_mlp import GELU, Dropout, Linear, ReLU, Sequential, load, save
from shared.transformers import GPT, GPTConfig, LayerNorm, RMSNorm, Tokenizer

__all__ = [
    "DIGITS",
    "OPSET",
    "Batcher",
    "Latency",
    "PictureError",
    "StoredModel",
    "classify",
    "dequantise",
    "digit_pixels",
    "export_onnx",
    "export_safetensors",
    "latency",
    "load_model",
    "photo_pixels",
    "quantise",
    "read_picture",
    "stored_models",
]


def stored_models():
    """The models whose weights come with the course: a table from name to the path of NAME.safetensors.

    A model counts where NAME.json, its record, stands beside it in a folder `checkpoints` of a chapter, or, where the
    course was installed as a wheel, of the package itself. Section 3.
    """
    folders = [Path(folder) / "checkpoints" for folder in shared.__path__]
    files = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    return {path.stem: path for path in files if path.with_suffix(".json").exists()}


@dataclass(frozen=True)
class StoredModel:
    """A trained model with all that it needs to work.

    name : under which `load_model` found it.
    model : the Module, in evaluation mode.
    record : what its training wrote down: data, figure reached, seed, steps.
    tokenizer : of a language model, else None.
    classes : the names of what a classifier tells apart, else None.
    shape : of one input, such as (1, 28, 28); None for a language model, which reads ids (B, T).
    prepare : function of a picture, bytes (H, W, 3), that returns the classifier's input (1, *shape); else None.
    """

    name: str
    model: Module
    record: dict
    tokenizer: Any = None
    classes: list | None = None
    shape: tuple | None = None
    prepare: Callable | None = None


DIGITS = [str(digit) for digit in range(10)]


class _Sum(Sequential):
    """The sum of what its parts make of one input."""

    def forward(self, x):
        return sum(part(x) for part in self._parts())


def _mnist_mlp():
    """Chapter 05's network for rows of pixels from 0 to 1."""
    parts = [Dropout(0.1), Linear(784, 512), ReLU(), Dropout(0.2), Linear(512, 256), ReLU(),
             Dropout(0.2), Linear(256, 10)]
    return Sequential(*parts), DIGITS, (784,), lambda picture: digit_pixels(picture).reshape(1, 784)


def _mnist_cnn():
    """Chapter 06's network for digits of mean 0 and variance 1."""
    model = vgg((32, 32, "pool", 64, 64, "pool", 128, "pool"), in_channels=1, size=28)
    return model, DIGITS, (1, 28, 28), lambda picture: mnist_pixels(255 * digit_pixels(picture)[:, 0])


def _cifar10_cnn():
    """Chapter 06's network for photographs."""
    return (WhitenedNet(), list(CIFAR10_CLASSES), (3, 32, 32),
            lambda picture: cifar10_pixels(255 * photo_pixels(picture)))


def _usa_housing_mlp():
    """Chapter 05's network for standardised features of houses; prices come out standardised, too."""
    bend = Sequential(Linear(5, 16), GELU(), Linear(16, 1))
    return _Sum({"line": Linear(5, 1), "bend": bend}), None, (5,), None


_RECIPES = {"mnist_mlp": _mnist_mlp, "mnist_cnn": _mnist_cnn,
            "cifar10_cnn": _cifar10_cnn, "usa_housing_mlp": _usa_housing_mlp}


def load_model(name):
    """The trained model of that name, as a StoredModel; `stored_models` lists the names.

    A record that holds a GPT's configuration makes a GPT, with NAME.tokenizer.json; the others are built as the
    training script of their chapter does. Raises ValueError, with the names that are known, for any other.
    """
    paths = stored_models()
    if name not in paths:
        raise ValueError(f"load_model: there is no model {name!r}; known are {', '.join(sorted(paths))}")
    path, tokenizer = paths[name], None
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if "config" in record:
        model, *rest = GPT(GPTConfig(**record["config"]), generator=0), None, None, None
        tokenizer = Tokenizer.load(path.with_suffix(".tokenizer.json"))
    elif name in _RECIPES:
        model, *rest = _RECIPES[name]()
    else:
        raise ValueError(f"load_model: {name!r} has weights at {path}, but nothing says how it is built")
    model.load_state_dict(load(path))
    return StoredModel(name, model.eval(), record, tokenizer, *rest)


def export_safetensors(stored, path):
    """Write the model's state_dict to a .safetensors file, with its name and its record as metadata;
    returns the path.

    The names are PyTorch's, the weights (out, in):
    safetensors.torch.load_file reads it into a state_dict for PyTorch.
    """
    save(stored.model.state_dict(), path, {"name": stored.name, "record": json.dumps(stored.record)})
    return Path(path)


class PictureError(ValueError):
    """Data that is no picture which `read_picture` takes; the message says why."""


def _pillow():
    """The package Pillow, which only pictures need. Raises ImportError that says how to install it."""
    try:
        from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin
    except ImportError as error:
        raise ImportError("read_picture needs the package Pillow: pip install pillow") from error
    return Image, ImageOps, {b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
                             b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile}


def read_picture(source, max_pixels=50_000_000):
    """A PNG or JPEG picture, from a path or from bytes, as bytes (H, W, 3), red, green and blue.

    It is turned upright as its EXIF data say, and what is transparent is laid on white. Palettes, grey, 16 bits,
    CMYK: all become RGB. Raises PictureError where the data are truncated or something else, or hold more than
    `max_pixels`, which is read off the header before anything is decoded; OSError where a path cannot be read.
    """
    Image, ImageOps, formats = _pillow()
    with io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else open(source, "rb") as stream:
        head = stream.read(8)
        opener = next((opener for magic, opener in formats.items() if head.startswith(magic)), None)
        if opener is None:
            raise PictureError("read_picture: this is neither a PNG nor a JPEG picture")
        stream.seek(0)
        try:
            image = opener(stream)  # reads the header only
            width, height = image.size
            if width * height > max_pixels:
                raise PictureError(f"read_picture: {width} x {height} pixels, at most {max_pixels:,} are taken")
            return _as_rgb(ImageOps.exif_transpose(image), Image)
        except PictureError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise PictureError(f"read_picture: the picture is damaged or truncated ({error})") from error


def _as_rgb(image, Image):
    """A Pillow image of any mode as bytes (H, W, 3)."""
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = np.clip((np.asarray(image).astype(np.int64) + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return np.array(image.convert("RGB"))


def _area_weights(size, new):
    """A matrix (new, size): row i holds the share of the i-th of `new` equal pieces
    that each of `size` pixels covers."""
    edges, pixels = np.linspace(0, size, new + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * (new / size)


def _resized(picture, height, width):
    """A picture (H, W, ...) averaged over the areas of height x width new pixels."""
    rows, columns = _area_weights(picture.shape[0], height), _area_weights(picture.shape[1], width)
    return np.moveaxis(np.tensordot(columns, np.tensordot(rows, picture, (1, 0)), (1, 1)), 0, 1)


def photo_pixels(picture):
    """The square in the middle of a picture, bytes (H, W, 3),
    averaged down to (1, 3, 32, 32), float32 from 0 to 1."""
    picture = _checked_picture("photo_pixels", picture)
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    return (_resized(square, 32, 32) / 255).astype(np.float32).transpose(2, 0, 1)[None]


def _checked_picture(name, picture):
    """The picture as an array. Raises ValueError where it is no picture (H, W, 3)."""
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"{name}: expected a picture (H, W, 3), as read_picture returns it, "
                         f"got shape {picture.shape}")
    return picture


def _ink(picture):
    """How much each pixel differs from the paper: (H, W), from 0 to 1; zeros where nothing is drawn."""
    grey = picture @ np.array([0.299, 0.587, 0.114]) / 255
    edge = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    paper = np.median(edge)
    shade = 2 * np.quantile(np.abs(edge - paper), 0.75)  # what the light does to the paper is no ink
    ink = np.clip(np.abs(grey - paper) - shade, 0, None)
    return ink / ink.max() if ink.max() > 0.1 else np.zeros_like(ink)


def _box(ink, least=0.1):
    """The part of (H, W) around everything that is at least `least`."""
    rows, columns = (np.flatnonzero((ink >= least).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(digit, size=28):
    """A digit (h, w) in an empty square, its centre of mass in the middle, as far as it fits: (size, size)."""
    field, mass = np.zeros((size, size)), digit.sum()
    corner = []
    for axis, length in enumerate(digit.shape):
        centre = digit.sum(1 - axis) @ np.arange(length) / mass
        corner.append(int(np.clip(round(size / 2 - centre), 0, size - length)))
    field[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return field


def digit_pixels(picture):
    """A drawn digit, bytes (H, W, 3), as MNIST would have it: (1, 1, 28, 28), float32, ink 1 on paper 0.

    Ink is what differs from the paper at the picture's edge, dark or bright. The box around it is scaled, its longer
    side to 20 pixels, and its centre of mass put into the middle. Nothing drawn gives zeros. Raises ValueError for
    another shape. After LeCun, Bottou, Bengio and Haffner (1998), section III.A.
    """
    ink = _ink(_checked_picture("digit_pixels", picture))
    if not ink.any():
        return np.zeros((1, 1, 28, 28), np.float32)
    box = _box(ink)
    height, width = (max(1, round(20 * n / max(box.shape))) for n in box.shape)
    small = _resized(box, height, width)
    return _centred(small / small.max()).astype(np.float32)[None, None]


def classify(stored, pictures, batch=256):
    """Probabilities (N, classes) for a sequence of pictures, each bytes (H, W, 3), computed a `batch` at a time.

    Raises ValueError where the model is no classifier, or there are no pictures.
    """
    if stored.classes is None:
        raise ValueError(f"classify: {stored.name} is no classifier of pictures")
    if not len(pictures):
        raise ValueError("classify: expected at least one picture")
    found = []
    for first in range(0, len(pictures), batch):
        x = np.concatenate([stored.prepare(picture) for picture in pictures[first : first + batch]])
        with no_grad():
            found.append(stored.model(Tensor(x)).softmax(1).data)
    return np.concatenate(found)


OPSET = 20  # the version of ONNX's operations; Gelu needs 20, LayerNormalization 17


def _onnx():
    """The package onnx, which only the export needs. Raises ImportError that says how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("export_onnx needs the package onnx: pip install onnx") from error
    return onnx


class _Graph:
    """An ONNX graph while it is built: nodes, and the arrays that they need."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.arrays, self.names = onnx, [], {}, {}

    def weight(self, value, name):
        """A parameter, or a buffer, under its name in the state_dict;
        one that is tied is stored once, under its first name."""
        # keeps the value alive, so that its id stays its own
        name, _ = self.names.setdefault(id(value), (name, value))
        self.arrays[name] = np.asarray(value.data if isinstance(value, Tensor) else value, np.float32)
        return name

    def add(self, operation, *inputs, **attributes):
        """A node, whose inputs are names or arrays; returns the name of what it computes."""
        names = []
        for value in inputs:
            if not isinstance(value, str):
                name = f"constant_{len(self.arrays)}"
                self.arrays[name], value = np.asarray(value), name
            names.append(value)
        output = f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operation, names, [output], **attributes))
        return output


_RULES = {}  # from a kind of module to the function that adds its nodes


def _rule(*kinds):
    """Decorator: the function of (graph, module, input's name, module's name) adds the nodes
    of these kinds of modules."""
    def add(function):
        _RULES.update(dict.fromkeys(kinds, function))
        return function

    return add


def _emit(graph, module, x, name):
    """Add the nodes of a module that reads `x`; returns the name of its output.

    Raises TypeError for an unknown kind."""
    if type(module) not in _RULES:
        raise TypeError(f"export_onnx: {name or 'the model'} is a {type(module).__name__}, "
                        "which no rule writes as ONNX")
    return _RULES[type(module)](graph, module, x, name)


def _parts(module, name):
    """The parts of a module with their full names, in order."""
    return [(f"{name}.{key}" if name else key, part)
            for key, part in vars(module).items() if isinstance(part, Module)]


@_rule(Sequential)
def _sequential_nodes(graph, module, x, name):
    for full, part in _parts(module, name):
        x = _emit(graph, part, x, full)
    return x


@_rule(Linear)
def _linear_nodes(graph, layer, x, name):
    turned = graph.add("Transpose", graph.weight(layer.weight, f"{name}.weight"), perm=[1, 0])
    y = graph.add("MatMul", x, turned)
    return y if layer.bias is None else graph.add("Add", y, graph.weight(layer.bias, f"{name}.bias"))


@_rule(ReLU)
def _relu_nodes(graph, layer, x, name):
    return graph.add("Relu", x)


@_rule(GELU)
def _gelu_nodes(graph, layer, x, name):
    return graph.add("Gelu", x, approximate=layer.approximate)


@_rule(Dropout)
def _dropout_nodes(graph, layer, x, name):
    return x  # nothing, outside of training


@_rule(_Sum)
def _sum_nodes(graph, module, x, name):
    return graph.add("Sum", *[_emit(graph, part, x, full) for full, part in _parts(module, name)])


@_rule(Flatten)
def _flatten_nodes(graph, layer, x, name):
    return graph.add("Flatten", x, axis=1)


@_rule(Conv2d)
def _conv_nodes(graph, layer, x, name):
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    padding = {"same": [r // 2 for r in reach], "valid": [0, 0]}.get(layer.padding, layer.padding)
    arrays = [graph.weight(layer.weight, f"{name}.weight")]
    arrays += [] if layer.bias is None else [graph.weight(layer.bias, f"{name}.bias")]
    return graph.add("Conv", x, *arrays, strides=layer.stride, pads=[*padding, *padding], dilations=layer.dilation,
                     group=layer.groups)


@_rule(MaxPool2d)
def _max_pool_nodes(graph, layer, x, name):
    size, stride, padding, dilation = (
        list(value) if isinstance(value, tuple | list) else [value, value]
        for value in (layer.kernel_size, layer.stride or layer.kernel_size, layer.padding, layer.dilation))
    return graph.add("MaxPool", x, kernel_shape=size, strides=stride, pads=padding * 2, dilations=dilation)


@_rule(BatchNorm2d)
def _batch_norm_nodes(graph, layer, x, name):
    one, zero = np.ones(layer.num_features), np.zeros(layer.num_features)
    arrays = {"weight": one if layer.weight is None else layer.weight,
              "bias": zero if layer.bias is None else layer.bias,
              "running_mean": layer.running_mean, "running_var": layer.running_var}
    names = [graph.weight(value, f"{name}.{key}") for key, value in arrays.items()]
    return graph.add("BatchNormalization", x, *names, epsilon=layer.eps)


@_rule(WhitenedNet)
def _whitened_nodes(graph, model, x, name):
    x = graph.add("Gelu", _emit(graph, model.whiten, x, "whiten"))
    x = _emit(graph, model.head, _emit(graph, model.layers, x, "layers"), "head")
    return graph.add("Mul", x, np.float32(1 / model.head.in_features))


@_rule(LayerNorm)
def _layer_norm_nodes(graph, layer, x, name):
    weight = np.ones(layer.normalized_shape) if layer.weight is None else layer.weight
    arrays = [graph.weight(weight, f"{name}.weight")]
    arrays += [] if layer.bias is None else [graph.weight(layer.bias, f"{name}.bias")]
    return graph.add("LayerNormalization", x, *arrays, axis=-len(layer.normalized_shape), epsilon=layer.eps)


@_rule(RMSNorm)
def _rms_norm_nodes(graph, layer, x, name):
    axes = np.arange(-len(layer.normalized_shape), 0)
    eps = np.float32(np.finfo(np.float32).eps if layer.eps is None else layer.eps)
    mean = graph.add("ReduceMean", graph.add("Mul", x, x), axes)
    y = graph.add("Div", x, graph.add("Sqrt", graph.add("Add", mean, eps)))
    return y if layer.weight is None else graph.add("Mul", y, graph.weight(layer.weight, f"{name}.weight"))


def _attention_nodes(graph, layer, x, name, sees, turn):
    """Causal attention; `sees` (T, T) says who sees whom,
    `turn` gives queries and keys their positions, where it is rotary."""
    size = layer.n_embd // layer.n_head
    qkv = graph.add("Reshape", _emit(graph, layer.c_attn, x, f"{name}.c_attn"),
                    np.array([0, 0, 3, layer.n_head, size]))
    qkv = graph.add("Transpose", qkv, perm=[2, 0, 3, 1, 4])  # (3, B, H, T, D)
    q, k, v = (graph.add("Gather", qkv, np.array(i), axis=0) for i in range(3))
    q, k = turn(q), turn(k)
    q = graph.add("Mul", q, np.float32(size**-0.5))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    weights = graph.add("Softmax", graph.add("Where", sees, scores, np.float32(-np.inf)), axis=-1)
    y = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return _emit(graph, layer.c_proj, graph.add("Reshape", y, np.array([0, 0, layer.n_embd])), f"{name}.c_proj")


def _feed_forward_nodes(graph, layer, x, name):
    """Two linear layers with an activation between them."""
    x = _emit(graph, layer.c_fc, x, f"{name}.c_fc")
    if layer.activation == "relu2":
        x = graph.add("Relu", x)
        x = graph.add("Mul", x, x)
    else:
        x = graph.add("Gelu", x, approximate="tanh" if layer.activation == "gelu_tanh" else "none")
    return _emit(graph, layer.c_proj, x, f"{name}.c_proj")


def _block_nodes(graph, block, x, name, sees, turn):
    """Attention, then a feed-forward network, each added to the residual stream."""
    for norm, part in (("ln_1", "attn"), ("ln_2", "mlp")):
        inner = _emit(graph, getattr(block, norm), x, f"{name}.{norm}") if block.pre_norm else x
        if part == "attn":
            y = _attention_nodes(graph, block.attn, inner, f"{name}.attn", sees, turn)
        else:
            y = _feed_forward_nodes(graph, block.mlp, inner, f"{name}.mlp")
        x = graph.add("Add", x, y)
        x = x if block.pre_norm else _emit(graph, getattr(block, norm), x, f"{name}.{norm}")
    return x


def _turning(graph, rotary, length):
    """A function that adds the nodes of rotary positions: x cos + (x with each pair turned by 90 degrees) sin."""
    angles = np.repeat(rotary.turns, 2, axis=1)  # (positions, D)
    zero, axis = np.array([0]), np.array([0])
    cos, sin = (graph.add("Slice", part, zero, length, axis) for part in (angles.real, angles.imag))
    quarter = np.kron(np.eye(angles.shape[1] // 2), [[0, 1], [-1, 0]]).astype(np.float32)  # (a, b) to (-b, a)

    def turn(x):
        return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", graph.add("MatMul", x, quarter), sin))

    return turn


@_rule(GPT)
def _gpt_nodes(graph, model, ids, name):
    parts, config = model.transformer, model.config
    length = graph.add("Shape", ids, start=1, end=2)  # T, as an array that holds one number
    x = graph.add("Gather", graph.weight(parts.wte.weight, "transformer.wte.weight"), ids)
    if config.positions == "sinusoidal":
        x = graph.add("Mul", x, np.float32(config.n_embd**0.5))
    table = {"learned": lambda: graph.weight(parts.wpe.weight, "transformer.wpe.weight"),
             "sinusoidal": lambda: model.sinusoidal.waves, "rotary": lambda: None}[config.positions]()
    if table is not None:
        x = graph.add("Add", x, graph.add("Slice", table, np.array([0]), length, np.array([0])))
    places = graph.add("Range", np.array(0), graph.add("Squeeze", length), np.array(1))
    sees = graph.add("GreaterOrEqual", graph.add("Unsqueeze", places, np.array([1])), places)  # (T, T)
    rotary = parts.h[0].attn.rotary
    turn = (lambda x: x) if rotary is None else _turning(graph, rotary, length)
    for i, block in enumerate(parts.h):
        x = _block_nodes(graph, block, x, f"transformer.h.{i}", sees, turn)
    return _emit(graph, model.lm_head, _emit(graph, parts.ln_f, x, "transformer.ln_f"), "lm_head")


def export_onnx(stored, path):
    """Write a model as an ONNX file, opset 20, checked by onnx.checker; returns the path.

    Its input is "x" (N, *shape), float32, or for a GPT "ids" (N, T), int64, T up to its block_size; its
    output "logits". N and T are free. Weights have their names in the state_dict; the classes stand in the
    metadata, as JSON.
    Raises ImportError where onnx is missing, TypeError for a layer that no rule writes as ONNX.
    """
    onnx = _onnx()
    helper, graph, model = onnx.helper, _Graph(onnx), stored.model
    if stored.shape is None:
        name, kind, shape, last = "ids", onnx.TensorProto.INT64, ["N", "T"], ["N", "T", model.config.vocab_size]
    else:
        name, kind, shape = "x", onnx.TensorProto.FLOAT, ["N", *stored.shape]
        with no_grad():
            last = ["N", *model(Tensor(np.zeros((1, *stored.shape), np.float32))).shape[1:]]
    graph.add("Identity", _emit(graph, model, name, ""))
    graph.nodes[-1].output[0] = "logits"
    proto = helper.make_model(helper.make_graph(
        graph.nodes, stored.name,
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, last)],
        [onnx.numpy_helper.from_array(np.array(array, order="C"), key) for key, array in graph.arrays.items()],
    ), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9, producer_name="deep-learning-from-numpy",
        producer_version=shared.__version__)
    helper.set_model_props(proto, {"classes": json.dumps(stored.classes)} if stored.classes else {})
    onnx.checker.check_model(proto, full_check=True)
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    temporary.write_bytes(proto.SerializeToString())
    os.replace(temporary, path)
    return Path(path)


Latency = namedtuple("Latency", "mean p50 p90 p99 worst seconds")


def latency(function, *arguments, warm_up=10, repeat=100, clock=perf_counter):
    """How long calls take: a Latency of seconds, its mean, percentiles and worst, and `seconds` (repeat,), in order.

    The first `warm_up` calls are not counted: they fill caches and start threads. A percentile is the smallest
    measured time that so many per cent of the calls do not exceed. `clock` is a function that returns seconds. Raises
    ValueError for fewer than one call.
    """
    if repeat < 1 or warm_up < 0:
        raise ValueError(f"latency: expected at least 1 call to measure and 0 to warm up, got {repeat} and {warm_up}")
    for _ in range(warm_up):
        function(*arguments)
    seconds = np.empty(repeat)
    for i in range(repeat):
        start = clock()
        function(*arguments)
        seconds[i] = clock() - start
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99], method="inverted_cdf")
    return Latency(seconds.mean(), p50, p90, p99, seconds.max(), seconds)


class Batcher:
    """Collects requests that come one by one, from many threads, into batches for one function.

    `function` gets a list of 1 to `max_size` requests and returns as many results, in order. It is called in a thread
    of the batcher's own, as soon as a batch is full or its first request has waited for `max_wait` seconds. Where it
    raises on a batch, each request is tried alone, so that an error reaches only the caller whose request it is.
    Use it in a `with` block, or call `close`. Raises ValueError for a size below 1 or a negative wait.
    """

    def __init__(self, function, max_size=32, max_wait=0.005):
        if max_size < 1 or not max_wait >= 0:
            raise ValueError("Batcher: expected a size of at least 1 and a wait of at least 0, "
                             f"got {max_size} and {max_wait}")
        self.function, self.max_size, self.max_wait = function, max_size, max_wait
        self._waiting, self._changed, self._closed = deque(), Condition(), False
        self._thread = Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request):
        """Hand in a request; returns a Future at once. Raises RuntimeError after `close`."""
        future = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("Batcher: it is closed and takes no more requests")
            self._waiting.append((request, future, monotonic() + self.max_wait))
            self._changed.notify()
        return future

    def __call__(self, request):
        """Hand in a request and wait for its result; raises what the function raised for it."""
        return self.submit(request).result()

    def close(self):
        """Take no more requests, finish those that wait, and end the thread. A second call changes nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _collect(self):
        """The next batch, a list of (request, future); empty when the batcher is closed and nothing waits."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and len(self._waiting) < self.max_size and not self._closed:
                left = self._waiting[0][2] - monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            count = min(self.max_size, len(self._waiting))
            return [self._waiting.popleft()[:2] for _ in range(count)]

    def _work(self):
        """What the thread does: batch after batch, until there is none."""
        while batch := self._collect():
            batch = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _answer(self, batch):
        """Call the function, and give each future its result or its error."""
        try:
            results = list(self.function([request for request, _ in batch]))
            if len(results) != len(batch):
                raise RuntimeError(f"Batcher: the function returned {len(results)} results for {len(batch)} requests")
        except Exception as error:  # whatever it is, it belongs to the caller
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for pair in batch:
                    self._answer([pair])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def quantise(state_dict, bits=8):
    """Round the matrices and kernels of a state_dict to whole numbers of `bits` bits,
    with one scale for each output row.

    Returns a table for `save`: the numbers, int8, under their own names, their scales (O, 1, ...),
    float32, under NAME:scale; vectors and integers are left as they are. In a row the scale is max |w| /
    (2^(bits - 1) - 1), and the error of a number at most half of that. Raises ValueError for bits outside
    of 2 to 8, and for numbers that are not finite.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"quantise: bits is from 2 to 8, got {bits}")
    top, table = 2 ** (bits - 1) - 1, {}
    for name, value in state_dict.items():
        value = np.asarray(value)
        if value.ndim < 2 or value.dtype.kind != "f":
            table[name] = value
            continue
        if not np.isfinite(value).all():
            raise ValueError(f"quantise: {name} holds numbers that are not finite")
        largest = np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True)
        scale = np.where(largest > 0, largest / top, 1).astype(np.float32)
        table[name] = np.clip(np.rint(value / scale), -top, top).astype(np.int8)
        table[f"{name}:scale"] = scale
    return table


def dequantise(table):
    """The state_dict, float32, of a table that `quantise` made."""
    names = [name for name in table if not name.endswith(":scale")]
    return {name: table[name] * table[f"{name}:scale"] if f"{name}:scale" in table else table[name] for name in names}
