"""Proto <-> domain for the host, its events and its volumes."""

from __future__ import annotations

from shoal.v1 import system_pb2 as pb
from shoal.v1 import volume_pb2
from shoald.api.call import Caller
from shoald.api.checks import invalid
from shoald.api.codec_common import datetime_of, labels_of, platform, timestamp
from shoald.engine.ports import EventFilter, HostInfo, HostVersion
from shoald.model.event import Event
from shoald.model.snapshot import Volume

API_VERSION = "v1"


def info(value: HostInfo, caller: Caller) -> pb.SystemServiceInfoResponse:
    """What the host has, and who asks."""
    return pb.SystemServiceInfoResponse(
        host_id=value.host_id,
        hostname=value.hostname,
        operating_system=value.operating_system,
        kernel_version=value.kernel_version,
        platform=platform(value.platform),
        cpus=value.cpus,
        memory_bytes=value.memory_bytes,
        data_root=value.data_root,
        cgroup_mode=value.cgroup_mode,
        runtime=value.runtime,
        containers_running=value.containers_running,
        containers_stopped=value.containers_stopped,
        images=value.images,
        disk_free_bytes=value.disk_free_bytes,
        disk_total_bytes=value.disk_total_bytes,
        warnings=value.warnings,
        version=value.version,
        caller_role=str(caller.role),
        caller_name=caller.name,
    )


def version(value: HostVersion) -> pb.SystemServiceVersionResponse:
    """What runs here."""
    return pb.SystemServiceVersionResponse(
        version=value.version,
        api_version=API_VERSION,
        python_version=value.python_version,
        kernel_version=value.kernel_version,
        runtime=value.runtime,
        conmon=value.conmon,
        platform=platform(value.platform),
    )


def event_filter_of(request: pb.SystemServiceEventsRequest) -> EventFilter:
    """Raises InvalidArgument (INVALID_FIELD)."""
    if request.cursor < 0:
        raise invalid("cursor", "must be 0 or more")
    return EventFilter(
        cursor=request.cursor,
        since=datetime_of("since", request.since) if request.HasField("since") else None,
        until=datetime_of("until", request.until) if request.HasField("until") else None,
        types=tuple(request.types),
        actions=tuple(request.actions),
        actors=tuple(request.actors),
        labels=labels_of(request.labels),
    )


def event(value: Event) -> pb.Event:
    """As a message."""
    return pb.Event(
        cursor=value.cursor,
        time=timestamp(value.time),
        type=value.type,
        action=value.action,
        actor_id=value.actor_id,
        attributes=value.attributes,
    )


def volume(value: Volume, mountpoint: str) -> volume_pb2.Volume:
    """As a message."""
    return volume_pb2.Volume(
        name=value.name,
        created_at=timestamp(value.created_at),
        mountpoint=mountpoint,
        anonymous=value.anonymous,
        labels=value.labels,
        options=value.options,
    )
