"""The entry point of the command `shoald`: tells what is missing where only the client was installed."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; 1 when the daemon's packages are not installed."""
    try:
        from shoald.main import main as run
    except ModuleNotFoundError as error:
        print(f"shoald: the package {error.name} is missing", file=sys.stderr)
        print("  hint: the daemon needs more than the client: pip install 'shoal[daemon]'", file=sys.stderr)
        return 1
    return run()
