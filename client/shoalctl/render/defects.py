"""The last word of a command that ends by an error which nobody has expected."""

from __future__ import annotations

import contextlib
import errno
import os

from shoalctl.defect import OutputFault, internal
from shoalctl.render import console


def show_defect(error: Exception) -> None:
    """One line on standard error; none for a reader that has gone away. With SHOAL_DEBUG the traceback too."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return
    with contextlib.suppress(OSError, ValueError):
        if isinstance(error, OutputFault):
            console.err(f"shoal: can't write {error.filename}: {error.strerror}")
        else:
            console.err(f"shoal: {console.printable(internal(error).message)}")
        show_traceback(error)


def show_traceback(error: BaseException) -> None:
    """Where the error comes from, on standard error; only with SHOAL_DEBUG."""
    if os.environ.get("SHOAL_DEBUG"):
        import traceback

        console.err("".join(traceback.format_exception(error)), end="")
