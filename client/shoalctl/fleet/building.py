"""A build on one host: send the context, follow the events to the image, also over lost links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import DataLoss, FailedPrecondition, Internal, NotFound, ShoalError
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.context import without_blocking
from shoalctl.fleet.host import new_request_id
from shoalctl.fleet.manifest import Manifest, SharedManifest

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient

_ESTIMATE_S = 60.0
_ATTEMPTS = 5  # how often a context that was cut off is sent again
_CONTENDED = 40  # ... that the host lacks once more: each time another build was quicker with what both start from


Archive = Callable[[], Iterator[bytes]]
"""Gives a fresh iterator over a tar stream each time that it is called."""


class Build:
    """One build of one host, of contexts by manifest (directories of this machine) or as archives.

    `request_id` is that of the attempt under way: what `HostClient.cancel` takes. `sending` is told how many bytes of
    how many were sent, when the host lacks some.
    """

    def __init__(
        self,
        host: HostClient,
        start: image_pb2.ImageServiceBuildRequest.Start,
        context: SharedManifest | Archive,
        named: Mapping[str, SharedManifest | Archive] | None = None,
    ) -> None:
        from shoal.v1 import image_pb2

        self.request_id = start.request_id or new_request_id()
        self.image: image_pb2.Image | None = None
        self.index_digest = ""
        self.caches: dict[bool, image_pb2.BuildEvent.CacheReady] = {}
        """What the host made of `Start.cache_exports`, by `all_steps`."""
        self.sending: Callable[[int, int], None] = lambda done, total: None
        self._host = host
        self._start = image_pb2.ImageServiceBuildRequest.Start()
        self._start.CopyFrom(start)
        contexts = {"": context, **(named or {})}
        self._archives = {name: each for name, each in contexts.items() if not isinstance(each, SharedManifest)}
        self._shared = {name: each for name, each in contexts.items() if isinstance(each, SharedManifest)}
        self._manifests: dict[str, Manifest] = {}
        self._cursor = 0
        self._sent = False

    @classmethod
    def of(cls, host: HostClient, request_id: str) -> Build:
        """One that the host works at, or has ended a moment ago."""
        from shoal.v1 import image_pb2

        build = cls(host, image_pb2.ImageServiceBuildRequest.Start(request_id=request_id), lambda: iter(()))
        build._sent = True
        return build

    def restrict(self, platforms: Sequence[tuple[str, str, str]]) -> None:
        """Build for these (system, architecture, variant) only; before `events`."""
        from shoal.v1 import types_pb2

        messages = [types_pb2.Platform(os=each[0], architecture=each[1], variant=each[2]) for each in platforms]
        self._start.ClearField("platforms")
        self._start.ClearField("platform")
        if len(messages) == 1:
            self._start.platform.CopyFrom(messages[0])
        else:
            self._start.platforms.extend(messages)

    async def events(self) -> AsyncGenerator[image_pb2.BuildEvent, None]:
        """The events, each once; afterwards `image` is there, with `index_digest` if it is part of an index. Raises
        what the build failed with."""
        attempts = 0
        cause: ShoalError | None = None
        while self.image is None:
            if not self._sent:
                self._manifests = {name: await each.get() for name, each in self._shared.items()}
            source = self._follow() if self._sent else self._send()
            try:
                async for message in source:
                    if message.HasField("event") and message.event.cursor > self._cursor:
                        self._cursor = message.event.cursor
                        if message.event.HasField("cache_ready"):
                            self.caches[message.event.cache_ready.all_steps] = message.event.cache_ready
                        yield message.event
                    elif message.HasField("image"):
                        self._check_result(message.index_digest)
                        self.image, self.index_digest = message.image, message.index_digest
                if self.image is None:
                    raise LinkLost("the stream ended before the build did")
            except (LinkLost, FailedPrecondition, NotFound) as error:
                attempts += 1
                if not self._may_go_on(error):
                    raise self._lost(error) from error
                contended = cause is None and isinstance(error, FailedPrecondition)
                if attempts > (_CONTENDED if contended else _ATTEMPTS):
                    # Why the context never came says more than that it is not there.
                    raise (error if cause is None or isinstance(error, LinkLost) else cause) from error
                if isinstance(error, FailedPrecondition):
                    cause = await self._send_contexts() or cause
                elif isinstance(error, LinkLost):
                    await self._host.link.reconnect()
                if not self._sent:
                    # The host has given the build up with its half of a context; its id is spent.
                    self.request_id = new_request_id()
                    self._cursor = 0

    def _check_result(self, index_digest: str) -> None:
        """A daemon that does not know these fields of `Start` builds one image, and says nothing."""
        start = self._start
        if not index_digest and (len(start.platforms) > 1 or start.sbom or start.HasField("provenance")):
            missing = "for its own platform only" if len(start.platforms) > 1 else "without attestations"
            raise FailedPrecondition(
                f"the host built an image {missing}: its version is older",
                reason="NO_INDEX",
                hint="update shoald there",
            )

    def _may_go_on(self, error: ShoalError) -> bool:
        """After a lost link; when the host lacks a context, or had not begun when the link was lost."""
        lacking = isinstance(error, FailedPrecondition) and error.reason == "CONTEXT_MISSING" and bool(self._shared)
        unknown = isinstance(error, NotFound) and error.reason == "OPERATION_NOT_FOUND" and bool(self._shared)
        if lacking or (unknown and self._cursor == 0 and self._start.dockerfile):
            self._sent = False
            return True
        return isinstance(error, LinkLost)

    def _lost(self, error: ShoalError) -> ShoalError:
        """What to say of an error that ends it: a host that forgot a build that went on has lost its memory."""
        if error.reason != "OPERATION_NOT_FOUND" or not self._cursor:
            return error
        return FailedPrecondition(
            "the daemon was restarted in the middle of the build",
            reason="BUILD_LOST",
            hint="build again: the steps that were done are in its cache",
        )

    async def _send_contexts(self) -> ShoalError | None:
        """Send what the host lacks; what kept some of it from coming there, if another attempt may help."""
        from shoalctl.fleet.sending import send_context

        cause: ShoalError | None = None
        for name, manifest in self._manifests.items():
            try:
                await send_context(self._host, manifest, self.sending)
            except LinkLost as error:
                cause = error
                await self._host.link.reconnect()  # what has come there is not sent again
            except (DataLoss, FailedPrecondition) as error:
                if error.reason not in ("DIGEST_MISMATCH", "FILES_CHANGED"):
                    raise
                cause = FailedPrecondition(
                    f"files of the context change all the time while they are sent: {error.message}",
                    reason="FILES_CHANGED",
                    hint="put them into .dockerignore if the build does not need them",
                )
                await self._shared[name].get(but=manifest)
        return cause

    async def _send(self) -> AsyncIterator[Any]:
        from shoal.v1 import image_pb2_grpc

        channel = await self._host.link.channel()
        call = image_pb2_grpc.ImageServiceStub(channel).Build()
        ending = Ending(call)
        accepted = asyncio.Event()
        writer = asyncio.create_task(self._write(call, accepted))
        try:
            async for message in call:
                accepted.set()
                self._host.link.answered()
                yield message
        except grpc.aio.AioRpcError as error:
            raise await ending.error() from error
        except asyncio.CancelledError:
            # A writer that can't read the context cancels the call: its reason is the one to tell.
            if writer.done() and not writer.cancelled() and (failure := writer.exception()) is not None:
                raise failure from None
            raise
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            call.cancel()

    async def _write(self, call: Any, accepted: asyncio.Event) -> None:
        """Send the start and, once the host has accepted it, the context: writes may hide the reason of a refusal."""
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServiceBuildRequest
        self._start.request_id = self.request_id
        for name, manifest in self._manifests.items():
            self._start.context_manifests[name] = manifest.digest
        try:
            await call.write(request(start=self._start))
            await accepted.wait()
            for name, context in self._archives.items():
                if name:
                    await call.write(request(context_name=name))
                async for chunk in without_blocking(context()):
                    await call.write(request(context_chunk=chunk))
            await call.done_writing()
            self._sent = True
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; whoever reads it learns why
        except Exception:
            call.cancel()
            raise

    async def _follow(self) -> AsyncIterator[Any]:
        from shoal.v1 import image_pb2, image_pb2_grpc

        request = image_pb2.ImageServiceFollowBuildRequest(request_id=self.request_id, cursor=self._cursor)
        async for message in self._host.link.stream(
            lambda channel: image_pb2_grpc.ImageServiceStub(channel).FollowBuild, request
        ):
            yield message

    def result(self) -> image_pb2.Image:
        """The image, after the events."""
        if self.image is None:
            raise Internal("the build has no result yet")
        return self.image


async def estimated(
    host: HostClient, start: image_pb2.ImageServiceBuildRequest.Start, manifests: Mapping[str, Manifest]
) -> image_pb2.ImageServiceEstimateBuildResponse:
    """How much of a build a host has already."""
    from shoal.v1 import image_pb2, image_pb2_grpc

    request = image_pb2.ImageServiceEstimateBuildRequest(start=start)
    # Most of the hosts that are asked will not build: they need no secrets for the answer.
    for field in ("credentials", "cache_credentials", "ssh", "secrets", "lent_caches", "cache_exports"):
        request.start.ClearField(field)
    for name, manifest in manifests.items():
        request.start.context_manifests[name] = manifest.digest

    async def ask() -> image_pb2.ImageServiceEstimateBuildResponse:
        return await host.link.unary(  # type: ignore[no-any-return]
            lambda channel: image_pb2_grpc.ImageServiceStub(channel).EstimateBuild, request, timeout=_ESTIMATE_S
        )

    answer = await ask()
    if answer.context_held or not manifests:
        return answer
    from shoalctl.fleet.sending import send_manifest

    for manifest in manifests.values():
        try:
            await send_manifest(host, manifest)
        except LinkLost:
            await host.link.reconnect()
            await send_manifest(host, manifest)
    return await ask()
