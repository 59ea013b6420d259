"""Use case: an image of a container's files and configuration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument, NotFound
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.build.stubs import stubs_of
from shoald.containers.lifecycle import Publish, event_attributes
from shoald.content.ports import ContentStore
from shoald.dockerfile.graph import plan
from shoald.dockerfile.state import StageState
from shoald.dockerfile.steps import CopyStep, RunStep
from shoald.engine.operations import Once
from shoald.images.assemble import Assembler, BuiltLayer
from shoald.images.layers import LayerBlob, Layers
from shoald.images.unpacker import unpacking
from shoald.metadata.store import Metadata
from shoald.model.container import Container, HealthCheck, MountKind
from shoald.model.image import Image
from shoald.snapshots.ports import Snapshotter

Frozen = Callable[[str], AbstractAsyncContextManager[None]]


class CommitCases:
    """Makes images of containers. Secrets and mounts are never part of them: they are no files of the layer."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        layers: Layers,
        assembler: Assembler,
        frozen: Frozen,
        publish: Publish,
    ) -> None:
        """`frozen(container id)` keeps a running container still for the time of a block."""
        self._md = md
        self._content = content
        self._snapshots = snapshots
        self._layers = layers
        self._assembler = assembler
        self._frozen = frozen
        self._publish = publish
        self._once = Once()

    async def commit(
        self,
        request_id: str,
        name: str,
        reference: str,
        author: str,
        message: str,
        changes: Sequence[str],
        pause: bool,
    ) -> Image:
        """Once for each request id; it is not cancelled with its caller. Raises InvalidArgument (INVALID_REFERENCE,
        INVALID_CHANGE), NotFound, ResourceExhausted."""
        fingerprint = json.dumps(["commit", name, reference, author, message, list(changes), pause])
        return await self._once.run(
            request_id, fingerprint, lambda: self._commit(name, reference, author, message, changes, pause)
        )

    async def _commit(
        self, name: str, reference: str, author: str, message: str, changes: Sequence[str], pause: bool
    ) -> Image:
        container = self._md.containers.find(name)
        tags = (str(tag_of(reference)),) if reference else ()
        base = self._md.images.get(container.image_id)
        if base is None:
            raise DataLoss(f"the image of container {container.name} is gone", reason="IMAGE_NOT_FOUND")
        config = config_of(container, base)
        state = changed(config, author or base.config.author, changes)
        with self._md.leases.lease("commit") as lease:
            async with self._frozen(container.id) if pause else _running():
                blob = await self._packed(container, lease)
            layer = await self._unpacked(container, blob, lease)
            below = self._assembler.layers_of(base)
            layers = [*below, layer]
            body = document(base, state, [each.blob.diff_id for each in layers], container, message)
            image = await self._assembler.create_image(body, layers, tags)
        told = {**event_attributes(container), "comment": message, "imageID": image.id}
        self._publish("container", "commit", container.id, told)
        return image

    async def _packed(self, container: Container, lease: str) -> LayerBlob:
        """The container's layer as an archive: a confined program reads it, so that a container that goes on changing
        its files can't lead it elsewhere."""
        active = self._md.snapshots.get(container.snapshot_id)
        assert active is not None
        directory, targets = self._snapshots.fs_path(active.id), [mount.target for mount in container.spec.mounts]
        stubs = await asyncio.to_thread(stubs_of, directory, targets)
        return await self._layers.pack_layer(active, lease=lease, without=stubs)

    async def _unpacked(self, container: Container, blob: LayerBlob, lease: str) -> BuiltLayer:
        """The same as a layer of images, on those that the container has below it."""
        active = self._md.snapshots.get(container.snapshot_id)
        if active is None:
            raise NotFound(f"container {container.name} was removed", reason="CONTAINER_NOT_FOUND")
        snapshot = await self._snapshots.create_layer(active.parent_id, lease=lease)
        try:
            path = self._content.path(Digest.parse(blob.digest))
            async with unpacking(self._snapshots.fs_path(snapshot.id), "layer", source=path) as unpacker:
                await unpacker.result()
            snapshot = await self._snapshots.commit(snapshot.id, size_bytes=blob.content_bytes)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._snapshots.remove(snapshot.id)))
            raise
        return BuiltLayer(blob, snapshot)


@asynccontextmanager
async def _running() -> AsyncIterator[None]:
    yield


def tag_of(reference: str) -> Reference:
    """The name for the image. Raises InvalidArgument (INVALID_REFERENCE)."""
    parsed = Reference.parse(reference)
    if parsed.digest is not None:
        raise InvalidArgument("a tag can't have a digest", reason="INVALID_REFERENCE")
    return parsed.with_default_tag()


def config_of(container: Container, base: Image) -> dict[str, Any]:
    """The `config` object of the image: the base's, with what the container was started with; pure."""
    config: dict[str, Any] = msgspec.to_builtins(base.config.defaults)
    spec = container.spec
    if spec.entrypoint is not None:
        config["Entrypoint"], config["Cmd"] = list(spec.entrypoint), list(spec.command)
    elif spec.command:
        config["Cmd"] = list(spec.command)
    config["Env"] = list(container.process.env)
    config["WorkingDir"] = container.process.working_dir
    config["User"] = container.process.user
    config["Labels"] = {**(config.get("Labels") or {}), **spec.labels}
    volumes = [mount.target for mount in spec.mounts if mount.kind is MountKind.VOLUME]
    config["Volumes"] = {**(config.get("Volumes") or {}), **{target: {} for target in volumes}}
    ports: dict[str, Any] = {f"{port.container_port}/{port.protocol}": {} for port in spec.ports}
    if spec.health_check.test:
        config["Healthcheck"] = _health(spec.health_check)
    config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}
    if spec.stop_signal:
        config["StopSignal"] = spec.stop_signal
    return config


def _health(check: HealthCheck) -> dict[str, Any]:
    """As images have it: times in ns."""
    times = {
        "Interval": check.interval_s,
        "Timeout": check.timeout_s,
        "StartPeriod": check.start_period_s,
        "StartInterval": check.start_interval_s,
    }
    found = {key: round(value * 1e9) for key, value in times.items() if value}
    return {"Test": list(check.test), **found, **({"Retries": check.retries} if check.retries else {})}


def changed(config: dict[str, Any], author: str, changes: Sequence[str]) -> StageState:
    """The configuration after the Dockerfile instructions `changes`. Raises InvalidArgument (INVALID_CHANGE)."""
    text = "\n".join(["FROM scratch", *changes])
    host = Platform.host()
    planned = plan(text.encode(), target_platform=host, build_platform=host, filename="change")
    if len(planned.stages) != 1:
        raise InvalidArgument("FROM is not a valid change command", reason="INVALID_CHANGE")
    state = StageState.start(planned, 0, {**config, "OnBuild": None}, author)
    for instruction in state.instructions:
        state, step = state.apply(instruction)
        if isinstance(step, RunStep | CopyStep):
            keyword = instruction.text.split()[0].upper()
            raise InvalidArgument(f"{keyword} is not a valid change command", reason="INVALID_CHANGE")
    return state


def document(base: Image, state: StageState, diff_ids: list[str], container: Container, message: str) -> bytes:
    """The image configuration as JSON."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    history = [msgspec.to_builtins(entry) for entry in (base.config.history or [])]
    command = " ".join(container.process.args)
    history.append({"created": now, "created_by": command, "comment": message})
    parts: dict[str, Any] = {
        "created": now,
        "author": state.config.author,
        "architecture": base.config.architecture,
        "variant": base.config.variant,
        "os": base.config.os,
        "config": state.image_config().to_oci(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    }
    return json.dumps({key: value for key, value in parts.items() if value != ""}, separators=(",", ":")).encode()
