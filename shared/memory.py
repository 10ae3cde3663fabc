"""Memory that a training step frees stays with the process, for the next step."""

import numpy as np

__all__ = ["keep_freed_memory"]


def keep_freed_memory():
    """Let the C library keep up to 64 MB of freed memory, instead of handing it back and asking for it anew.

    A training step frees tens of megabytes, all at once at the end of its backward pass. Linux's C library gives such a
    piece back to the system, and the next step waits while the system clears every page of it again: about a seventh of
    the time of a small transformer's step. Its limit is twice the largest array up to 32 MB that was ever freed, so one
    array, allocated, never touched and dropped, raises it. It costs nothing; elsewhere than on Linux it changes nothing.
    """
    np.empty(31 << 20, np.uint8)
