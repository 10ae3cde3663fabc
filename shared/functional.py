"""Functions of tensors under PyTorch's names: ``import shared.functional as F`` for ``torch.nn.functional``."""

from shared.cnn import (
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    conv_transpose2d,
    dropout2d,
    max_pool2d,
)
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
from shared.transformers import embedding, layer_norm, rms_norm, scaled_dot_product_attention

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "embedding",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "softmax",
    "tanh",
]
