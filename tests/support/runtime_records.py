"""Container records for tests of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shoald.model.container import Container, ContainerSpec, ContainerState, Process

CONTAINER_ID = "a" * 64


def container_record(
    args: Sequence[str] = ("/bin/true",),
    *,
    container_id: str = CONTAINER_ID,
    env: Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    userns_base: int = 0,
    hostname: str = "",
    **spec: Any,
) -> Container:
    """A container's record as the engine would have made it; `spec` goes into its ContainerSpec."""
    return Container(
        id=container_id,
        name="box",
        request_id="request-1",
        spec=ContainerSpec(image="busybox", **spec),
        image_id="sha256:" + "0" * 64,
        process=Process(tuple(args), tuple(env), working_dir, user),
        state=ContainerState.CREATING,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        userns_base=userns_base,
        snapshot_id="s1",
        hostname=hostname or container_id[:12],
        stop_signal=15,
        stop_timeout_s=10.0,
    )
