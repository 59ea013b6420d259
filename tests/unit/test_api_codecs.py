"""From messages to domain records and back, and the checks on the way."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.v1 import container_pb2 as pb
from shoal.v1 import types_pb2
from shoald.api.authz import parse_deny_list
from shoald.api.checks import check_message
from shoald.api.codec_common import duration, ns_of, platform_of, progress, seconds_of, timestamp, timestamp_of_ns
from shoald.api.codec_container import container
from shoald.api.codec_spec import spec, spec_of
from shoald.api.errors import cut
from shoald.model.container import (
    ContainerSpec,
    ContainerState,
    Mount,
    MountKind,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from shoald.model.image import Progress, ProgressPhase
from tests.support.fake_engine import CONTAINER

FULL = ContainerSpec(
    image="busybox",
    name="web",
    command=("a", "b"),
    entrypoint=("/init",),
    env=("A=b", "EMPTY=", "MULTI=a\nb"),
    working_dir="/srv",
    user="1000:1000",
    hostname="web-1",
    labels={"k": "v"},
    tty=True,
    stdin_open=True,
    read_only=True,
    network="bridge",
    ports=(PortMapping(80, "0.0.0.0", 8080, "tcp"), PortMapping(53, "", 0, "udp")),
    mounts=(
        Mount(MountKind.BIND, "/host", "/srv", read_only=True),
        Mount(MountKind.VOLUME, "/data", "data"),
        Mount(MountKind.VOLUME, "/anonymous"),
        Mount(MountKind.TMPFS, "/tmp", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o1777),
    ),
    resources=Resources(1 << 28, 1_500_000_000, -1),
    restart_policy=RestartPolicy(RestartPolicyName.ON_FAILURE, 3),
    init=True,
    stop_signal="SIGINT",
    stop_timeout_s=2.5,
    userns="host",
    platform="linux/arm64",
)


@pytest.mark.parametrize(
    "value",
    [
        FULL,
        ContainerSpec(image="x"),
        ContainerSpec(image="x", entrypoint=()),
        ContainerSpec(image="x", stop_timeout_s=-1.0),
        ContainerSpec(image="x", stop_timeout_s=0.0, auto_remove=True),
    ],
)
def test_a_spec_survives_the_way_there_and_back(value: ContainerSpec) -> None:
    assert spec_of(pb.ContainerSpec.FromString(spec(value).SerializeToString())) == value


def test_an_entrypoint_without_the_flag_still_counts_and_none_is_none() -> None:
    assert spec_of(pb.ContainerSpec(image="x", entrypoint=["/init"])).entrypoint == ("/init",)
    assert spec_of(pb.ContainerSpec(image="x")).entrypoint is None


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("spec.image", {"image": ""}),
        ("spec.name", {"name": "-x"}),
        ("spec.name", {"name": "a/b"}),
        ("spec.name", {"name": "x" * 129}),
        ("spec.name", {"name": "x\n"}),
        ("spec.hostname", {"hostname": "a b"}),
        ("spec.hostname", {"hostname": "x" * 65}),
        ("spec.hostname", {"hostname": "-x"}),
        ("spec.working_dir", {"working_dir": "srv"}),
        ("spec.network", {"network": "a b"}),
        ("spec.userns", {"userns": "private"}),
        ("spec.env", {"env": ["NAME"]}),
        ("spec.env", {"env": ["=x"]}),
        ("spec.labels", {"labels": {"": "v"}}),
        ("spec.ports", {"network": "host", "ports": [{"container_port": 80}]}),
        ("spec.ports.container_port", {"ports": [{"container_port": 0}]}),
        ("spec.ports.container_port", {"ports": [{"container_port": 65536}]}),
        ("spec.ports.host_port", {"ports": [{"container_port": 1, "host_port": 65536}]}),
        ("spec.ports.host_ip", {"ports": [{"container_port": 1, "host_ip": "localhost"}]}),
        ("spec.ports.host_ip", {"ports": [{"container_port": 1, "host_ip": "::x"}]}),
        ("spec.mounts.kind", {"mounts": [{"target": "/x"}]}),
        ("spec.mounts.target", {"mounts": [{"kind": 3, "target": "x"}]}),
        ("spec.mounts.target", {"mounts": [{"kind": 3, "target": "//"}]}),
        ("spec.mounts.target", {"mounts": [{"kind": 3, "target": "/x"}, {"kind": 3, "target": "/x/"}]}),
        ("spec.mounts.source", {"mounts": [{"kind": 1, "source": "rel", "target": "/x"}]}),
        ("spec.mounts.source", {"mounts": [{"kind": 3, "source": "/a", "target": "/x"}]}),
        ("spec.mounts.tmpfs_size_bytes", {"mounts": [{"kind": 2, "target": "/x", "tmpfs_size_bytes": 1}]}),
        ("spec.mounts", {"mounts": [{"kind": 3, "target": "/x", "tmpfs_size_bytes": -1}]}),
        ("spec.mounts", {"mounts": [{"kind": 3, "target": "/x", "tmpfs_mode": 0o10000}]}),
        ("spec.resources.memory_bytes", {"resources": {"memory_bytes": -1}}),
        ("spec.resources.nano_cpus", {"resources": {"nano_cpus": -1}}),
        ("spec.resources.pids_limit", {"resources": {"pids_limit": -2}}),
        ("spec.restart_policy.max_retries", {"restart_policy": {"name": 2, "max_retries": -1}}),
        ("spec.restart_policy.max_retries", {"restart_policy": {"name": 3, "max_retries": 1}}),
        ("spec.auto_remove", {"auto_remove": True, "restart_policy": {"name": 3}}),
        ("spec.stop_timeout", {"stop_timeout": {"seconds": -3}}),
    ],
)
def test_a_spec_that_can_never_work_is_refused_naming_the_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec_of(pb.ContainerSpec(**{"image": "x", **changes}))
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_FIELD", field)


def test_every_state_has_a_number_and_creating_looks_created() -> None:
    from msgspec.structs import replace

    numbers = {state: container(replace(CONTAINER, state=state)).state for state in ContainerState}
    assert numbers[ContainerState.CREATING] == pb.CONTAINER_STATE_CREATED
    assert set(numbers.values()) == set(pb.ContainerState.values()) - {0}


def test_every_phase_of_progress_has_a_number() -> None:
    phases = {progress(Progress("x", phase)).phase for phase in ProgressPhase}
    assert phases == set(types_pb2.Progress.Phase.values()) - {0}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ContainerServiceRunRequest(spec={"env": ["A=\0"]}), "spec.env"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(spec={"labels": {"a": "\0"}}), "spec.labels"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(spec={"labels": {"\0": "a"}}), "spec.labels"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(spec={"env": ["A=b"] * 10_001}), "spec.env"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(spec={"mounts": [{"kind": 9}]}), "spec.mounts.kind"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(pull_policy=77), "pull_policy"),  # type: ignore[arg-type]
        (pb.ContainerServiceRunRequest(spec={"command": ["é" * 70_000]}), "spec.command"),  # type: ignore[arg-type]
    ],
)
def test_each_string_and_enum_of_a_message_is_checked_wherever_it_is(
    message: pb.ContainerServiceRunRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_message(message)
    assert caught.value.metadata["field"] == field


def test_the_full_spec_passes_the_check() -> None:
    check_message(pb.ContainerServiceRunRequest(spec=spec(FULL)))


@settings(max_examples=50)
@given(st.integers(-62_135_596_800_000_000_000, 253_402_300_799_999_999_999))
def test_nanoseconds_survive(ns: int) -> None:
    assert ns_of("t", timestamp_of_ns(ns)) == ns


@settings(max_examples=50)
@given(st.floats(0, 1e9))
def test_durations_survive_to_the_nanosecond(seconds: float) -> None:
    assert seconds_of("t", duration(seconds)) == pytest.approx(seconds, abs=1e-9, rel=1e-12)


def test_times() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    stamp = timestamp(moment)
    assert stamp is not None
    assert stamp.ToDatetime(UTC) == moment
    assert timestamp(None) is None
    with pytest.raises(InvalidArgument):
        ns_of("t", Timestamp(nanos=-1))


def test_platforms_fill_in_what_is_missing() -> None:
    assert platform_of(types_pb2.Platform()) is None
    assert str(platform_of(types_pb2.Platform(architecture="arm64"))) == "linux/arm64"


def test_deny_lists() -> None:
    serials, bad = parse_deny_list("# c\n\n00ab:CD # lost\n0x1F\n  7 \nxyz\n0\n12 34\n" + "f" * 65)
    assert serials == {"abcd", "1f", "7", "0"}
    assert bad == [6, 8, 9]


@settings(max_examples=50)
@given(st.text(), st.integers(1, 20))
def test_cut_text_is_short_and_can_be_sent(text: str, limit: int) -> None:
    short = cut(text + "\ud800", limit)
    assert len(short) <= limit
    short.encode()
