"""The event loop of a command: made late, and without what no command uses of it."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run the coroutine to its end and return what it returns. Raises KeyboardInterrupt on Ctrl-C."""
    _import_without_ssl()
    import asyncio

    with asyncio.Runner() as runner:
        _leave_threads(runner.get_loop())
        return runner.run(work)


def _import_without_ssl() -> None:
    """asyncio loads OpenSSL where it finds it, which takes 5 ms of each command; gRPC has a TLS of its own."""
    if "ssl" in sys.modules or "asyncio" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def _leave_threads(loop: Any) -> None:
    """Let the loop end without its threads: one may wait for standard input, which may never come."""

    async def shut_down(timeout: float | None = None) -> None:
        """In place of the one that joins; what is left of the executor goes with the process."""

    loop.shutdown_default_executor = shut_down
