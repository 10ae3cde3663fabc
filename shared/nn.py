"""The layers, losses and helpers of the course under PyTorch's names: ``from shared import nn`` for ``torch.nn``.

For use after the course. Each name is written, derived and tested in its chapter; this file only gathers them.
`nn.init` and `nn.utils` hold what PyTorch keeps there, `nn.functional` is `shared.functional`.
"""

from types import SimpleNamespace

from shared import functional, tensor_mlp
from shared.cnn import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout2d,
    Flatten,
    Identity,
    MaxPool2d,
)
from shared.scalar_mlp import Module
from shared.tensor_mlp import (
    GELU,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Dropout,
    LeakyReLU,
    Linear,
    ModuleDict,
    ModuleList,
    MSELoss,
    Parameter,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    clip_grad_norm_,
)
from shared.transformers import Embedding, LayerNorm, RMSNorm

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "functional",
    "init",
    "utils",
]

init = SimpleNamespace(**{
    name: getattr(tensor_mlp, name)
    for name in (
        "calculate_gain", "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_",
        "xavier_normal_", "xavier_uniform_", "zeros_",
    )
})
utils = SimpleNamespace(clip_grad_norm_=clip_grad_norm_)
