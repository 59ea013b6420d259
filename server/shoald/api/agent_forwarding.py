"""ImageService.ForwardAgent: a client's ssh agent for the steps of its builds."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.v1 import image_pb2 as pb
from shoald.api.checks import invalid, required
from shoald.api.streams import Context, until_first
from shoald.build.agents import AgentEvent, Agents, Forward

_MAX_DATA = 256 << 10
_MIN_HANDLE = 16


async def forward_agent(
    agents: Agents, requests: AsyncIterator[pb.ImageServiceForwardAgentRequest], context: Context
) -> None:
    """Serve one call to its end. Raises InvalidArgument (INVALID_FIELD)."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "start":
        raise invalid("start", "must be the first message")
    handle = required("start.handle", first.start.handle)
    if len(handle) < _MIN_HANDLE:
        raise invalid("start.handle", f"has fewer than {_MIN_HANDLE} characters")
    with agents.lent(handle) as forward:
        await until_first(_give(forward, context), _take(forward, requests))


async def _give(forward: Forward, context: Context) -> None:
    while True:
        await context.write(_message(await forward.events.get()))


def _message(event: AgentEvent) -> pb.ImageServiceForwardAgentResponse:
    if event.data is None:
        return pb.ImageServiceForwardAgentResponse(open=event.connection)
    if not event.data:
        return pb.ImageServiceForwardAgentResponse(close=event.connection)
    return pb.ImageServiceForwardAgentResponse(data=pb.AgentData(connection=event.connection, data=event.data))


async def _take(forward: Forward, requests: AsyncIterator[pb.ImageServiceForwardAgentRequest]) -> None:
    async for message in requests:
        match message.WhichOneof("message"):
            case "data":
                if len(message.data.data) > _MAX_DATA:
                    raise invalid("data", f"is longer than {_MAX_DATA} bytes")
                await forward.answer(message.data.connection, message.data.data)
            case "close":
                forward.end(message.close)
            case _:
                raise invalid("message", "only data and close may follow start")
