"""Flags of docker's `run` and `create` that are out: understood, and refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoalctl.flags.fault import UsageFault

OUT: dict[str, str] = {
    "--link": "containers of a network find each other by name: use --network and --network-alias",
    "--link-local-ip": "addresses of a network are what --ip and --ip6 set",
    "--volumes-from": "name the volumes with -v or --mount",
    "--volume-driver": "volumes are local; see `shoal volume create` for their options",
    "--storage-opt": "layers have no quota; limit volumes and tmpfs instead",
    "--cgroup-parent": "all containers of a daemon are below its own (runtime.cgroup_parent)",
    "--runtime": "the OCI runtime is chosen for the host, in the daemon's configuration (runtime.name)",
    "--isolation": "it is of Windows",
    "--cpu-count": "it is of Windows; use --cpus",
    "--cpu-percent": "it is of Windows; use --cpus",
    "--io-maxbandwidth": "it is of Windows; use --device-read-bps and --device-write-bps",
    "--io-maxiops": "it is of Windows; use --device-read-iops and --device-write-iops",
    "--cpu-rt-period": "realtime groups do not exist on cgroup v2",
    "--cpu-rt-runtime": "realtime groups do not exist on cgroup v2",
    "--kernel-memory": "the kernel has no such limit any more; use --memory",
    "--blkio-weight-device": "no scheduler in use has weights for one device; use --device-read-bps and its like",
    "--disable-content-trust": "Docker's notary is no more; name images by digest",
    "--use-api-socket": "a daemon's socket is the whole host; give the container a certificate instead",
}
"""Flags of docker's that are out, and why."""

SWITCHES = frozenset({"--use-api-socket", "--disable-content-trust"})
"""Those that take no value."""


def out_name(flag: str) -> str:
    """The name of its parameter."""
    return "out_" + flag.strip("-").replace("-", "_")


def refuse(given: Mapping[str, Any]) -> None:
    """Raises UsageFault when one of them was given; `given` by the names of parameters."""
    for flag, why in OUT.items():
        if given[out_name(flag)]:
            raise UsageFault(f"{flag} is not supported: {why}")
