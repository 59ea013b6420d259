"""Entry point of the `shoal` command."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # A short process that allocates and never makes garbage worth collecting: fewer passes, earlier start.
    gc.set_threshold(50_000, 50, 50)
    from shoalctl.app import run

    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # The reader went away; what is buffered has no place to go, and the interpreter must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
