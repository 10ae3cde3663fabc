"""Functions of tensors under PyTorch's names: ``import shared.functional as F`` for ``torch.nn.functional``."""

from shared.tensor import log_softmax, relu, sigmoid, softmax, tanh
from shared.tensor_mlp import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dropout,
    gelu,
    leaky_relu,
    linear,
    mse_loss,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "gelu",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
