"""Every unary and listing call: what the engine is asked, and what the client gets."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from shoal.errors import AlreadyExists, FailedPrecondition
from shoal.platform import Platform
from shoal.v1 import container_pb2 as containers
from shoal.v1 import image_pb2 as images
from shoal.v1 import system_pb2 as system
from shoal.v1 import types_pb2, volume_pb2
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoal.v1.system_pb2_grpc import SystemServiceStub
from shoal.v1.volume_pb2_grpc import VolumeServiceStub
from shoald.api.codec_common import timestamp
from shoald.engine.ports import ContainerFilter, EventFilter
from shoald.model.container import ContainerState, PullPolicy
from shoald.model.image import RegistryCredentials
from tests.support.api_server import Running, serving
from tests.support.fake_engine import CONTAINER, IMAGE, INDEX, NOW, RAW_CONFIG, FakeEngine


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def running(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(engine, tmp_path) as server:
        yield server


@pytest.fixture
async def channel(running: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.socket) as open_channel:
        yield open_channel


async def test_run(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    answer = await ContainerServiceStub(channel).Run(
        containers.ContainerServiceRunRequest(
            request_id="r-9",
            spec=containers.ContainerSpec(
                image="busybox", name="web", ports=[{"container_port": 80, "host_port": 8080}]
            ),
            pull_policy=containers.PULL_POLICY_ALWAYS,
            credentials={"username": "u", "password": "p"},
            keep_on_failure=True,
        )
    )
    request_id, spec, policy, credentials, keep = engine.asked("run")
    assert (request_id, spec.image, policy, keep) == ("r-9", "busybox", PullPolicy.ALWAYS, True)
    assert credentials == RegistryCredentials("u", "p")
    assert answer.warnings == ["a warning"]
    assert answer.container.ports[0].protocol == containers.PortMapping.PROTOCOL_TCP
    assert (answer.container.id, answer.container.command) == (CONTAINER.id, ["sleep", "60"])
    assert answer.container.created_at.ToDatetime(UTC) == NOW
    assert not answer.container.HasField("exit_code")
    assert not answer.container.HasField("finished_at")


async def test_run_without_a_request_id_gets_one_of_its_own(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    ids = set()
    for _ in range(2):
        await ContainerServiceStub(channel).Run(containers.ContainerServiceRunRequest(spec={"image": "x"}))
        ids.add(engine.asked("run")[0])
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


async def test_start_stop_kill_remove(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = ContainerServiceStub(channel)
    started = await stub.Start(containers.ContainerServiceStartRequest(name="web", request_id="s"))
    assert started.container.state == containers.CONTAINER_STATE_RUNNING
    assert engine.asked("start") == ("web", "s")
    for given, meant in ((None, None), ({"seconds": 0}, 0.0), ({"seconds": -1}, -1.0), ({"nanos": 500_000_000}, 0.5)):
        stopped = await stub.Stop(containers.ContainerServiceStopRequest(name="web", timeout=given, signal="INT"))
        assert engine.asked("stop") == ("web", meant, "INT", "")
    assert stopped.container.HasField("exit_code")
    assert stopped.container.exit_code == 0
    await stub.Kill(containers.ContainerServiceKillRequest(name="web", signal="HUP", request_id="k"))
    assert engine.asked("kill") == ("web", "HUP", "k")
    removed = await stub.Remove(containers.ContainerServiceRemoveRequest(name="web", force=True, volumes=True))
    assert engine.asked("remove") == ("web", True, True, "")
    assert removed.id == CONTAINER.id


async def test_wait_and_inspect(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = ContainerServiceStub(channel)
    words = ("not-running", "not-running", "next-exit", "removed")
    for condition, word in enumerate(words):
        ended = await stub.Wait(containers.ContainerServiceWaitRequest(name="web", condition=condition))  # type: ignore[arg-type]
        assert engine.asked("wait") == ("web", word)
    assert (ended.exit_code, ended.oom_killed, ended.error) == (137, True, "killed")
    found = await stub.Inspect(containers.ContainerServiceInspectRequest(name="web"))
    assert found.mounts[0].kind == containers.Mount.KIND_VOLUME
    assert (found.mounts[0].name, found.mounts[0].read_only) == ("data", True)
    assert (found.userns_base, found.userns_size) == (0x70000000, 65536)
    assert found.spec.labels == {"tier": "front"}


async def test_list_containers_passes_the_filters(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    engine.containers = [CONTAINER] * 3
    request = containers.ContainerServiceListRequest(
        all=True,
        labels=[{"key": "a", "value": "b"}, {"key": "c"}],
        states=[containers.CONTAINER_STATE_EXITED, containers.CONTAINER_STATE_DEAD],
        name="we",
        image="busybox",
        limit=5,
    )
    found = [item.container.name async for item in ContainerServiceStub(channel).List(request)]
    assert found == ["web"] * 3
    assert engine.asked("list_containers")[0] == ContainerFilter(
        all=True,
        labels=(("a", "b"), ("c", "")),
        states=(ContainerState.EXITED, ContainerState.DEAD),
        name="we",
        image="busybox",
        limit=5,
    )


async def test_images(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = ImageServiceStub(channel)
    request = images.ImageServiceListRequest(reference="busybox", labels=[{"key": "k"}], dangling=True)
    (listed,) = [item.image async for item in stub.List(request)]
    assert engine.asked("list_images") == ("busybox", (("k", ""),), True, False)
    assert (listed.id, listed.containers, listed.labels) == (IMAGE.id, 2, {"k": "v"})
    assert (listed.platform.os, listed.platform.architecture) == ("linux", "amd64")
    found = await stub.Inspect(images.ImageServiceInspectRequest(name="busybox"))
    assert found.raw_config == RAW_CONFIG
    assert (found.author, found.config.cmd, found.config.exposed_ports) == ("me", ["sh"], ["80/tcp"])
    assert [entry.HasField("created_at") for entry in found.history] == [True, False]
    made = await stub.CreateIndex(images.ImageServiceCreateIndexRequest(images=["a", "b"], tags=["c"]))
    assert engine.asked("create_index") == (("a", "b"), ("docker.io/library/c:latest",))
    assert (made.digest, made.image.id) == (INDEX.digest, IMAGE.id)
    seen = await stub.InspectIndex(images.ImageServiceInspectIndexRequest(name="c"))
    assert (seen.digest, seen.media_type, seen.raw) == (INDEX.digest, INDEX.media_type, b"{}")
    assert [each.id for each in seen.images] == [IMAGE.id]
    await stub.Tag(images.ImageServiceTagRequest(source="busybox", target="mine:1"))
    assert engine.asked("tag_image") == ("busybox", "mine:1")
    removed = await stub.Remove(images.ImageServiceRemoveRequest(name="busybox", force=True))
    assert engine.asked("remove_image") == ("busybox", True)
    assert removed.deleted == [IMAGE.id]
    pruned = await stub.Prune(images.ImageServicePruneRequest(all=True, labels=[{"key": "k"}], until=timestamp(NOW)))
    assert engine.asked("prune_images") == ((("k", ""),), NOW, True)
    assert (pruned.deleted, pruned.freed_bytes) == ([IMAGE.id], 7)


async def test_pull_passes_platform_and_credentials(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    request = images.ImageServicePullRequest(
        reference="busybox",
        platform=types_pb2.Platform(os="linux", architecture="arm", variant="v7"),
        credentials={"identity_token": "t"},
    )
    messages = [message async for message in ImageServiceStub(channel).Pull(request)]
    _, reference, platform, credentials = engine.asked("pull")
    assert (reference, platform, credentials) == (
        "busybox",
        Platform("linux", "arm", "v7"),
        RegistryCredentials(identity_token="t"),
    )
    assert messages[0].started.reference == "docker.io/library/busybox:latest"


async def test_volumes_that_go_while_they_are_listed_are_left_out(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    stub = VolumeServiceStub(channel)
    listed = [item.volume async for item in stub.List(volume_pb2.VolumeServiceListRequest())]
    assert [(each.name, each.mountpoint) for each in listed] == [("data", "/var/lib/shoal/volumes/data/data")]
    await stub.Remove(volume_pb2.VolumeServiceRemoveRequest(name="data"))
    assert engine.asked("remove_volume") == ("data",)


async def test_system(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = SystemServiceStub(channel)
    assert (await stub.Ping(system.SystemServicePingRequest())).time.seconds > 1_700_000_000
    assert (await stub.Version(system.SystemServiceVersionRequest())).api_version == "v1"
    info = await stub.Info(system.SystemServiceInfoRequest())
    assert (info.caller_role, info.caller_name, info.warnings) == ("admin", "unix-socket", ["no seccomp"])
    assert (await stub.Cancel(system.SystemServiceCancelRequest(request_id="p"))).cancelled
    assert engine.asked("cancel") == ("p",)


async def test_events_pass_the_filters(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    request = system.SystemServiceEventsRequest(
        cursor=7,
        since={"seconds": 1},
        until={"seconds": 2, "nanos": 5000},
        types=["container"],
        actions=["die"],
        actors=["web"],
        labels=[{"key": "k", "value": "v"}],
    )
    events = [item.event async for item in SystemServiceStub(channel).Events(request)]
    assert [(event.cursor, event.action, event.attributes["name"]) for event in events] == [
        (1, "start", "web"),
        (2, "start", "web"),
    ]
    assert engine.asked("events")[0] == EventFilter(
        cursor=7,
        since=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        until=datetime(1970, 1, 1, 0, 0, 2, 5, tzinfo=UTC),
        types=("container",),
        actions=("die",),
        actors=("web",),
        labels=(("k", "v"),),
    )


INVALID = {
    "no name": ("ContainerService/Start", containers.ContainerServiceStartRequest()),
    "bad request id": (
        "ContainerService/Start",
        containers.ContainerServiceStartRequest(name="x", request_id="not an id"),
    ),
    "long request id": (
        "ContainerService/Kill",
        containers.ContainerServiceKillRequest(name="x", request_id="x" * 65),
    ),
    "NUL": ("ContainerService/Start", containers.ContainerServiceStartRequest(name="a\0b")),
    "long string": ("ContainerService/Start", containers.ContainerServiceStartRequest(name="x" * (1 << 17))),
    "unknown enum": ("ContainerService/Wait", containers.ContainerServiceWaitRequest(name="x", condition=99)),  # type: ignore[arg-type]
    "unspecified state": ("ContainerService/List", containers.ContainerServiceListRequest(states=[0])),  # type: ignore[list-item]
    "unknown state": ("ContainerService/List", containers.ContainerServiceListRequest(states=[44])),  # type: ignore[list-item]
    "negative limit": ("ContainerService/List", containers.ContainerServiceListRequest(limit=-1)),
    "selector without key": ("ContainerService/List", containers.ContainerServiceListRequest(labels=[{}])),
    "negative tail": ("ContainerService/Logs", containers.ContainerServiceLogsRequest(name="x", tail=-1)),
    "bad time": (
        "ContainerService/Logs",
        containers.ContainerServiceLogsRequest(name="x", since={"nanos": 1_000_000_000}),
    ),
    "year 20000": (
        "SystemService/Events",
        system.SystemServiceEventsRequest(since={"seconds": 568_971_820_800}),
    ),
    "negative timeout": (
        "ContainerService/Stop",
        containers.ContainerServiceStopRequest(name="x", timeout={"seconds": -2}),
    ),
    "negative cursor": ("SystemService/Events", system.SystemServiceEventsRequest(cursor=-1)),
    "no reference": ("ImageService/Pull", images.ImageServicePullRequest()),
    "bad reference": ("ImageService/Pull", images.ImageServicePullRequest(reference="a b")),
    "bad platform": (
        "ImageService/Pull",
        images.ImageServicePullRequest(reference="x", platform={"os": "a b", "architecture": "x"}),
    ),
    "no source": ("ImageService/Tag", images.ImageServiceTagRequest(target="x")),
    "no id to cancel": ("SystemService/Cancel", system.SystemServiceCancelRequest()),
    "no id to follow": ("ImageService/FollowBuild", images.ImageServiceFollowBuildRequest()),
    "no volume": ("VolumeService/Remove", volume_pb2.VolumeServiceRemoveRequest()),
}


@pytest.mark.parametrize("what", INVALID)
async def test_what_can_never_succeed_is_refused_before_the_engine(
    channel: grpc.aio.Channel, engine: FakeEngine, what: str
) -> None:
    method, message = INVALID[what]
    call = channel.unary_stream(f"/shoal.v1.{method}", type(message).SerializeToString, bytes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call(message):  # type: ignore[arg-type]
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()
    assert engine.calls == []


def test_the_socket_is_private(running: Running) -> None:
    path = running.config.socket_path
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_abstract_socket_is_opened(running: Running) -> None:
    import os

    mine = {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[7].startswith("@"):
            assert f"socket:[{fields[6]}]" not in mine, fields[7]


async def test_a_stale_socket_is_replaced_but_one_in_use_is_not(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "run" / "api" / "shoald.sock"
    path.parent.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(AlreadyExists) as caught:
            async with serving(FakeEngine(), tmp_path):
                pass
        assert caught.value.reason == "ALREADY_RUNNING"
    assert path.exists(), "a daemon that did not get the socket must not remove it"
    async with serving(FakeEngine(), tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            await SystemServiceStub(channel).Ping(system.SystemServicePingRequest())


async def test_a_socket_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "api").mkdir(parents=True, mode=0o755)
    with pytest.raises(FailedPrecondition) as caught:
        async with serving(FakeEngine(), tmp_path):
            pass
    assert caught.value.reason == "SOCKET_DIR_EXPOSED"
    assert "chmod 700" in (caught.value.hint or "")
