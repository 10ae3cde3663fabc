"""Tests of shared.memory: what a step frees serves the next step, without the system's help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.memory import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]

STEPS = """
import resource
import numpy as np
import shared

def step():  # twenty arrays of 16 MB, alive together, as in a forward pass
    arrays = [np.ones(1 << 22, np.float32) for _ in range(20)]

for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="another C library than Linux's")
def test_a_step_after_the_first_asks_the_system_for_no_page():
    done = subprocess.run([sys.executable, "-c", STEPS], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, check=True)
    assert int(done.stdout) < 100  # of the 80,000 that 320 MB have
