"""A real engine in the test's own process: real runtime, mounts, network; `with engine_host() as host`, then
`async with host.engine() as engine` as often as the daemon is to be started over the same state."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoald import compose, config
from shoald.config import Config
from shoald.engine.ports import Engine, ExitStatus
from shoald.host import cgroups
from shoald.host.mounts import unmount_tree
from shoald.host.process import use_pidfd_watcher
from shoald.model.container import Container, ContainerSpec, PullPolicy
from shoald.model.log import LogQuery
from shoald.model.metrics import NoMetrics
from tests.support.daemon import _free_subnets, _toml
from tests.support.host_state import Host, disagreements

SLOTS = 64


@dataclass
class EngineHost:
    """One host's directories and settings."""

    settings: dict[str, Any]
    image: str
    other_image: str = ""

    @property
    def config(self) -> Config:
        """As the daemon has it."""
        return config.from_toml(_toml(self.settings))

    @property
    def state(self) -> Host:
        """What is on the host."""
        return Host.of(self.settings)

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[RunningEngine]:
        """Start; the end stops it and leaves the containers."""
        use_pidfd_watcher()
        async with compose.build_engine(self.config, NoMetrics()) as engine:
            yield RunningEngine(engine, self)

    async def settled(self, seconds: float = 10.0) -> None:
        """Rows and host agree within some seconds."""
        for _ in range(int(seconds / 0.05)):
            if not disagreements(self.state):
                return
            await asyncio.sleep(0.05)
        assert not disagreements(self.state)

    async def reboot(self) -> None:
        """What a power cut takes: processes, mounts, the run directory."""
        for pid in self.state.monitors().values():
            _kill(pid)
        for record in self.state.containers().values():
            if record.get("pid"):
                _kill(record["pid"])
        found = cgroups.detect()
        for name in self.state.cgroups():
            await cgroups.remove(found, f"{self.state.cgroup_parent}/{name}")
        for path in (self.state.run_dir, self.state.root):
            unmount_tree(path, detach=True)
        shutil.rmtree(self.state.run_dir)


@dataclass
class RunningEngine:
    """Short forms of what tests do."""

    engine: Engine
    host: EngineHost

    async def run(self, *command: str, request_id: str = "", keep: bool = False, **fields: Any) -> Container:
        """`shoal run -d`."""
        spec = ContainerSpec(image=fields.pop("image", self.host.image), command=command, **fields)
        made, _ = await self.engine.run(request_id or secrets.token_hex(8), spec, PullPolicy.MISSING, None, keep)
        return made

    async def output(self, *command: str, **fields: Any) -> tuple[str, ExitStatus]:
        """`shoal run --rm`: all that it writes, and its exit."""
        made = await self.run(*command, auto_remove=True, **fields)
        session = await self.engine.attach(made.id, "start", True, True, False)
        try:
            items = [item async for item in session.output()]
        finally:
            await session.close()
        assert isinstance(items[-1], ExitStatus)
        records = [r for item in items if not isinstance(item, ExitStatus) for r in item.records]
        return b"".join(record.data for record in records).decode(), items[-1]

    async def logs(self, name: str) -> str:
        """What it has written."""
        batches = [batch async for batch in self.engine.logs(name, LogQuery())]
        return b"".join(record.data for batch in batches for record in batch.records).decode()

    async def state(self, name: str) -> Container:
        """Its record."""
        return (await self.engine.inspect_container(name)).container

    async def remove_all(self) -> None:
        """Every container with its volumes."""
        ids: Sequence[str] = list(self.host.state.containers())
        await asyncio.gather(*(self.engine.remove(each, True, True) for each in ids), return_exceptions=True)


@contextmanager
def engine_host(image: str, root: Path | None = None) -> Iterator[EngineHost]:
    """Directories, bridge, subnet, table, cgroup and ids of their own; all of it is removed at the end."""
    token = secrets.token_hex(2)
    directory = Path(tempfile.mkdtemp(prefix=f"shoal-engine-{token}-", dir="/var/tmp"))
    directory.chmod(0o711)
    settings = {
        "root": str(root or directory / "root"),
        "run_dir": f"/run/shoal-e{token}",
        "metrics_listen": "",
        "network": {
            "bridge": f"she{token}",
            "subnet": str(_free_subnets(1)[0]),
            "nft_table": f"shoal_e{token}",
            "publish_address": f"127.{secrets.randbelow(100) + 100}.{secrets.randbelow(200) + 1}.9",
        },
        "runtime": {"cgroup_parent": f"/shoal-e{token}"},
        "userns": {"base": 0x70000000 + int(token, 16) % 56 * SLOTS * 65536, "slots": SLOTS},
    }
    host = EngineHost(settings, image)
    try:
        yield host
    finally:
        asyncio.run(compose.purge(host.config))
        shutil.rmtree(directory, ignore_errors=True)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
