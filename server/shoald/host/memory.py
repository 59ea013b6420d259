"""Keeping the daemon's memory small: glibc's allocator, told what a daemon with many threads that mostly wait needs.

By default every few threads get an arena of their own that never shrinks: half of the heap of a daemon at rest. See
mallopt(3), malloc_trim(3). On another C library nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8
_M_TRIM_THRESHOLD = -1
_TRIM_BYTES = 256 << 10


def keep_small() -> None:
    """Call before any thread is started."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def settle() -> None:
    """Call when all is loaded: what is here stays for life, and what loading took is given back."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
