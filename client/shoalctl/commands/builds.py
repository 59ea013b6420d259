"""The course of `shoal builder ls|attach|logs|cancel`: builds are found by id on the hosts that are asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shoal.errors import NotFound, ShoalError
from shoalctl import exits
from shoalctl.commands.building import build_view, show_event
from shoalctl.commands.image_rows import familiar
from shoalctl.commands.outcome import collected, presented
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.building import Build
from shoalctl.fleet.builds import events_so_far, list_builds
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.invocation import Invocation
from shoalctl.render import console
from shoalctl.render.errors import show_error
from shoalctl.render.human import ago, duration
from shoalctl.render.listing import Listing

if TYPE_CHECKING:
    from shoal.v1 import image_pb2


async def show_list(invocation: Invocation, listing: Listing) -> int:
    """`builder ls`."""
    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(list_builds), fleet.names)
    return presented(listing, results, lambda host, items: [_row(host, item) for item in items])


def _row(host: str, item: image_pb2.BuildSummary) -> dict[str, object]:
    from shoal.v1 import image_pb2

    now = datetime.now(UTC)
    started = item.started_at.ToDatetime(UTC)
    ended = item.ended_at.ToDatetime(UTC) if item.HasField("ended_at") else None
    return {
        "Host": host,
        "ID": item.request_id,
        "State": image_pb2.BuildSummary.State.Name(item.state).removeprefix("STATE_").lower(),
        "Name": familiar(item.tag) if item.tag else "<none>",
        "Started": ago(started, now),
        "StartedAt": started.isoformat(),
        "EndedAt": ended.isoformat() if ended else "",
        "Took": duration((ended or now) - started),
        "ImageID": item.image_id,
        "Error": item.error,
    }


async def follow(invocation: Invocation, wanted: str, progress: str, *, wait: bool) -> int:
    """`builder attach` and `logs`. The image's id goes to standard output."""
    async with invocation.fleet() as fleet:
        host, request_id = await _found(fleet, wanted)
        view = build_view(progress, [host.name])
        build = Build.of(host, request_id)
        try:
            async for event in build.events() if wait else events_so_far(host, request_id):
                show_event(view, host.name, event)
        except ShoalError as error:
            view.close()
            show_error(error, host.name)
            return exits.FAILED
        view.close()
        if wait:
            console.out(build.index_digest or build.result().id)
    return exits.OK


async def cancel_all(invocation: Invocation, wanted: list[str]) -> int:
    """`builder cancel`."""
    async with invocation.fleet() as fleet:
        for host, request_id in [await _found(fleet, each) for each in wanted]:
            await host.cancel(request_id)
            console.out(request_id)
    return exits.OK


async def _found(fleet: Fleet, wanted: str) -> tuple[HostClient, str]:
    """The host of a build and its whole id. A host that does not answer is told of only when the build is not found.
    Raises NotFound (OPERATION_NOT_FOUND), UsageFault for a beginning that several have."""
    results = await collected(fleet.each(list_builds), fleet.names)
    found = [
        (result.host, build.request_id)
        for result in results
        if result.ok
        for build in result.get()
        if build.request_id == wanted or (len(wanted) >= 4 and build.request_id.startswith(wanted))
    ]
    exact = [each for each in found if each[1] == wanted] or found
    if len(exact) > 1:
        raise UsageFault(f"several builds begin with {wanted!r}", hint="see shoal builder ls")
    if not exact:
        for result in results:
            if result.error is not None:
                show_error(result.error, result.host)
        raise NotFound(
            f"no build {wanted!r} is known on {', '.join(fleet.names)}",
            reason="OPERATION_NOT_FOUND",
            hint="it ended more than ten minutes ago, or the daemon was restarted; see shoal builder ls",
        )
    name, request_id = exact[0]
    return fleet.host(name), request_id
