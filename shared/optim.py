"""The optimisers of the course under PyTorch's names: ``from shared import optim`` for ``torch.optim``.

`optim.lr_scheduler` holds the schedules.
"""

from types import SimpleNamespace

from shared import tensor_mlp
from shared.cnn import Muon
from shared.scalar_mlp import SGD, Optimizer
from shared.tensor_mlp import Adam, AdamW, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "Muon", "Optimizer", "RMSprop", "lr_scheduler"]

lr_scheduler = SimpleNamespace(**{
    name: getattr(tensor_mlp, name)
    for name in ("CosineAnnealingLR", "LRScheduler", "LambdaLR", "LinearLR", "OneCycleLR", "SequentialLR", "StepLR")
})
