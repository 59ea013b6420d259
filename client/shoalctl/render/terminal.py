"""This machine's terminal in raw mode: every key goes to the container. POSIX and Windows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def input_is_terminal() -> bool:
    """Whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_input() -> bytes:
    """Some bytes of standard input; blocks; empty at its end."""
    return os.read(sys.stdin.fileno(), 65536)


def window() -> tuple[int, int]:
    """Rows and columns."""
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        try:
            size = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue
        return size.lines, size.columns
    return 24, 80


@contextmanager
def raw_mode() -> Iterator[None]:
    """Raw mode for the block; the old mode afterwards, whatever happens."""
    with (_raw_windows if os.name == "nt" else _raw_posix)():
        yield


def on_resize(loop: Any, callback: Callable[[], None]) -> Callable[[], None]:
    """Call back when the window changes its size, where the system tells; returns what undoes it."""
    import signal

    number = getattr(signal, "SIGWINCH", None)
    if number is None:
        return lambda: None
    loop.add_signal_handler(number, callback)
    return lambda: loop.remove_signal_handler(number)


@contextmanager
def _raw_posix() -> Iterator[None]:
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    old = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, old)


@contextmanager
def _raw_windows() -> Iterator[None]:
    import ctypes

    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 - absent elsewhere, also for the type checker
    modes = []
    # Input: no line editing, echo or Ctrl-C handling, but ANSI sequences for keys. Output: ANSI sequences.
    for which, clear, put in ((-10, 0x0007, 0x0200), (-11, 0x0000, 0x000D)):
        handle = kernel.GetStdHandle(which)
        mode = ctypes.c_uint32()
        if kernel.GetConsoleMode(handle, ctypes.byref(mode)):
            modes.append((handle, mode.value))
            kernel.SetConsoleMode(handle, mode.value & ~clear | put)
    try:
        yield
    finally:
        for handle, old in modes:
            kernel.SetConsoleMode(handle, old)
