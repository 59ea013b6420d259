"""Records for tests that need some, whatever they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shoald.model.container import Container, ContainerSpec, ContainerState, Mount, Process
from shoald.model.image import Image
from shoald.model.snapshot import Snapshot
from shoald.oci.config import ContainerDefaults, ImageConfig, RootFS

TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def sha(text: str) -> str:
    """A digest that stands for `text`."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def container(key: str = "web", /, *, mounts: tuple[Mount, ...] = (), **fields: Any) -> Container:
    """A container whose id and request id follow from its key, as does its name."""
    made = Container(
        id=sha(key)[7:],
        name=key,
        request_id=f"request-{key}",
        spec=ContainerSpec(image="busybox", name=key, mounts=mounts, labels={"a": "b"}),
        image_id=sha("image"),
        process=Process(("sh", "-c", "true"), ("A=1",), "/", "0:0"),
        state=ContainerState.CREATED,
        created_at=TIME,
        userns_base=0,
        snapshot_id="",
        hostname=key,
        stop_signal=15,
        stop_timeout_s=10.0,
    )
    return msgspec.structs.replace(made, **fields)


def image(name: str = "app", *, tags: Sequence[str] = (), repo_digests: Sequence[str] = (), **fields: Any) -> Image:
    """An image whose ids follow from its name."""
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        os_version="10.0",
        config=ContainerDefaults(cmd=["sh"], labels={"x": "y"}),
        rootfs=RootFS(diff_ids=[sha(f"{name}-diff")]),
    )
    made = Image(
        id=sha(f"{name}-config"),
        manifest_digest=sha(f"{name}-manifest"),
        manifest_media_type="application/vnd.oci.image.manifest.v1+json",
        config=config,
        created_at=TIME,
        size_bytes=123,
        chain_id=sha(f"{name}-chain"),
        tags=tuple(tags),
        repo_digests=tuple(repo_digests),
    )
    return msgspec.structs.replace(made, **fields)


def snapshot(snapshot_id: str, parent_id: str | None = None, **fields: Any) -> Snapshot:
    """A committed snapshot without a chain id."""
    made = Snapshot(id=snapshot_id, parent_id=parent_id, committed=True, uid_base=0, created_at=TIME)
    return msgspec.structs.replace(made, **fields)
