"""The composition of the engine: the one place that constructs its parts from the configuration."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from shoal.errors import FailedPrecondition, ShoalError
from shoald.build.agents import Agents
from shoald.build.cachemounts import CacheMounts
from shoald.build.contexts import Contexts
from shoald.build.lending import CacheLenders
from shoald.compose_builds import compose_builds
from shoald.config import Config
from shoald.configure import INIT_PROGRAMS, SpecMaker, seccomp_of
from shoald.containers.copying import ContainerFiles, ImageFiles
from shoald.containers.ghosts import Ghosts
from shoald.containers.launcher import Launcher
from shoald.containers.neighbours import Neighbours
from shoald.containers.places import Places
from shoald.containers.populate import populate_from_image
from shoald.containers.probe import HealthProber
from shoald.containers.supervisor import Supervisor
from shoald.content.local import LocalContent
from shoald.engine.buildcache import BuildCacheCases
from shoald.engine.changes import ChangesCases
from shoald.engine.commit import CommitCases
from shoald.engine.containers import ContainerCases
from shoald.engine.control import ControlCases
from shoald.engine.copying import CopyCases
from shoald.engine.events import EventLog
from shoald.engine.exec import ExecCases
from shoald.engine.facade import LocalEngine
from shoald.engine.files import FileCases
from shoald.engine.images import ImageCases
from shoald.engine.insight import InsightCases
from shoald.engine.logs import OutputCases
from shoald.engine.networks import NetworkCases
from shoald.engine.operations import Operations
from shoald.engine.ports import Engine
from shoald.engine.stats import StatsCases
from shoald.engine.system import SystemCases
from shoald.engine.top import TopCases
from shoald.engine.volumes import VolumeCases
from shoald.files.store import ContentTrees
from shoald.files.vault import SecretVault
from shoald.gc.collect import Collected, collect
from shoald.host import cgroups, overlayfs
from shoald.host.controllers import MountedControllers
from shoald.host.files import disk_space
from shoald.host.trees import remove_tree
from shoald.host.userns import UserNamespaces
from shoald.images.assemble import Assembler
from shoald.images.layers import Layers
from shoald.images.store import ImageStore
from shoald.metadata.store import Metadata
from shoald.model.metrics import EngineMetrics
from shoald.network.bridge import BridgeNetwork, BridgeSettings
from shoald.network.dns import DNS_DIRECTORY, find_program
from shoald.purge import purge as purge
from shoald.registry.client import RegistryClient
from shoald.registry.settings import RegistrySettings
from shoald.runtime.conmon import ConmonRuntime
from shoald.runtime.probe import choose_runtime, program_version
from shoald.snapshots.overlay import OverlaySnapshotter
from shoald.volumes.local import LocalVolumes

log = structlog.get_logger("shoald")

THREADS = 32
"""For calls that block in the kernel: asyncio's default on two processors is six, which a few syncs would use up."""


@contextlib.asynccontextmanager
async def build_engine(config: Config, metrics: EngineMetrics) -> AsyncIterator[Engine]:
    """The engine, recovered and at work inside the block; leaving it stops the engine, never the containers.

    Raises FailedPrecondition for a host that lacks something vital (see `shoald doctor`).
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "shoald"))
    async with AsyncExitStack() as stack:
        root = config.root
        for directory, mode in ((root, 0o711), (root / "containers", 0o711), (root / "tmp", 0o700)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        overlayfs.remove_stale_scratch()
        md = stack.enter_context(Metadata.open(root / "meta.db"))
        namespaces = UserNamespaces()
        stack.push_async_callback(namespaces.aclose)
        content = LocalContent(root / "content")
        snapshots = OverlaySnapshotter(md, root / "snapshots", root / "tmp" / "mounts", namespaces)
        await snapshots.recover()
        events = EventLog(md)
        volumes = LocalVolumes(md, root / "volumes", events.publish)
        await volumes.recover()
        files = ContentTrees(md, root / "files")
        await files.recover()
        vault = SecretVault(config.run_dir / "secrets")
        await vault.prepare(container.id for container in md.containers.list())
        stack.callback(vault.close)
        places = Places(
            volumes=volumes,
            files=files,
            vault=vault,
            userns=namespaces,
            userns_size=config.userns.size,
            populate=functools.partial(populate_from_image, snapshots),
        )
        registry = RegistryClient(
            RegistrySettings(
                insecure_registries=frozenset(config.registries.insecure), ca_files=dict(config.registries.ca)
            )
        )
        stack.push_async_callback(registry.close)
        network = BridgeNetwork(
            md,
            BridgeSettings(
                bridge=config.network.bridge,
                subnet=ipaddress.IPv4Network(config.network.subnet),
                nft_table=config.network.nft_table,
                publish_address=config.network.publish_address,
                mtu=config.network.mtu,
                pool=ipaddress.IPv4Network(config.network.pool),
                dns_program=find_program(config.network.dns),
                dns_directory=config.run_dir / DNS_DIRECTORY,
            ),
        )
        await network.setup()
        stack.push_async_callback(network.close)
        controllers = MountedControllers()
        stack.callback(controllers.close)
        controllers.hold()
        runtime, conmon, probe_warnings = await _runtime(config, controllers)
        stack.callback(runtime.close)
        seccomp, seccomp_warning = seccomp_of(config.runtime.seccomp_profile)
        cdi_directories = [Path(each) for each in config.runtime.cdi_dirs]
        specs = SpecMaker(
            cgroup_parent=config.runtime.cgroup_parent,
            userns_size=config.userns.size,
            seccomp=seccomp,
            init_path=config.runtime.init_path or _init_path(),
            host=cgroups.detect(),
            cdi_directories=cdi_directories,
        )
        launcher = Launcher(
            runtime=runtime,
            snapshots=snapshots,
            network=network,
            places=places,
            state_dir=root / "containers",
            run_dir=config.run_dir,
            configure=specs.configure,
            neighbours=Neighbours(md, config.run_dir),
            userns_size=config.userns.size,
            cdi_directories=cdi_directories,
        )
        runner = runtime.exec_runner()
        runner.end_strays()
        ghosts = Ghosts(root / "tmp" / "ghosts")
        stack.callback(ghosts.close)
        supervisor = Supervisor(
            md,
            launcher,
            runtime,
            snapshots,
            volumes,
            ghosts,
            events.publish,
            config.userns,
            specs.admission.check,
            HealthProber(runner, runtime),
            specs.limits,
        )
        operations = Operations()
        store = ImageStore(md, content, snapshots, registry)

        async def collect_garbage() -> Collected:
            return await collect(md, content, snapshots)

        images = ImageCases(
            md,
            content,
            store,
            operations,
            events.publish,
            collect_garbage,
            metrics,
            Layers(md, content, snapshots, root / "tmp/layers"),
            root / "tmp",
        )
        containers = ContainerCases(
            md,
            supervisor,
            images.pull_now,
            runtime_name=lambda: runtime.name,
            log_path=lambda container_id: str(launcher.log_path(container_id)),
            volume_path=lambda name: str(volumes.path(name)),
            userns_size=config.userns.size,
            warnings=specs.admission.warnings,
            metrics=metrics,
            for_platform=store.indexer.for_platform,
        )
        output = OutputCases(md, supervisor, runtime, containers.find, launcher.log_path)
        execs = ExecCases(containers.find, runner, events.publish)
        in_containers = ContainerFiles(
            md.containers.get,
            supervisor.change,
            supervisor.still,
            lambda container_id: runtime.bundle_dir(container_id) / "rootfs",
            namespaces,
            config.userns.size,
        )
        copying = CopyCases(containers.find, in_containers, md.images.find, ImageFiles(md, snapshots), events.publish)
        caches, agents, lenders = CacheMounts(root / "buildcache"), Agents(), CacheLenders()
        await asyncio.to_thread(caches.sweep)
        contexts = Contexts(root / "contexts", files)
        await asyncio.to_thread(contexts.sweep)
        builds = compose_builds(
            config,
            md,
            content,
            snapshots,
            launcher,
            network.networks,
            vault,
            caches,
            contexts,
            agents,
            lenders,
            images,
            store,
            registry,
            operations,
            events,
            metrics,
            stack,
        )
        warnings = [w for w in (*probe_warnings, seccomp_warning) if w]
        system = SystemCases(
            md,
            root,
            cgroup_mode=cgroups.detect().mode.value,
            runtime=lambda: runtime.description,
            conmon=conmon,
            warnings=lambda: warnings,
        )
        await supervisor.begin()
        stack.push_async_callback(supervisor.close)
        stack.push_async_callback(containers.close)
        stack.push_async_callback(execs.close)
        _remove_leftovers(root / "tmp")
        await volumes.sweep()
        collecting = asyncio.create_task(files.collect_forever(), name="files")
        stack.push_async_callback(_cancelled, collecting)
        cleaning = asyncio.create_task(contexts.collect_forever(), name="contexts")
        stack.push_async_callback(_cancelled, cleaning)
        build_cache = BuildCacheCases(md, caches, contexts, collect_garbage)
        limiting = asyncio.create_task(build_cache.keep_within(lambda: _cache_limit(config)), name="build cache")
        stack.push_async_callback(_cancelled, limiting)
        await collect_garbage()
        stack.push_async_callback(operations.close)
        events.publish("daemon", "start", md.meta.host_id, {})
        yield LocalEngine(
            images=images,
            builds=builds,
            agents=agents,
            lenders=lenders,
            build_cache=build_cache,
            containers=containers,
            control=ControlCases(md, supervisor, snapshots, events.publish, specs.admission.warnings),
            insight=_insight(config, md, content, snapshots, supervisor, events),
            output=output,
            execs=execs,
            copying=copying,
            volumes=VolumeCases(md, volumes, events.publish),
            files=FileCases(files, contexts, vault, supervisor, md.containers.find),
            networks=NetworkCases(md, network, launcher, supervisor.locks, events.publish),
            system=system,
            events=events,
            operations=operations,
        )


def _insight(
    config: Config,
    md: Metadata,
    content: LocalContent,
    snapshots: OverlaySnapshotter,
    supervisor: Supervisor,
    events: EventLog,
) -> InsightCases:
    host, parent = cgroups.detect(), config.runtime.cgroup_parent
    commit = CommitCases(
        md,
        content,
        snapshots,
        Layers(md, content, snapshots, config.root / "tmp" / "layers"),
        Assembler(md, content, snapshots),
        supervisor.freezing.frozen,
        events.publish,
    )
    top = TopCases(md, host, parent, events.publish)
    return InsightCases(top, StatsCases(md, host, parent), ChangesCases(md, snapshots), commit)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _cache_limit(config: Config) -> int:
    """Bytes that builds may keep."""
    return config.build.cache_bytes or disk_space(config.root).total // 10


async def _runtime(config: Config, controllers: MountedControllers) -> tuple[ConmonRuntime, str, list[str]]:
    conmon = config.runtime.conmon or shutil.which("conmon")
    if not conmon:
        raise FailedPrecondition("conmon is not installed", reason="PROGRAM_MISSING", hint="apt-get install conmon")

    async def mount_controllers() -> None:
        mounted = await asyncio.to_thread(controllers.mount)
        if mounted:
            log.info("cgroup_controllers_mounted", controllers=mounted)

    wants_crun = config.runtime.name in ("auto", "", "crun") and shutil.which("crun") is not None
    if config.runtime.mount_controllers and wants_crun:
        # Before the probe: it may pass while a hierarchy that was just unmounted has not gone yet.
        await mount_controllers()
    prepare = mount_controllers if config.runtime.mount_controllers else None
    probe = await choose_runtime(config.runtime.name, prepare_crun=prepare)
    warnings = [f"{name} can't be used: {why}" for name, why in probe.rejected]
    for warning in warnings:
        log.warning("runtime_rejected", detail=warning)
    runtime = ConmonRuntime(probe.runtime, conmon=conmon, run_dir=config.run_dir)
    return runtime, f"conmon {await program_version(conmon)}", warnings


def _init_path() -> str:
    return next(filter(None, map(shutil.which, INIT_PROGRAMS)), "")


def _remove_leftovers(tmp: Path) -> None:
    """What an earlier daemon did not finish: contexts and files of builds, and archives that were loaded."""
    for entry in tmp.iterdir():
        if entry.name.startswith(("build-", "heredoc-", "bind-", "load-")):
            with contextlib.suppress(ShoalError):
                remove_tree(entry)
