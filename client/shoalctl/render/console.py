"""Standard output and error: text, bytes, colour, width. Hostile text never reaches a terminal as control codes."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from typing import NoReturn, TextIO

from shoalctl.defect import OutputFault

_RESET = "\x1b[0m"
_STYLES = {"red": "\x1b[31m", "yellow": "\x1b[33m", "dim": "\x1b[2m", "bold": "\x1b[1m", "green": "\x1b[32m"}
_HOSTS = ("\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[35m", "\x1b[34m", "\x1b[96m", "\x1b[92m", "\x1b[93m", "\x1b[95m")


def out(text: str, end: str = "\n") -> None:
    """Write a line to standard output; on a terminal without control characters. Raises OutputFault."""
    if is_terminal() and not text.isprintable():
        text = "".join(c if c.isprintable() or c in "\n\t" else printable(c) for c in text)
    _write(sys.stdout, text + end)


def err(text: str, end: str = "\n") -> None:
    """Write a line to standard error. Raises OutputFault."""
    _write(sys.stderr, text + end)


def raw(data: bytes, *, error: bool = False) -> None:
    """Write bytes as they are, at once. Raises OutputFault."""
    stream = sys.stderr if error else sys.stdout
    try:
        stream.flush()
        binary = getattr(stream, "buffer", None)
        if binary is None:
            stream.write(data.decode("utf-8", "replace"))
        else:
            binary.write(data)
            binary.flush()
    except OSError as failure:
        _fail(stream, failure)


def flush() -> None:
    """Let buffered output go, before a wait. Raises OutputFault."""
    _flush(sys.stdout)


def flush_error() -> None:
    """Let what was written to standard error be seen now. Raises OutputFault."""
    _flush(sys.stderr)


def is_terminal(*, error: bool = False) -> bool:
    """Whether standard output (or error) is a terminal that takes ANSI codes."""
    stream = sys.stderr if error else sys.stdout
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    return os.name != "nt" or _ansi_on_windows(error)


def colours(*, error: bool = False) -> bool:
    """Whether to use colour: only on a terminal, and not with NO_COLOR (https://no-color.org)."""
    return is_terminal(error=error) and not os.environ.get("NO_COLOR")


def styled(text: str, style: str, *, error: bool = False) -> str:
    """The text in a style (red, yellow, green, dim, bold) where colour is wanted."""
    return f"{_STYLES[style]}{text}{_RESET}" if colours(error=error) else text


def host_colour(index: int) -> str:
    """The ANSI code of the colour for the host with this index."""
    return _HOSTS[index % len(_HOSTS)]


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def height() -> int:
    """Rows of the terminal."""
    return shutil.get_terminal_size((100, 24)).lines


def printable(text: str) -> str:
    """The text without control characters (a name or message from a host can't drive the terminal)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@cache
def _ansi_on_windows(error: bool) -> bool:
    """Ask the console for ANSI sequences; whether it knows them."""
    import ctypes

    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - absent elsewhere, also for the type checker
    handle = kernel.GetStdHandle(-12 if error else -11)
    mode = ctypes.c_uint32()
    return bool(kernel.GetConsoleMode(handle, ctypes.byref(mode)) and kernel.SetConsoleMode(handle, mode.value | 4))


def _write(stream: TextIO, text: str) -> None:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding))
    except OSError as error:
        _fail(stream, error)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError as error:
        _fail(stream, error)


def _fail(stream: TextIO, error: OSError) -> NoReturn:
    name = "standard error" if stream is sys.stderr else "standard output"
    raise OutputFault(error.errno, error.strerror, name) from error
