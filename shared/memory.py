"""Memory that a training step frees stays with the process, for the next step."""

import ctypes

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of settings in Linux's <malloc.h>


def keep_freed_memory():
    """Let the C library keep the memory that is freed, instead of handing it back to the system and asking for it anew.

    A training step frees tens or hundreds of megabytes, most of it at the end of its backward pass. Linux's C library gives
    such pieces back, and the next step waits while the system clears every page of them again: a quarter of the step of a
    transformer with three million weights. From now on up to 2 GB stay, so a process remains as large as it once was.
    Elsewhere than with that library it changes nothing. Returns whether it did.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError is Windows's answer
        return False
    larger = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)  # older libraries allow up to 32 MB
    return bool(larger and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
