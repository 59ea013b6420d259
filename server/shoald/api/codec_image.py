"""Proto <-> domain for images and builds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shoal.digest import Digest
from shoal.reference import Reference
from shoal.v1 import image_pb2 as pb
from shoald.api.cache_lending import MIN_HANDLE
from shoald.api.checks import invalid, required
from shoald.api.codec_common import (
    credentials_of,
    platform,
    platform_of,
    progress,
    timestamp,
    timestamp_of_text,
)
from shoald.engine.ports import BuildEvent, Pushed
from shoald.files.vault import MAX_SECRET_BYTES
from shoald.model.build import (
    DEVICE,
    NETWORK_HOST,
    SECURITY_INSECURE,
    BuildRequest,
    BuildSecret,
    BuildState,
    BuildSummary,
    BuildWarning,
    CacheExport,
    CacheReady,
    CacheTarget,
    LentCache,
    Provenance,
    StepFinished,
    StepLog,
    StepStarted,
)
from shoald.model.image import Image, Progress, RegistryCredentials

MAX_PLATFORMS = 16
_MAX_BUILDER_ID = 1000
_MAX_NETWORK = 64  # of an id
_MAX_DOCKERFILE_BYTES = 2 << 20
_MAX_NAME = 4096
_CONTEXT = re.compile(r"[a-z0-9][a-z0-9/._:@-]{0,254}")
_EPOCH = re.compile(r"[0-9]{1,10}")
_TARGET = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def canonical(reference: str) -> str:
    """The reference with domain and tag. Raises InvalidArgument (INVALID_REFERENCE)."""
    return str(Reference.parse(required("reference", reference)).with_default_tag())


def image(value: Image, containers: int) -> pb.Image:
    """As lists show it; `containers` use it."""
    return pb.Image(
        id=value.id,
        tags=value.tags,
        repo_digests=value.repo_digests,
        created_at=timestamp(value.created_at),
        size_bytes=value.size_bytes,
        platform=platform(value.config.platform),
        labels=value.config.defaults.labels or {},
        manifest_digest=value.manifest_digest,
        containers=containers,
        part_of=value.part_of,
    )


def details(value: Image, raw: bytes, containers: int) -> pb.ImageServiceInspectResponse:
    """For inspect."""
    defaults = value.config.defaults
    return pb.ImageServiceInspectResponse(
        image=image(value, containers),
        author=value.config.author,
        config=pb.ImageServiceInspectResponse.Config(
            user=defaults.user,
            env=defaults.env or (),
            entrypoint=defaults.entrypoint or (),
            cmd=defaults.cmd or (),
            working_dir=defaults.working_dir,
            exposed_ports=sorted(defaults.exposed_ports or ()),
            volumes=sorted(defaults.volumes or ()),
            stop_signal=defaults.stop_signal,
            labels=defaults.labels or {},
        ),
        diff_ids=value.config.rootfs.diff_ids,
        history=[
            pb.ImageServiceInspectResponse.History(
                created_at=timestamp_of_text(entry.created),
                created_by=entry.created_by,
                comment=entry.comment,
                empty_layer=entry.empty_layer,
            )
            for entry in value.config.history or ()
        ],
        raw_config=raw,
    )


def pushed(value: Pushed) -> pb.ImageServicePushResponse.Pushed:
    """As a message."""
    return pb.ImageServicePushResponse.Pushed(
        reference=value.reference, digest=value.digest, size_bytes=value.size_bytes
    )


def build_request_of(start: pb.ImageServiceBuildRequest.Start) -> BuildRequest:
    """Raises InvalidArgument (INVALID_FIELD, INVALID_REFERENCE, INVALID_PLATFORM)."""
    if not start.dockerfile:
        raise invalid("dockerfile", "is empty")
    if len(start.dockerfile) > _MAX_DOCKERFILE_BYTES:
        raise invalid("dockerfile", f"is larger than {_MAX_DOCKERFILE_BYTES} bytes")
    if start.target and not _TARGET.fullmatch(start.target):
        raise invalid("target", f"{start.target[:80]!r} is not the name or number of a stage")
    if len(start.network) > _MAX_NETWORK or ":" in start.network:
        raise invalid("network", f"{start.network[:80]!r} is not bridge, host, none or the name of a network")
    for key in start.build_args:
        if not key or "=" in key:
            raise invalid("build_args", f"{key[:80]!r} is not a name")
    if "" in start.labels:
        raise invalid("labels", "a label has no key")
    if len({secret.id for secret in start.secrets}) != len(start.secrets):
        raise invalid("secrets", "an id comes twice")
    for secret in start.secrets:
        if not secret.id:
            raise invalid("secrets", "an id is empty")
        if len(secret.value) > MAX_SECRET_BYTES:
            raise invalid("secrets", f"{secret.id[:80]!r} has more than {MAX_SECRET_BYTES} bytes")
    platforms = tuple(dict.fromkeys(each for message in start.platforms if (each := platform_of(message))))
    if platforms and start.HasField("platform"):
        raise invalid("platforms", "and platform can't both be given")
    if len(platforms) > MAX_PLATFORMS:
        raise invalid("platforms", f"are {len(platforms)}; {MAX_PLATFORMS} is the limit")
    credentials = credentials_of(start.credentials)
    if credentials is not None and not credentials.registry:
        raise invalid("credentials.registry", "must name the registry that the credentials are for")
    return BuildRequest(
        dockerfile=start.dockerfile,
        dockerfile_name=start.dockerfile_name or "Dockerfile",
        tags=tuple(canonical(tag) for tag in start.tags),
        build_args=dict(start.build_args),
        target=start.target or None,
        no_cache=start.no_cache,
        labels=dict(start.labels),
        platform=platforms[0] if len(platforms) == 1 else platform_of(start.platform),
        platforms=platforms if len(platforms) > 1 else (),
        sbom=start.sbom,
        provenance=_provenance(start.provenance) if start.HasField("provenance") else None,
        pull=start.pull,
        credentials=credentials,
        network="bridge" if start.network in ("", "default") else start.network,
        secrets={secret.id: BuildSecret(secret.value) for secret in start.secrets},
        extra_hosts=tuple(start.extra_hosts),
        ssh={name: required("ssh", handle) for name, handle in start.ssh.items()},
        contexts={name: _image_of(name, value) for name, value in start.contexts.items()},
        manifests=_manifests(start),
        cache_from=tuple(canonical(name) for name in start.cache_from),
        cache_to=tuple(
            CacheTarget(canonical(each.reference), each.all_steps, each.ignore_errors) for each in start.cache_to
        ),
        lent_caches=tuple(_lent(each) for each in start.lent_caches),
        cache_exports=_exports(start),
        latest_ns=_latest(start),
        allow=_allowed(start),
        inline_cache=start.inline_cache or start.build_args.get("BUILDKIT_INLINE_CACHE") == "1",
        cache_credentials=tuple(_cache_credentials(start)),
    )


def _provenance(message: pb.ImageServiceBuildRequest.Provenance) -> Provenance:
    if len(message.builder_id) > _MAX_BUILDER_ID:
        raise invalid("provenance.builder_id", f"has more than {_MAX_BUILDER_ID} characters")
    version = "v1" if message.version == message.VERSION_1 else "v0.2"
    return Provenance(message.all, version, message.builder_id, message.reproducible)


def _allowed(start: pb.ImageServiceBuildRequest.Start) -> frozenset[str]:
    known = (NETWORK_HOST, SECURITY_INSECURE, DEVICE)
    for right in start.allow:
        if right not in known:
            raise invalid("allow", f"{right[:80]!r} is not one of {', '.join(known)}")
    return frozenset(start.allow)


def _lent(message: pb.ImageServiceBuildRequest.LentCache) -> LentCache:
    if len(message.handle) < MIN_HANDLE:
        raise invalid("lent_caches.handle", f"has fewer than {MIN_HANDLE} characters")
    if message.size_bytes < 0:
        raise invalid("lent_caches.size_bytes", "must be 0 or more")
    digest = str(Digest.parse(required("lent_caches.digest", message.digest)))
    return LentCache(message.handle, message.name[:_MAX_NAME] or digest, message.media_type, digest, message.size_bytes)


def _exports(start: pb.ImageServiceBuildRequest.Start) -> tuple[CacheExport, ...]:
    if len({each.all_steps for each in start.cache_exports}) != len(start.cache_exports):
        raise invalid("cache_exports", "a kind comes twice")
    return tuple(CacheExport(each.all_steps, each.ignore_errors) for each in start.cache_exports)


def _latest(start: pb.ImageServiceBuildRequest.Start) -> int | None:
    if not start.rewrite_times:
        return None
    epoch = start.build_args.get("SOURCE_DATE_EPOCH", "")
    if not _EPOCH.fullmatch(epoch):
        raise invalid("rewrite_times", "needs the build argument SOURCE_DATE_EPOCH, in seconds")
    return int(epoch) * 10**9


def _cache_credentials(start: pb.ImageServiceBuildRequest.Start) -> Iterator[RegistryCredentials]:
    for message in start.cache_credentials:
        credentials = credentials_of(message)
        if credentials is None or not credentials.registry:
            raise invalid("cache_credentials", "must name the registry that they are for")
        yield credentials


def _manifests(start: pb.ImageServiceBuildRequest.Start) -> dict[str, str]:
    for name in start.context_manifests:
        if name and start.contexts.get(name) != "":
            raise invalid("context_manifests", f"{name[:80]!r} is not a context that is sent")
    return {name: str(Digest.parse(digest)) for name, digest in start.context_manifests.items()}


def _image_of(name: str, value: str) -> str:
    """The reference of the image that a named context is; "" for a directory."""
    if not _CONTEXT.fullmatch(name):
        raise invalid("contexts", f"{name[:80]!r} is not a name: lower case letters, digits and / . _ - : @")
    if not value:
        return ""
    scheme, separator, reference = value.partition("://")
    if scheme != "docker-image" or not separator:
        raise invalid("contexts", f"{value[:80]!r} is no docker-image://REFERENCE")
    return canonical(reference)


_STATES = {
    BuildState.RUNNING: pb.BuildSummary.STATE_RUNNING,
    BuildState.SUCCEEDED: pb.BuildSummary.STATE_SUCCEEDED,
    BuildState.FAILED: pb.BuildSummary.STATE_FAILED,
    BuildState.CANCELLED: pb.BuildSummary.STATE_CANCELLED,
}


def build_summary(value: BuildSummary) -> pb.BuildSummary:
    """As a message."""
    return pb.BuildSummary(
        request_id=value.request_id,
        state=_STATES[value.state],
        tag=value.tag,
        started_at=timestamp(value.started_at),
        ended_at=timestamp(value.ended_at),
        image_id=value.image_id,
        error=value.error,
    )


def build_event(value: BuildEvent) -> pb.BuildEvent:
    """As a message."""
    event = pb.BuildEvent(cursor=value.cursor, time=timestamp(value.time))
    body = value.body
    if isinstance(body, StepStarted):
        event.step_started.CopyFrom(
            pb.BuildEvent.StepStarted(
                step_id=body.step_id,
                stage=body.stage,
                number=body.number,
                total=body.total,
                text=body.text,
                start_line=body.start_line,
                end_line=body.end_line,
            )
        )
    elif isinstance(body, StepLog):
        stream = pb.BuildEvent.StepLog.STREAM_STDERR if body.stderr else pb.BuildEvent.StepLog.STREAM_STDOUT
        event.step_log.CopyFrom(pb.BuildEvent.StepLog(step_id=body.step_id, stream=stream, data=body.data))
    elif isinstance(body, StepFinished):
        event.step_finished.CopyFrom(
            pb.BuildEvent.StepFinished(step_id=body.step_id, cached=body.cached, error=body.error)
        )
    elif isinstance(body, BuildWarning):
        event.warning.CopyFrom(
            pb.BuildEvent.Warning(
                rule=body.rule, message=body.message, start_line=body.start_line, end_line=body.end_line
            )
        )
    elif isinstance(body, CacheReady):
        event.cache_ready.CopyFrom(
            pb.BuildEvent.CacheReady(all_steps=body.all_steps, digest=body.digest, size_bytes=body.size)
        )
    elif isinstance(body, Progress):
        event.progress.CopyFrom(progress(body))
    return event
