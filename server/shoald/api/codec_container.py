"""Proto <-> domain for containers as they are: records, details, logs, filters."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from shoal.v1 import container_pb2 as pb
from shoald.api.checks import invalid
from shoald.api.codec_common import labels_of, ns_of, timestamp, timestamp_of_ns
from shoald.api.codec_mounts import KIND_NUMBERS
from shoald.api.codec_spec import port, spec
from shoald.engine.ports import ContainerDetails, ContainerFilter, ExitStatus, Grep, LogBatch, LogQuery, LogRecord
from shoald.model.container import (
    Container,
    ContainerSpec,
    ContainerState,
    Health,
    HealthStatus,
    MountKind,
    PullPolicy,
)

_STATES = {
    pb.CONTAINER_STATE_CREATED: ContainerState.CREATED,
    pb.CONTAINER_STATE_RUNNING: ContainerState.RUNNING,
    pb.CONTAINER_STATE_RESTARTING: ContainerState.RESTARTING,
    pb.CONTAINER_STATE_EXITED: ContainerState.EXITED,
    pb.CONTAINER_STATE_REMOVING: ContainerState.REMOVING,
    pb.CONTAINER_STATE_DEAD: ContainerState.DEAD,
    pb.CONTAINER_STATE_PAUSED: ContainerState.PAUSED,
}
_STATE_NUMBERS = {state: number for number, state in _STATES.items()}
_STATE_NUMBERS[ContainerState.CREATING] = pb.CONTAINER_STATE_CREATED

_HEALTH = {
    pb.HEALTH_STATUS_STARTING: HealthStatus.STARTING,
    pb.HEALTH_STATUS_HEALTHY: HealthStatus.HEALTHY,
    pb.HEALTH_STATUS_UNHEALTHY: HealthStatus.UNHEALTHY,
}
_HEALTH_NUMBERS = {status: number for number, status in _HEALTH.items()}

_PULL_POLICIES = {
    pb.PULL_POLICY_UNSPECIFIED: PullPolicy.MISSING,
    pb.PULL_POLICY_MISSING: PullPolicy.MISSING,
    pb.PULL_POLICY_ALWAYS: PullPolicy.ALWAYS,
    pb.PULL_POLICY_NEVER: PullPolicy.NEVER,
}
_CONDITIONS = {
    pb.ContainerServiceWaitRequest.CONDITION_UNSPECIFIED: "not-running",
    pb.ContainerServiceWaitRequest.CONDITION_NOT_RUNNING: "not-running",
    pb.ContainerServiceWaitRequest.CONDITION_NEXT_EXIT: "next-exit",
    pb.ContainerServiceWaitRequest.CONDITION_REMOVED: "removed",
    pb.ContainerServiceWaitRequest.CONDITION_HEALTHY: "healthy",
}


def container(value: Container) -> pb.Container:
    """As lists show it."""
    message = pb.Container(
        id=value.id,
        name=value.name,
        image=value.spec.image,
        image_id=value.image_id,
        command=value.process.args,
        state=_STATE_NUMBERS[value.state],
        created_at=timestamp(value.created_at),
        started_at=timestamp(value.started_at),
        finished_at=timestamp(value.finished_at),
        oom_killed=value.oom_killed,
        error=value.error,
        labels=value.spec.labels,
        ports=[port(each) for each in value.ports],
        ip_address=value.ip_address,
        pid=value.pid,
        restart_count=value.restart_count,
    )
    if value.exit_code is not None:
        message.exit_code = value.exit_code
    if value.health is not None:
        message.health = _HEALTH_NUMBERS[value.health.status]
    return message


def _health_state(value: Health | None) -> pb.ContainerServiceInspectResponse.HealthState | None:
    if value is None:
        return None
    probes = [
        pb.ContainerServiceInspectResponse.HealthState.Probe(
            start=timestamp(probe.start), end=timestamp(probe.end), exit_code=probe.exit_code, output=probe.output
        )
        for probe in value.log
    ]
    return pb.ContainerServiceInspectResponse.HealthState(
        status=_HEALTH_NUMBERS[value.status], failing_streak=value.failing_streak, log=probes
    )


def _filled_in(value: Container) -> ContainerSpec:
    """What was asked for, with the health check that holds."""
    return replace(value.spec, health_check=value.health_check) if value.health_check else value.spec


def details(value: ContainerDetails) -> pb.ContainerServiceInspectResponse:
    """For inspect."""
    return pb.ContainerServiceInspectResponse(
        container=container(value.container),
        spec=spec(_filled_in(value.container)),
        health=_health_state(value.container.health),
        runtime=value.runtime,
        mounts=[
            pb.ContainerServiceInspectResponse.MountPoint(
                kind=KIND_NUMBERS[MountKind(mount.kind)],
                name=mount.name,
                source=mount.source,
                target=mount.target,
                read_only=mount.read_only,
            )
            for mount in value.mounts
        ],
        log_path=value.log_path,
        userns_base=value.container.userns_base,
        userns_size=value.userns_size,
    )


def pull_policy_of(number: pb.PullPolicy.ValueType) -> PullPolicy:
    """The policy."""
    return _PULL_POLICIES[number]


def condition_of(number: pb.ContainerServiceWaitRequest.Condition.ValueType) -> str:
    """The engine's word for it."""
    return _CONDITIONS[number]


def filter_of(request: pb.ContainerServiceListRequest) -> ContainerFilter:
    """Raises InvalidArgument (INVALID_FIELD)."""
    if request.limit < 0:
        raise invalid("limit", "must be 0 (all) or more")
    if pb.CONTAINER_STATE_UNSPECIFIED in request.states:
        raise invalid("states", "an unspecified state matches nothing")
    return ContainerFilter(
        all=request.all,
        labels=labels_of(request.labels),
        states=tuple(_STATES[number] for number in request.states),
        name=request.name,
        image=request.image,
        limit=request.limit,
        health=_HEALTH.get(request.health),
        network=request.network,
        volume=request.volume,
    )


def log_query_of(request: pb.ContainerServiceLogsRequest) -> LogQuery:
    """Raises InvalidArgument (INVALID_FIELD)."""
    if request.HasField("tail") and request.tail < 0:
        raise invalid("tail", "must be 0 or more lines; leave it out for all")
    if pb.LogRecord.STREAM_UNSPECIFIED in request.streams:
        raise invalid("streams", "an unspecified stream is none")
    both = not request.streams
    return LogQuery(
        follow=request.follow,
        tail=request.tail if request.HasField("tail") else None,
        since_ns=ns_of("since", request.since) if request.HasField("since") else None,
        until_ns=ns_of("until", request.until) if request.HasField("until") else None,
        stdout=both or pb.LogRecord.STREAM_STDOUT in request.streams,
        stderr=both or pb.LogRecord.STREAM_STDERR in request.streams,
        cursor=request.cursor,
        grep=_grep_of(request),
        raw=request.accept_raw,
    )


def _grep_of(request: pb.ContainerServiceLogsRequest) -> Grep | None:
    if not request.grep:
        if request.grep_regex or request.grep_invert or request.grep_ignore_case:
            raise invalid("grep", "is empty, but its options are set")
        return None
    return Grep(request.grep, request.grep_regex, request.grep_invert, request.grep_ignore_case)


def records(values: Iterable[LogRecord]) -> list[pb.LogRecord]:
    """As messages."""
    return [
        pb.LogRecord(
            time=timestamp_of_ns(value.time_ns),
            stream=pb.LogRecord.STREAM_STDERR if value.stderr else pb.LogRecord.STREAM_STDOUT,
            data=value.data,
            partial=value.partial,
        )
        for value in values
    ]


def log_batch(value: LogBatch) -> pb.ContainerServiceLogsResponse:
    """As Logs sends it."""
    return pb.ContainerServiceLogsResponse(records=records(value.records), cursor=value.cursor, raw=value.raw)


def attach_output(value: LogBatch | ExitStatus) -> pb.ContainerServiceAttachResponse:
    """As Attach sends it."""
    if isinstance(value, ExitStatus):
        ended = pb.ContainerServiceAttachResponse.Exit(exit_code=value.exit_code, oom_killed=value.oom_killed)
        return pb.ContainerServiceAttachResponse(exit=ended)
    output = pb.ContainerServiceAttachResponse.Output(
        records=records(value.records), cursor=value.cursor, raw=value.raw
    )
    return pb.ContainerServiceAttachResponse(output=output)
