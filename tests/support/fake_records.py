"""What the fake engine holds."""

from __future__ import annotations

from datetime import UTC, datetime

from shoald.model.container import Container, ContainerSpec, ContainerState, Process
from shoald.model.image import Image, IndexRecord
from shoald.model.network import Network
from shoald.model.path import PathStat
from shoald.oci.config import parse_config

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RAW_CONFIG = (
    b'{"architecture":"amd64","os":"linux","author":"me","created":"2026-01-02T03:04:05Z",'
    b'"config":{"Cmd":["sh"],"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Labels":{"k":"v"}},'
    b'"rootfs":{"type":"layers","diff_ids":["sha256:' + b"a" * 64 + b'"]},'
    b'"history":[{"created":"2026-01-02T03:04:05Z","created_by":"ADD x /"},{"created":"nonsense","empty_layer":true}]}'
)
IMAGE = Image(
    id="sha256:" + "1" * 64,
    manifest_digest="sha256:" + "2" * 64,
    manifest_media_type="application/vnd.oci.image.manifest.v1+json",
    config=parse_config(RAW_CONFIG),
    created_at=NOW,
    size_bytes=4096,
    chain_id="sha256:" + "a" * 64,
    tags=("docker.io/library/busybox:latest",),
)
INDEX = IndexRecord("sha256:" + "7" * 64, "application/vnd.oci.image.index.v1+json", 99, IMAGE.id, (IMAGE.id,))
CONTAINER = Container(
    id="c" * 64,
    name="web",
    request_id="r1",
    spec=ContainerSpec(image="busybox", name="web", labels={"tier": "front"}),
    image_id=IMAGE.id,
    process=Process(("sleep", "60"), ("A=b",), "/", ""),
    state=ContainerState.RUNNING,
    created_at=NOW,
    userns_base=0x70000000,
    snapshot_id="s1",
    hostname="web",
    stop_signal=15,
    stop_timeout_s=10.0,
    started_at=NOW,
    pid=4242,
    ip_address="10.88.64.2",
)


PATH_STAT = PathStat("passwd", 12, 0o100644, 1_500_000_001, "", 0, 0)


BRIDGE = Network("bridge", "bridge", NOW, "shoal0", ("10.209.0.0/20",), ("10.209.0.1",))
NETWORK = Network(
    "d" * 64,
    "net",
    NOW,
    "shoal0-dddddddd",
    ("10.209.128.0/24", "fd00::/64"),
    ("10.209.128.1", "fd00::1"),
    internal=True,
    labels={"tier": "db"},
    options={"mtu": "1400"},
)
