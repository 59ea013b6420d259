"""Flags of docker's `run` and `create` that are out: understood, and refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from shoalctl.flags.fault import UsageFault

Texts = list[str] | None

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
    "--use-api-socket": "a daemon's socket is the whole host; give the container a certificate instead",
}
"""Flags of docker's that are out, and why."""


def refuse(given: Mapping[str, Any]) -> None:
    """Raises UsageFault when one of them was given; `given` by the names of the parameters below."""
    for flag, why in OUT.items():
        if given["out_" + flag.strip("-").replace("-", "_")]:
            raise UsageFault(f"{flag} is not supported: {why}")


def flags_that_are_out(
    out_link: Annotated[Texts, typer.Option("--link", hidden=True)] = None,
    out_link_local_ip: Annotated[Texts, typer.Option("--link-local-ip", hidden=True)] = None,
    out_volumes_from: Annotated[Texts, typer.Option("--volumes-from", hidden=True)] = None,
    out_volume_driver: Annotated[Texts, typer.Option("--volume-driver", hidden=True)] = None,
    out_storage_opt: Annotated[Texts, typer.Option("--storage-opt", hidden=True)] = None,
    out_cgroup_parent: Annotated[Texts, typer.Option("--cgroup-parent", hidden=True)] = None,
    out_runtime: Annotated[Texts, typer.Option("--runtime", hidden=True)] = None,
    out_isolation: Annotated[Texts, typer.Option("--isolation", hidden=True)] = None,
    out_cpu_count: Annotated[Texts, typer.Option("--cpu-count", hidden=True)] = None,
    out_cpu_percent: Annotated[Texts, typer.Option("--cpu-percent", hidden=True)] = None,
    out_io_maxbandwidth: Annotated[Texts, typer.Option("--io-maxbandwidth", hidden=True)] = None,
    out_io_maxiops: Annotated[Texts, typer.Option("--io-maxiops", hidden=True)] = None,
    out_cpu_rt_period: Annotated[Texts, typer.Option("--cpu-rt-period", hidden=True)] = None,
    out_cpu_rt_runtime: Annotated[Texts, typer.Option("--cpu-rt-runtime", hidden=True)] = None,
    out_kernel_memory: Annotated[Texts, typer.Option("--kernel-memory", hidden=True)] = None,
    out_blkio_weight_device: Annotated[Texts, typer.Option("--blkio-weight-device", hidden=True)] = None,
    out_use_api_socket: Annotated[bool, typer.Option("--use-api-socket", hidden=True)] = False,
) -> None:
    """Only its signature is of use."""
