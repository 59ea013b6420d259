"""Puts together what builds need."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from shoald.build.agents import Agents
from shoald.build.cacheexports import CacheExports
from shoald.build.cachemounts import CacheMounts
from shoald.build.contexts import Contexts
from shoald.build.executor import StepExecutor
from shoald.build.fetching import Fetching
from shoald.build.finishing import Finishing
from shoald.build.lending import CacheLenders
from shoald.build.mounts import StepMounts
from shoald.build.packing import Packing
from shoald.build.remotecache import RemoteCaches
from shoald.build.solver import Solver
from shoald.config import Config
from shoald.containers.launcher import Launcher
from shoald.content.local import LocalContent
from shoald.engine.build import BuildCases, find_base
from shoald.engine.events import EventLog
from shoald.engine.images import ImageCases
from shoald.engine.operations import Operations
from shoald.files.vault import SecretVault
from shoald.images.assemble import Assembler
from shoald.images.layers import Layers
from shoald.images.store import ImageStore
from shoald.metadata.store import Metadata
from shoald.model.metrics import EngineMetrics
from shoald.network.networks import Networks
from shoald.registry.client import RegistryClient
from shoald.snapshots.overlay import OverlaySnapshotter

if TYPE_CHECKING:
    from shoald.build.attesting import Attesting


def compose_builds(
    config: Config,
    md: Metadata,
    content: LocalContent,
    snapshots: OverlaySnapshotter,
    launcher: Launcher,
    networks: Networks,
    vault: SecretVault,
    caches: CacheMounts,
    contexts: Contexts,
    agents: Agents,
    lenders: CacheLenders,
    images: ImageCases,
    store: ImageStore,
    registry: RegistryClient,
    operations: Operations,
    events: EventLog,
    metrics: EngineMetrics,
    stack: AsyncExitStack,
) -> BuildCases:
    """The use case of builds; what it has to close goes on the stack."""
    tmp = config.root / "tmp"
    layers = Layers(md, content, snapshots, tmp / "layers")

    def subnets_of_containers() -> list[str]:
        own = [subnet for network in md.networks.list() for subnet in network.subnets]
        return [config.network.subnet, config.network.pool, *own]

    def attesting() -> Attesting:
        # 2.4 MB, which a daemon that attests nothing does not need.
        from shoald.build.attesting import Attesting

        return Attesting(md, content, snapshots)

    executor = StepExecutor(
        md,
        snapshots,
        launcher,
        vault,
        StepMounts(snapshots, caches, agents, tmp),
        lambda source, root, into: layers.unpack_archive(source, root, into=into),
        Fetching(subnets_of_containers),
    )
    packing = Packing(md, content, layers)
    stack.push_async_callback(packing.close)
    remote = RemoteCaches(md, content, registry, store.restorer, lenders, packing)
    exports = CacheExports(md, content, packing)
    stack.callback(exports.close)
    solver = Solver(
        md,
        executor,
        lambda reference, platform, build: find_base(
            md,
            store.indexer.for_platform,
            images.pull_now,
            reference,
            platform,
            build.request,
            build.emit,
            local=build.local,
        ),
        packing.begin,
        remote.restored,
    )
    return BuildCases(
        md,
        operations,
        solver,
        executor,
        Finishing(md, packing, Assembler(md, content, snapshots)),
        attesting,
        store.indexer,
        layers,
        contexts,
        remote,
        exports,
        networks,
        tmp,
        config.userns,
        events.publish,
        metrics,
    )
