"""The measurements, in seconds or bytes; rounds go around the engines, so that all meet the same machine."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc

from bench.engines import Docker, Engine, Podman, Shoal
from shoal.v1 import container_pb2, container_pb2_grpc

Figures = dict[str, list[float]]
BURST = 20


def around(engines: Sequence[Engine], rounds: int, measure: Callable[[Engine], float]) -> Figures:
    """`rounds` of each engine in turn, after one that does not count."""
    figures: Figures = {engine.name: [] for engine in engines}
    for count in range(rounds + 1):
        for engine in engines:
            taken = measure(engine)
            if count:
                figures[engine.name].append(taken)
    return figures


def cli_run(engines: Sequence[Engine], image: str, rounds: int) -> Figures:
    """`run --rm IMAGE true` from the command line."""
    return around(engines, rounds, lambda engine: engine.seconds("run", "--rm", *engine.run_flags, image, "true"))


def cli(engines: Sequence[Engine], rounds: int, *arguments: str) -> Figures:
    """Any other command."""
    return around(engines, rounds, lambda engine: engine.seconds(*arguments))


def pull(engines: Sequence[Engine], reference: str, rounds: int) -> Figures:
    """`pull` of an image of which nothing is there."""

    def once(engine: Engine) -> float:
        flags = ["--tls-verify=false"] if isinstance(engine, Podman) else []
        taken = engine.seconds("pull", "-q", *flags, reference)
        engine.remove_image(reference)
        return taken

    return around(engines, rounds, once)


def api_start(engines: Sequence[Engine], image: str, rounds: int) -> Figures:
    """From a request over an open connection to a running container, network included."""
    return {
        engine.name: asyncio.run(_starts(engine, image, rounds))
        for engine in engines
        if isinstance(engine, Shoal | Docker)
    }


def burst(engines: Sequence[Engine], image: str, rounds: int) -> Figures:
    """Twenty containers at once through one client (Podman: twenty commands at once); seconds until all run."""
    figures: Figures = {}
    for engine in engines:
        figures[engine.name] = []
        for count in range(rounds + 1):
            taken = _podman_burst(engine, image) if isinstance(engine, Podman) else asyncio.run(_burst(engine, image))
            if count:
                figures[engine.name].append(taken)
            engine.remove_containers()
    return figures


def memory(engines: Sequence[Engine], image: str, count: int) -> dict[str, dict[str, float]]:
    """Bytes of RSS of the idle daemon (with its helpers), and what each of `count` containers adds, monitors included.

    Call it first: what a daemon has done before stays in its memory.
    """
    found = {}
    for engine in engines:
        idle = rss(engine.daemon_pids())
        for _ in range(count):
            engine.run("run", "-d", *engine.run_flags, image, "sleep", "1000")
        time.sleep(1)
        full = rss(engine.daemon_pids()) + rss(engine.monitor_pids())
        engine.remove_containers()
        found[engine.name] = {"idle": idle, "per_container": (full - idle) / count}
    return found


def rss(pids: Sequence[int]) -> float:
    """Resident bytes of processes, together."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:  # a helper that has ended
            continue
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return float(total)


def median(figures: Sequence[float]) -> float:
    """Of the figures; NaN of none."""
    return statistics.median(figures) if figures else float("nan")


async def _starts(engine: Engine, image: str, rounds: int) -> list[float]:
    figures = []
    async with _Client(engine, image) as client:
        for count in range(rounds + 1):
            begun = time.perf_counter()
            await client.start()
            if count:
                figures.append(time.perf_counter() - begun)
    engine.remove_containers()
    return figures


async def _burst(engine: Engine, image: str) -> float:
    async with _Client(engine, image) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(client.start() for _ in range(BURST)))
        return time.perf_counter() - begun


def _podman_burst(engine: Engine, image: str) -> float:
    command = engine.command("run", "-d", *engine.run_flags, image, "sleep", "1000")
    begun = time.perf_counter()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(BURST)]
    if any(process.wait() for process in running):
        raise RuntimeError("podman run failed")
    return time.perf_counter() - begun


class _Client:
    """One open connection that starts containers: gRPC for shoal, the HTTP API on its socket for Docker."""

    def __init__(self, engine: Engine, image: str) -> None:
        self._engine = engine
        self._image = image
        self._channel: grpc.aio.Channel | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> _Client:
        if isinstance(self._engine, Shoal):
            fleet = self._engine.fleet
            pki = fleet.directory / "pki"
            files = [(pki / name).read_bytes() for name in ("ca.pem", "admin-key.pem", "admin.pem")]
            self._channel = grpc.aio.secure_channel(fleet.first.address, grpc.ssl_channel_credentials(*files))
            await self._channel.channel_ready()
        elif isinstance(self._engine, Docker):
            connector = aiohttp.UnixConnector(path=str(self._engine.socket), limit=0)
            self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()
        if self._session is not None:
            await self._session.close()

    async def start(self) -> None:
        """Create and start one that sleeps."""
        if self._channel is not None:
            stub: Any = container_pb2_grpc.ContainerServiceStub(self._channel)
            spec = container_pb2.ContainerSpec(image=self._image, command=["sleep", "1000"])
            request = container_pb2.ContainerServiceRunRequest(spec=spec, request_id=uuid.uuid4().hex)
            await stub.Run(request)
            return
        assert self._session is not None
        body = {"Image": self._image, "Cmd": ["sleep", "1000"]}
        async with self._session.post("http://docker/containers/create", json=body) as answer:
            created = json.loads(await answer.text())
        async with self._session.post(f"http://docker/containers/{created['Id']}/start") as answer:
            if answer.status != 204:
                raise RuntimeError(f"docker start: {await answer.text()}")
