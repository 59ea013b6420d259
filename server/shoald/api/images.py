"""shoal.v1.ImageService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.errors import Cancelled
from shoal.pki import Role
from shoal.v1 import image_pb2 as pb
from shoal.v1 import image_pb2_grpc
from shoald.api.agent_forwarding import forward_agent
from shoald.api.build_contexts import sent_contexts
from shoald.api.cache_lending import lend_cache
from shoald.api.call import require
from shoald.api.checks import invalid, operation_id, required
from shoald.api.codec_buildcache import cache_prune, cache_record
from shoald.api.codec_common import credentials_of, datetime_of, labels_of, platform, platform_of, progress
from shoald.api.codec_image import (
    MAX_PLATFORMS,
    build_event,
    build_request_of,
    build_summary,
    canonical,
    details,
    image,
    pushed,
)
from shoald.api.gate import note
from shoald.api.streams import Context, closing, send_all
from shoald.engine.ports import BuildEvent, Engine, Pushed
from shoald.model.build import BuildRequest, Built
from shoald.model.image import Image, Loaded, Progress

_MAX_CHUNK_BYTES = 1 << 20


class ImageService(image_pb2_grpc.ImageServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Pull(self, request: pb.ImageServicePullRequest, context: Context) -> None:  # type: ignore[override]
        request_id = operation_id(request.request_id)
        reference = canonical(request.reference)
        items = self._engine.pull(
            request_id, request.reference, platform_of(request.platform), credentials_of(request.credentials)
        )
        started = pb.ImageServicePullResponse.Started(request_id=request_id, reference=reference)
        await context.write(pb.ImageServicePullResponse(started=started))
        await send_all(context, items, self._pull_event)

    async def Push(self, request: pb.ImageServicePushRequest, context: Context) -> None:  # type: ignore[override]
        request_id = operation_id(request.request_id)
        reference = canonical(request.reference)
        items = self._engine.push(request_id, request.reference, credentials_of(request.credentials))
        started = pb.ImageServicePushResponse.Started(request_id=request_id, reference=reference)
        await context.write(pb.ImageServicePushResponse(started=started))
        await send_all(context, items, _push_event)

    async def Build(self, requests: AsyncIterator[pb.ImageServiceBuildRequest], context: Context) -> None:  # type: ignore[override]
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise invalid("start", "must be the first message")
        note(first.start)
        request_id = operation_id(first.start.request_id)
        request = build_request_of(first.start)
        _check_rights(request)
        started = pb.ImageServiceBuildResponse.Started(request_id=request_id)
        await context.write(pb.ImageServiceBuildResponse(started=started))
        async with closing(sent_contexts(requests, request, context)) as contexts:
            items = self._engine.build(request_id, request, contexts)
            await send_all(context, items, self._build_message)

    async def Export(self, request: pb.ImageServiceExportRequest, context: Context) -> None:  # type: ignore[override]
        chunks = self._engine.export_image(required("name", request.name))
        await send_all(context, chunks, lambda chunk: pb.ImageServiceExportResponse(chunk=chunk))

    async def EstimateBuild(
        self, request: pb.ImageServiceEstimateBuildRequest, context: Context
    ) -> pb.ImageServiceEstimateBuildResponse:
        wanted = build_request_of(request.start)
        _check_rights(wanted)
        found = await self._engine.estimate_build(wanted)
        return pb.ImageServiceEstimateBuildResponse(
            cached_steps=found.cached_steps, context_held=found.context_held, platform=platform(found.platform)
        )

    async def Save(self, request: pb.ImageServiceSaveRequest, context: Context) -> None:  # type: ignore[override]
        if not request.names:
            raise invalid("names", "is empty")
        chunks = self._engine.save_images(list(request.names), request.docker, request.expected_id)
        await send_all(context, chunks, lambda chunk: pb.ImageServiceSaveResponse(chunk=chunk))

    async def Load(self, requests: AsyncIterator[pb.ImageServiceLoadRequest], context: Context) -> None:  # type: ignore[override]
        await send_all(context, self._engine.load_images(_chunks(requests, context)), self._load_message)

    def _load_message(self, item: Progress | Loaded) -> pb.ImageServiceLoadResponse:
        if isinstance(item, Loaded):
            return pb.ImageServiceLoadResponse(image=self._image(item.image), names=item.names)
        return pb.ImageServiceLoadResponse(progress=progress(item))

    async def ForwardAgent(  # type: ignore[override]
        self, requests: AsyncIterator[pb.ImageServiceForwardAgentRequest], context: Context
    ) -> None:
        await forward_agent(self._engine.agents, requests, context)

    async def LendCache(  # type: ignore[override]
        self, requests: AsyncIterator[pb.ImageServiceLendCacheRequest], context: Context
    ) -> None:
        await lend_cache(self._engine.lenders, requests, context)

    async def ReadCacheBlob(self, request: pb.ImageServiceReadCacheBlobRequest, context: Context) -> None:  # type: ignore[override]
        request_id = operation_id(required("request_id", request.request_id))
        if request.offset < 0:
            raise invalid("offset", "must be 0 or more")
        chunks = self._engine.read_cache_blob(request_id, required("digest", request.digest), request.offset)
        await send_all(context, chunks, lambda chunk: pb.ImageServiceReadCacheBlobResponse(chunk=chunk))

    async def ListBuilds(self, request: pb.ImageServiceListBuildsRequest, context: Context) -> None:  # type: ignore[override]
        for each in self._engine.list_builds():
            await context.write(pb.ImageServiceListBuildsResponse(build=build_summary(each)))

    async def ListBuildCache(self, request: pb.ImageServiceListBuildCacheRequest, context: Context) -> None:  # type: ignore[override]
        for record in await self._engine.build_cache.records():
            await context.write(pb.ImageServiceListBuildCacheResponse(record=cache_record(record)))

    async def PruneBuildCache(
        self, request: pb.ImageServicePruneBuildCacheRequest, context: Context
    ) -> pb.ImageServicePruneBuildCacheResponse:
        pruned = await self._engine.build_cache.prune(cache_prune(request))
        return pb.ImageServicePruneBuildCacheResponse(ids=pruned.ids, freed_bytes=pruned.freed_bytes)

    async def FollowBuild(self, request: pb.ImageServiceFollowBuildRequest, context: Context) -> None:  # type: ignore[override]
        if request.cursor < 0:
            raise invalid("cursor", "must be 0 or more")
        request_id = operation_id(required("request_id", request.request_id))
        await send_all(
            context, self._engine.follow_build(request_id, request.cursor, not request.no_follow), self._follow_message
        )

    async def List(self, request: pb.ImageServiceListRequest, context: Context) -> None:  # type: ignore[override]
        images = await self._engine.list_images(
            request.reference, labels_of(request.labels), request.dangling, request.parts
        )
        for each in images:
            await context.write(pb.ImageServiceListResponse(image=self._image(each)))

    async def Inspect(self, request: pb.ImageServiceInspectRequest, context: Context) -> pb.ImageServiceInspectResponse:
        found, raw = await self._engine.inspect_image(required("name", request.name))
        return details(found, raw, self._engine.image_users(found.id))

    async def CreateIndex(
        self, request: pb.ImageServiceCreateIndexRequest, context: Context
    ) -> pb.ImageServiceCreateIndexResponse:
        if not request.images:
            raise invalid("images", "is empty")
        if len(request.images) > MAX_PLATFORMS:
            raise invalid("images", f"are {len(request.images)}; {MAX_PLATFORMS} is the limit")
        made = await self._engine.create_index(list(request.images), [canonical(tag) for tag in request.tags])
        found, _ = await self._engine.inspect_image(made.image_id)
        return pb.ImageServiceCreateIndexResponse(digest=made.digest, image=self._image(found))

    async def InspectIndex(
        self, request: pb.ImageServiceInspectIndexRequest, context: Context
    ) -> pb.ImageServiceInspectIndexResponse:
        index, raw = self._engine.inspect_index(required("name", request.name))
        images = [(await self._engine.inspect_image(image))[0] for image in index.images]
        return pb.ImageServiceInspectIndexResponse(
            digest=index.digest, media_type=index.media_type, raw=raw, images=[self._image(each) for each in images]
        )

    async def Tag(self, request: pb.ImageServiceTagRequest, context: Context) -> pb.ImageServiceTagResponse:
        await self._engine.tag_image(required("source", request.source), required("target", request.target))
        return pb.ImageServiceTagResponse()

    async def Remove(self, request: pb.ImageServiceRemoveRequest, context: Context) -> pb.ImageServiceRemoveResponse:
        untagged, deleted = await self._engine.remove_image(required("name", request.name), request.force)
        return pb.ImageServiceRemoveResponse(untagged=untagged, deleted=deleted)

    async def Prune(self, request: pb.ImageServicePruneRequest, context: Context) -> pb.ImageServicePruneResponse:
        until = datetime_of("until", request.until) if request.HasField("until") else None
        untagged, deleted, freed = await self._engine.prune_images(labels_of(request.labels), until, request.all)
        return pb.ImageServicePruneResponse(untagged=untagged, deleted=deleted, freed_bytes=freed)

    def _image(self, value: Image) -> pb.Image:
        return image(value, self._engine.image_users(value.id))

    def _pull_event(self, item: Progress | Image) -> pb.ImageServicePullResponse:
        if isinstance(item, Image):
            return pb.ImageServicePullResponse(image=self._image(item))
        return pb.ImageServicePullResponse(progress=progress(item))

    def _build_message(self, item: BuildEvent | Built) -> pb.ImageServiceBuildResponse:
        if isinstance(item, Built):
            return pb.ImageServiceBuildResponse(image=self._image(item.image), index_digest=_digest(item))
        return pb.ImageServiceBuildResponse(event=build_event(item))

    def _follow_message(self, item: BuildEvent | Built) -> pb.ImageServiceFollowBuildResponse:
        if isinstance(item, Built):
            return pb.ImageServiceFollowBuildResponse(image=self._image(item.image), index_digest=_digest(item))
        return pb.ImageServiceFollowBuildResponse(event=build_event(item))


def _check_rights(request: BuildRequest) -> None:
    """Raises PermissionDenied."""
    if request.network == "host":
        require(Role.ADMIN, "the host's network (network=host)")
    if request.allow:
        require(Role.ADMIN, f"what a build may allow its steps ({', '.join(sorted(request.allow))})")


def _digest(built: Built) -> str:
    return built.index.digest if built.index else ""


def _push_event(item: Progress | Pushed) -> pb.ImageServicePushResponse:
    if isinstance(item, Pushed):
        return pb.ImageServicePushResponse(pushed=pushed(item))
    return pb.ImageServicePushResponse(progress=progress(item))


async def _chunks(requests: AsyncIterator[pb.ImageServiceLoadRequest], context: Context) -> AsyncIterator[bytes]:
    async for message in requests:
        if len(message.chunk) > _MAX_CHUNK_BYTES:
            raise invalid("chunk", f"has {len(message.chunk)} bytes, more than {_MAX_CHUNK_BYTES}")
        if message.chunk:
            yield message.chunk
    if context.cancelled():
        raise Cancelled("the archive ended before it was complete", reason="TRUNCATED")
