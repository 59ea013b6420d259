"""The part of the engine that runs containers, over fakes: no root, no processes, real rows.

async with rig(tmp_path) as host:
    container = await host.run("sleep", "100")
    ...
    host.assert_clean()
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from shoald.containers.ghosts import Ghosts
from shoald.containers.launcher import Launcher, Prepared
from shoald.containers.neighbours import Neighbours
from shoald.containers.places import Places
from shoald.containers.supervisor import Supervisor
from shoald.engine.containers import ContainerCases
from shoald.engine.control import ControlCases
from shoald.engine.logs import OutputCases
from shoald.files.store import ContentTrees
from shoald.files.vault import SecretVault
from shoald.host.userns import UserNamespaces
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState, HealthCheck, HealthProbe, PullPolicy
from shoald.model.image import Image
from shoald.model.metrics import NoMetrics
from shoald.runtime.resources import HostLimits
from shoald.volumes.local import LocalVolumes
from tests.support import records
from tests.support.fake_network import FakeNetwork
from tests.support.fake_runtime import FakeRuntime
from tests.support.plain_snapshots import PlainSnapshotter


@dataclass
class Range:
    """Host ids for user namespaces."""

    base: int = 1 << 20
    size: int = 65536
    slots: int = 16


@dataclass
class FakeProbes:
    """Health checks that end with `code`."""

    code: int = 0
    count: int = 0

    async def run(self, container: Container, _check: HealthCheck) -> HealthProbe:
        """One check."""
        await asyncio.sleep(0)
        self.count += 1
        now = datetime.now(UTC)
        return HealthProbe(now, now, self.code, f"check {self.count}")


@dataclass
class Rig:
    """All parts, to look at and to break."""

    root: Path
    md: Metadata
    runtime: FakeRuntime
    network: FakeNetwork
    snapshots: PlainSnapshotter
    volumes: LocalVolumes
    launcher: Launcher
    supervisor: Supervisor
    cases: ContainerCases
    control: ControlCases
    output: OutputCases
    image: Image
    probes: FakeProbes
    events: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)

    def spec(self, *command: str, **fields: Any) -> ContainerSpec:
        """A request for the image."""
        return replace(ContainerSpec(image="app", command=command, userns="host"), **fields)

    async def run(self, *command: str, request_id: str = "", keep: bool = False, **fields: Any) -> Container:
        """`shoal run -d`."""
        made, _ = await self.cases.run(request_id, self.spec(*command, **fields), PullPolicy.NEVER, None, keep)
        return made

    def state(self, container_id: str) -> ContainerState | None:
        """None: it is gone."""
        found = self.md.containers.get(container_id)
        return found.state if found else None

    def actions(self, container_id: str) -> list[str]:
        """Its events."""
        return [action for action, actor, _ in self.events if actor == container_id]

    def leftovers(self) -> list[str]:
        """All that is there but should not, when no container runs."""
        kept = self.md.containers.list()
        layers = {each.snapshot_id for each in kept}
        return [
            *(f"row {each.name} {each.state.value}" for each in kept if each.state in PASSING),
            *(f"process {each}" for each in self.runtime.running),
            *(f"endpoint {each}" for each in self.network.connected),
            *(f"address {each.id}" for each in kept if self.network.reserved(each.id)[0]),
            *(f"mount {each}" for each in self.snapshots.mounts),
            *(f"bundle {each}" for each in os.listdir(self.root / "run")),
            *(f"layer {each.id}" for each in self.md.snapshots.all() if not each.committed and each.id not in layers),
            *(
                f"directory {each}"
                for each in os.listdir(self.root / "containers")
                if self.md.containers.get(each) is None
            ),
            *(f"address of {each}" for each in self.network._endpoints if self.md.containers.get(each) is None),
        ]

    def assert_clean(self) -> None:
        """Nothing of a container that does not run is left."""
        assert not self.leftovers()


PASSING = (ContainerState.CREATING, ContainerState.REMOVING, ContainerState.DEAD, ContainerState.RUNNING)


def _configure(prepared: Prepared) -> dict[str, Any]:
    process = {"args": list(prepared.container.process.args), "cwd": "/"}
    return {"process": process, "linux": {"cgroupsPath": f"/fake/{prepared.container.id}"}}


@asynccontextmanager
async def rig(root: Path, *, begin: bool = True, runtime: FakeRuntime | None = None) -> AsyncIterator[Rig]:
    """A host with the image `app`. With the same `root` and `runtime` again it is the next daemon."""
    for name in ("run", "containers"):
        (root / name).mkdir(exist_ok=True)
    md = Metadata.open(root / "meta.db")
    namespaces = UserNamespaces()
    try:
        snapshots = PlainSnapshotter(md, root / "snapshots")
        volumes = LocalVolumes(md, root / "volumes")
        network = FakeNetwork()
        runtime = runtime or FakeRuntime(root / "run")
        image = await _image(md, snapshots)

        async def populate(_container: Container, _path: str, _directory: Path, _in_place: bool) -> None:
            return

        async def pull(*_: object) -> Image:
            raise AssertionError("these tests pull nothing")

        launcher = Launcher(
            runtime=runtime,
            snapshots=snapshots,
            network=network,
            places=Places(
                volumes=volumes,
                files=ContentTrees(md, root / "files"),
                vault=SecretVault(root / "secrets"),
                userns=namespaces,
                userns_size=65536,
                populate=populate,
            ),
            state_dir=root / "containers",
            run_dir=root / "run",
            configure=_configure,
            neighbours=Neighbours(md, root / "run"),
        )
        events: list[tuple[str, str, Mapping[str, str]]] = []

        def publish(_type: str, action: str, actor: str, attributes: dict[str, str]) -> None:
            events.append((action, actor, attributes))

        ghosts = Ghosts(root / "ghosts")
        probes = FakeProbes()
        supervisor = Supervisor(
            md,
            launcher,
            runtime,
            snapshots,
            volumes,
            ghosts,
            publish,
            Range(),
            lambda _: None,
            probes.run,
            HostLimits(),
        )
        cases = ContainerCases(
            md,
            supervisor,
            pull,
            runtime_name=lambda: "fake",
            log_path=lambda each: str(launcher.log_path(each)),
            volume_path=lambda name: str(volumes.path(name)),
            userns_size=65536,
            warnings=lambda _: [],
            metrics=NoMetrics(),
        )
        output = OutputCases(md, supervisor, runtime, cases.find, launcher.log_path)
        if begin:
            await supervisor.begin()
        control = ControlCases(md, supervisor, snapshots, publish, lambda _: [])
        yield Rig(
            root,
            md,
            runtime,
            network,
            snapshots,
            volumes,
            launcher,
            supervisor,
            cases,
            control,
            output,
            image,
            probes,
            events,
        )
        await cases.close()
        await supervisor.close()
    finally:
        md.close()
        await namespaces.aclose()


async def _image(md: Metadata, snapshots: PlainSnapshotter) -> Image:
    image = records.image("app", tags=("docker.io/library/app:latest",))
    if md.snapshots.by_chain(image.chain_id) is None:
        layer = await snapshots.create_layer(None)
        (snapshots.fs_path(layer.id) / "etc").mkdir()
        await snapshots.commit(layer.id, chain_id=image.chain_id, diff_id=records.sha("app-diff"), size_bytes=1)
        md.images.put(image, [records.sha("layer")])
        md.images.tag("docker.io/library/app:latest", image.id)
    return image
