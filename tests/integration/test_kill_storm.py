"""A daemon killed again and again while several clients run, stop, kill and remove: rows and host always agree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from tests.support.daemon import Fleet, running_fleet, until
from tests.support.docker_registry import docker_registry
from tests.support.host_state import Host, disagreements
from tests.support.images import push_image_sync

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
SECONDS = 20.0
CLIENTS = 6
MOST = 25
FINE = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}


@pytest.fixture
def storm_host() -> Iterator[tuple[Fleet, str]]:
    with docker_registry() as registry, running_fleet(1, log_level="info") as fleet:
        push_image_sync(registry.address, "busybox")
        image = f"{registry.address}/busybox"
        fleet.shoal("pull", image)
        yield fleet, image


class Client:
    """One of those who make it hard."""

    def __init__(self, stub: Any, image: str, choose: random.Random) -> None:
        self._stub = stub
        self._image = image
        self._choose = choose
        self._mine: list[str] = []
        self.failures: list[str] = []

    async def work(self) -> None:
        """Until the daemon is gone."""
        deeds = (
            self.ends, self.stays, self.publishes, self.with_volume, self.restarts, self.stop, self.kill, self.rm,
            self.creates, self.checked, self.pause, self.pause, self.unpause, self.restart, self.update, self.commit,
        )  # fmt: skip
        while True:
            deed = self._choose.choice(deeds)
            try:
                await deed()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return
                if error.code() not in FINE:
                    self.failures.append(f"{deed.__name__}: {error.code().name} {error.details()}")

    async def _run(self, *command: str, **fields: Any) -> None:
        spec = pb.ContainerSpec(image=self._image, command=command, **fields)
        answer = await self._stub.Run(pb.ContainerServiceRunRequest(request_id=secrets.token_hex(16), spec=spec))
        self._mine.append(answer.container.id)

    async def ends(self) -> None:
        await self._run("true", auto_remove=True)

    async def stays(self) -> None:
        await self._run("sh", "-c", "echo up; exec sleep 1000")

    async def publishes(self) -> None:
        await self._run("sleep", "1000", ports=[pb.PortMapping(container_port=80)])

    async def with_volume(self) -> None:
        await self._run("sleep", "1000", mounts=[pb.Mount(kind=pb.Mount.KIND_VOLUME, target="/data")])

    async def restarts(self) -> None:
        policy = pb.RestartPolicy(name=pb.RESTART_POLICY_NAME_ON_FAILURE, max_retries=3)
        await self._run("sh", "-c", "sleep 0.2; exit 3", restart_policy=policy)

    async def stop(self) -> None:
        if self._mine:
            name = self._choose.choice(self._mine)
            await self._stub.Stop(pb.ContainerServiceStopRequest(name=name, signal="KILL"))

    async def kill(self) -> None:
        if self._mine:
            await self._stub.Kill(pb.ContainerServiceKillRequest(name=self._choose.choice(self._mine)))

    async def creates(self) -> None:
        spec = pb.ContainerSpec(image=self._image, command=["sleep", "1000"])
        answer = await self._stub.Create(pb.ContainerServiceCreateRequest(request_id=secrets.token_hex(16), spec=spec))
        self._mine.append(answer.container.id)

    async def checked(self) -> None:
        check = pb.HealthCheck(test=["CMD", "true"], interval={"nanos": 50_000_000})  # type: ignore[arg-type]
        await self._run("sleep", "1000", health_check=check)

    async def pause(self) -> None:
        if self._mine:
            await self._stub.Pause(pb.ContainerServicePauseRequest(name=self._choose.choice(self._mine)))

    async def unpause(self) -> None:
        if self._mine:
            await self._stub.Unpause(pb.ContainerServiceUnpauseRequest(name=self._choose.choice(self._mine)))

    async def restart(self) -> None:
        if self._mine:
            name = self._choose.choice(self._mine)
            await self._stub.Restart(pb.ContainerServiceRestartRequest(name=name, signal="KILL"))

    async def update(self) -> None:
        if self._mine:
            name, limit = self._choose.choice(self._mine), self._choose.randrange(10, 100)
            await self._stub.Update(pb.ContainerServiceUpdateRequest(name=name, pids_limit=limit))

    async def commit(self) -> None:
        if self._mine:
            await self._stub.Commit(pb.ContainerServiceCommitRequest(name=self._choose.choice(self._mine)))

    async def rm(self) -> None:
        if self._mine:
            name = self._mine.pop(self._choose.randrange(len(self._mine)))
            await self._stub.Remove(pb.ContainerServiceRemoveRequest(name=name, force=True, volumes=True))


async def _storm(fleet: Fleet, image: str, choose: random.Random) -> list[str]:
    """Clients at work, and the daemon killed under them at some moment."""
    async with grpc.aio.insecure_channel(f"unix://{fleet.first.run_dir}/api/shoald.sock") as channel:
        stub = container_pb2_grpc.ContainerServiceStub(channel)
        clients = [Client(stub, image, choose) for _ in range(CLIENTS)]
        tasks = [asyncio.ensure_future(client.work()) for client in clients]
        await asyncio.sleep(choose.uniform(0.05, 1.2))
        os.kill(fleet.first.pid, signal.SIGKILL)
        done, hanging = await asyncio.wait(tasks, timeout=20)
        for task in hanging:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for task in done:
            task.result()
        assert not hanging
        return [failure for client in clients for failure in client.failures]


def test_killed_at_any_moment(storm_host: tuple[Fleet, str]) -> None:
    fleet, image = storm_host
    host = Host.of(fleet.first.settings)
    seed = secrets.randbits(32)
    choose = random.Random(seed)
    deadline = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < deadline or rounds < 3:
        failures = asyncio.run(_storm(fleet, image, choose))
        assert not failures, f"seed {seed}, round {rounds}"
        before = {each: record for each, record in host.containers().items() if record["state"] == "running"}
        fleet.first.kill()
        fleet.first.start()
        until(lambda: _settled(host), 30, f"seed {seed}, round {rounds}: {disagreements(host)}")
        after = host.containers()
        for each, record in before.items():
            # None that ran was lost: it runs on with the same process and ports, or its end was seen.
            kept = after[each] if not record["spec"].get("auto_remove") else after.get(each, record)
            if kept["state"] == "running" and kept["restart_count"] == record["restart_count"]:
                assert (kept["pid"], kept["ports"]) == (record["pid"], record["ports"])
        rounds += 1
        if len(after) > MOST:
            fleet.remove_containers()
            until(lambda: _settled(host), 30, f"seed {seed}: {disagreements(host)}")


def _settled(host: Host) -> bool:
    return not disagreements(host) and not any(c["state"] == "restarting" for c in host.containers().values())
