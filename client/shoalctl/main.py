"""Entry point of the `shoal` command."""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Whichever module loads gRPC first: no lines of its core on the user's terminal.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A short process that allocates and never makes garbage worth collecting: fewer passes, earlier start.
    gc.set_threshold(50_000, 50, 50)
    _open_missing_streams()
    from shoalctl.app import run

    code = run(sys.argv[1:])
    with contextlib.suppress(OSError, ValueError):  # nobody is left to be told
        sys.stderr.flush()
    # All that has to be closed is closed. Taking the interpreter apart would cost 10 ms, and would stumble over a
    # thread that still waits for standard input.
    os._exit(code)


def _open_missing_streams() -> None:
    """What was closed before the start (`<&-`, `>&-`) is empty, or takes all; else other files get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process


if __name__ == "__main__":
    main()
