"""ContainerService.Attach: one task reads from the client, one writes what the container says; they end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from shoal.errors import FailedPrecondition
from shoal.v1 import container_pb2 as pb
from shoald.api.checks import invalid, required
from shoald.api.codec_container import attach_output
from shoald.api.gate import note
from shoald.api.privileges import entered
from shoald.api.streams import Context, closing, until_first
from shoald.engine.ports import AttachSession, Engine, ExitStatus

_MAX_TERMINAL = 65535


async def attach(engine: Engine, requests: AsyncIterator[pb.ContainerServiceAttachRequest], context: Context) -> None:
    """Serve one attached client until the container's exit was sent, or the client half-closes or goes away."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "start":
        raise invalid("start", "must be the first message")
    start = first.start
    note(start)
    name = required("start.name", start.name)
    if start.stdin:
        name = await entered(engine, name, "the input of")
    session = await engine.attach(name, start.cursor, start.stdout, start.stderr, start.stdin, start.accept_raw)
    try:
        attached = pb.ContainerServiceAttachResponse.Attached()
        await context.write(pb.ContainerServiceAttachResponse(attached=attached))
        await until_first(_forward_output(session, context), _forward_input(session, requests, start.stdin))
    finally:
        # The client may be gone and this task cancelled: the session's descriptors must not stay behind.
        await asyncio.shield(session.close())


async def _forward_output(session: AttachSession, context: Context) -> None:
    async with closing(session.output()) as output:
        async for item in output:
            await context.write(attach_output(item))
            if isinstance(item, ExitStatus):
                return


async def _forward_input(
    session: AttachSession, requests: AsyncIterator[pb.ContainerServiceAttachRequest], stdin: bool
) -> None:
    open_ = stdin
    async for message in requests:
        match message.WhichOneof("message"):
            case "stdin":
                if not stdin:
                    raise invalid("stdin", "this client did not attach standard input")
                open_ = open_ and await _still_open(session, message.stdin)
            case "stdin_eof":
                if open_:
                    open_ = False
                    await session.close_stdin()
            case "resize":
                await _resize(session, message.resize)
            case "start":
                raise invalid("start", "comes once")
            case _:
                raise invalid("message", "is of a kind that this daemon does not know")


async def _still_open(session: AttachSession, data: bytes) -> bool:
    """Write; False when the container no longer reads. Its last output and exit are then on their way: no error."""
    try:
        await session.write_stdin(data)
    except FailedPrecondition:
        return False
    return True


async def _resize(session: AttachSession, size: pb.ContainerServiceAttachRequest.Resize) -> None:
    if not (1 <= size.rows <= _MAX_TERMINAL and 1 <= size.columns <= _MAX_TERMINAL):
        raise invalid("resize", f"{size.rows} x {size.columns} is no size of a terminal")
    await session.resize(size.rows, size.columns)
