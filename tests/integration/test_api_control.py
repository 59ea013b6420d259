"""The calls about a container's life: what the engine is asked, what the client gets; and that no call is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from msgspec.structs import replace

from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from shoald.api.containers import ContainerService
from shoald.engine.ports import ContainerFilter
from shoald.model.change import ContainerChange
from shoald.model.container import (
    ContainerState,
    Health,
    HealthCheck,
    HealthProbe,
    HealthStatus,
    PullPolicy,
    RestartPolicy,
    RestartPolicyName,
)
from tests.support.api_server import serving
from tests.support.fake_engine import CONTAINER, IMAGE, NOW, FakeEngine


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def stub(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[ContainerServiceStub]:
    async with serving(engine, tmp_path) as server, grpc.aio.insecure_channel(server.socket) as channel:
        yield ContainerServiceStub(channel)


def test_no_call_is_left_out() -> None:
    nothing = container_pb2_grpc.ContainerServiceServicer
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["ContainerService"].methods]
    assert len(methods) > 20
    assert [name for name in methods if getattr(ContainerService, name) is getattr(nothing, name)] == []


async def test_create_restart_pause_unpause_rename(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    spec = pb.ContainerSpec(image="busybox", name="web")
    made = await stub.Create(pb.ContainerServiceCreateRequest(request_id="r", spec=spec, pull_policy=3))  # type: ignore[arg-type]
    assert (made.container.state, list(made.warnings)) == (pb.CONTAINER_STATE_CREATED, ["a warning"])
    request_id, asked, policy, credentials = engine.asked("create")
    assert (request_id, asked.name, policy, credentials) == ("r", "web", PullPolicy.NEVER, None)
    await stub.Restart(pb.ContainerServiceRestartRequest(name="web", timeout={"seconds": 3}, signal="INT"))
    assert engine.asked("restart") == ("web", 3.0, "INT", "")
    await stub.Restart(pb.ContainerServiceRestartRequest(name="web"))
    assert engine.asked("restart") == ("web", None, "", "")
    await stub.Pause(pb.ContainerServicePauseRequest(name="web", request_id="p"))
    await stub.Unpause(pb.ContainerServiceUnpauseRequest(name="web"))
    await stub.Rename(pb.ContainerServiceRenameRequest(name="web", new_name="shop"))
    assert engine.asked("pause") == ("web", "p")
    assert engine.asked("unpause") == ("web", "")
    assert engine.asked("rename") == ("web", "shop", "")


async def test_update(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    policy = pb.RestartPolicy(name=pb.RESTART_POLICY_NAME_ON_FAILURE, max_retries=2)
    request = pb.ContainerServiceUpdateRequest(name="web", memory_bytes=-1, cpuset_cpus="", restart_policy=policy)
    answer = await stub.Update(request)
    assert list(answer.warnings) == ["a warning"]
    name, change, _ = engine.asked("update")
    assert name == "web"
    assert change == ContainerChange(
        memory_bytes=-1, cpuset_cpus="", restart_policy=RestartPolicy(RestartPolicyName.ON_FAILURE, 2)
    )
    for wrong in ({}, {"memory_bytes": -2}, {"restart_policy": {"max_retries": 3}}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Update(pb.ContainerServiceUpdateRequest(name="web", **wrong))  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_top_stats_changes_commit_prune(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    table = await stub.Top(pb.ContainerServiceTopRequest(name="web", ps_arguments=["-ef"]))
    assert (list(table.titles), list(table.processes[0].fields)) == (["PID", "CMD"], ["4242", "sleep 60"])
    request = pb.ContainerServiceStatsRequest(names=["web"], one_shot=True, interval={"nanos": 500_000_000})
    (message,) = [each async for each in stub.Stats(request)]
    assert (message.samples[0].name, message.samples[0].cpu_fraction, message.samples[0].cpu_ns) == ("web", 0.5, 5)
    assert engine.asked("stats") == (["web"], True, 0.5)
    (message,) = [each async for each in stub.Changes(pb.ContainerServiceChangesRequest(name="web"))]
    assert [(each.kind, each.path) for each in message.changes] == [(2, "/new"), (3, "/old")]
    commit = pb.ContainerServiceCommitRequest(
        request_id="c", name="web", reference="a:1", author="me", changes=["USER 1"]
    )
    assert (await stub.Commit(commit)).image_id == IMAGE.id
    assert engine.asked("commit") == ("c", "web", "a:1", "me", "", ["USER 1"], True)
    until = pb.ContainerServicePruneRequest(labels=[{"key": "a"}], until={"seconds": 1_700_000_000})
    pruned = await stub.Prune(until)
    assert (list(pruned.ids), pruned.freed_bytes) == ([CONTAINER.id], 4096)
    assert engine.asked("prune") == ((("a", ""),), datetime.fromtimestamp(1_700_000_000, UTC))


async def test_lists_with_health_and_sizes(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    probe = HealthProbe(NOW, NOW, 1, "ill")
    health = Health(HealthStatus.UNHEALTHY, 3, (probe,))
    engine.containers = [replace(CONTAINER, health=health, state=ContainerState.PAUSED)]
    request = pb.ContainerServiceListRequest(
        sizes=True, health=pb.HEALTH_STATUS_UNHEALTHY, network="front", volume="data",
        states=[pb.CONTAINER_STATE_PAUSED],
    )  # fmt: skip
    (message,) = [each.container async for each in stub.List(request)]
    assert (message.health, message.state, message.size_bytes) == (
        pb.HEALTH_STATUS_UNHEALTHY, pb.CONTAINER_STATE_PAUSED, 4096,
    )  # fmt: skip
    assert engine.asked("list_containers") == (
        ContainerFilter(states=(ContainerState.PAUSED,), health=HealthStatus.UNHEALTHY, network="front", volume="data"),
    )
    await stub.Wait(pb.ContainerServiceWaitRequest(name="web", condition=4))  # type: ignore[arg-type]
    assert engine.asked("wait") == ("web", "healthy")


async def test_inspect_fills_the_health_check_in(
    stub: ContainerServiceStub, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = engine.inspect_container
    check = HealthCheck(("CMD", "look"), 30.0, 30.0, 0.0, 5.0, 3)
    health = Health(HealthStatus.HEALTHY, 0, (HealthProbe(NOW, NOW, 0, "fine"),))

    async def checked(name: str) -> object:
        found = await inspect(name)
        return replace(found, container=replace(found.container, health=health, health_check=check))

    monkeypatch.setattr(engine, "inspect_container", checked)
    answer = await stub.Inspect(pb.ContainerServiceInspectRequest(name="web"))
    assert (list(answer.spec.health_check.test), answer.spec.health_check.interval.seconds) == (["CMD", "look"], 30)
    assert (answer.health.status, answer.health.log[0].output) == (pb.HEALTH_STATUS_HEALTHY, "fine")
