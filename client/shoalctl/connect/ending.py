"""How a call that this side writes to has ended: the host's word, which grpc.aio may hide (grpc/grpc#36066)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

from shoal.errors import ShoalError
from shoalctl.connect.failure import LinkLost, translated

_PREMATURE = "Internal error from Core"
_SETTLING, _SETTLING_STEP = 100, 0.02  # how often, and after how many seconds each, to look for the real status


class Ending:
    """The final status of a call, noted as it comes in. Make it before the first write.

    A write that meets the end of a call sets the status "Internal error from Core". If the host's own status came
    first, it is overwritten, so it is noted at once; if it comes later, it replaces the other, so it is waited for.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._noted: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    async def error(self) -> ShoalError:
        """Why the call has ended, once its reading or writing failed; LinkLost when the host never said it."""
        for _ in range(_SETTLING):
            if self._noted is not None or await self._call.details() != _PREMATURE:
                break
            await asyncio.sleep(_SETTLING_STEP)
        status = self._noted or await _status(self._call)
        return LinkLost("the connection was lost") if status.details() == _PREMATURE else translated(status)

    def _note(self, call: Any) -> None:
        status = _at_once(_status(call))
        if status is not None and status.details() != _PREMATURE:
            self._noted = status


async def _status(call: Any) -> grpc.aio.AioRpcError:
    code, details = await call.code(), await call.details()
    return grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), details=details)


def _at_once(work: Coroutine[Any, Any, grpc.aio.AioRpcError]) -> grpc.aio.AioRpcError | None:
    """The result of a coroutine that need not wait: a call that has ended has all parts of its status."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    work.close()
    return None
