"""The layers, losses and helpers of the course under PyTorch's names: ``from shared import nn`` for ``torch.nn``.

For use after the course. Each name is written, derived and tested in its chapter; this file only gathers them.
`nn.init` and `nn.utils` hold what PyTorch keeps there, `nn.functional` is `shared.functional`.
"""

from types import SimpleNamespace

from shared import functional, tensor_mlp
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

__all__ = [
    "GELU",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Dropout",
    "LeakyReLU",
    "Linear",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
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
