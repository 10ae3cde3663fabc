"""What holds for every test of this folder."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _seeded_oracle():
    """PyTorch draws the same numbers in every run, as our own generators do."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
