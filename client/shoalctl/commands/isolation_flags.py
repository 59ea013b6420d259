"""The flags of `run` and `create` about isolation, limits, names and health, in docker's spelling."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import typer

from shoalctl.commands.command import HostCommand
from shoalctl.commands.isolation_options import IsolationOptions
from shoalctl.commands.out_flags import flags_that_are_out, refuse

Texts = list[str] | None
META = "shoal.isolation"


class ContainerCommand(HostCommand):
    """A command that makes containers: it takes all of these flags too; what they say ends up in `ctx.meta`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_params())

    def invoke(self, ctx: Any) -> Any:
        """Move these flags from the parameters to `ctx.meta`, parsed, then run."""
        given = {param.name: ctx.params.pop(param.name) for param in _params()}
        refuse(given)
        ctx.meta[META] = IsolationOptions.parse(given)
        return super().invoke(ctx)


def isolation_of(ctx: Any) -> IsolationOptions:
    """What the flags of a `ContainerCommand` say."""
    found: IsolationOptions = ctx.meta[META]
    return found


@cache
def _params() -> list[Any]:
    carriers = (_rights, _namespaces, _names, _processors_and_memory, _devices, _health, flags_that_are_out)
    found = []
    for carrier in carriers:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command()(carrier)
        found += [param for param in typer.main.get_command(app).params if param.name != "help"]
    return found


def _many(*names: str, metavar: str, text: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text)


def _rights(
    cap_add: Annotated[Texts, _many("--cap-add", metavar="CAP", text="Add a capability, or ALL.")] = None,
    cap_drop: Annotated[Texts, _many("--cap-drop", metavar="CAP", text="Drop a capability, or ALL.")] = None,
    privileged: Annotated[bool, typer.Option("--privileged", help="All rights on the host (role admin).")] = False,
    security_opt: Annotated[
        Texts,
        _many("--security-opt", metavar="OPTION", text="seccomp=FILE, no-new-privileges, apparmor=..."),
    ] = None,
    group_add: Annotated[Texts, _many("--group-add", metavar="GROUP", text="One more group, by name or id.")] = None,
    ulimit: Annotated[Texts, _many("--ulimit", metavar="NAME=SOFT[:HARD]", text="A limit of processes.")] = None,
    sysctl: Annotated[Texts, _many("--sysctl", metavar="NAME=VALUE", text="A parameter of its namespaces.")] = None,
    annotation: Annotated[Texts, _many("--annotation", metavar="KEY=VALUE", text="For the OCI runtime.")] = None,
    label_file: Annotated[Texts, _many("--label-file", metavar="FILE", text="Labels from a file.")] = None,
) -> None:
    """Only its signature is of use."""


def _namespaces(
    pid_mode: Annotated[str, typer.Option("--pid", metavar="MODE", help="host or container:NAME.")] = "",
    ipc_mode: Annotated[
        str, typer.Option("--ipc", metavar="MODE", help="private, shareable, host or container:NAME.")
    ] = "",
    uts_mode: Annotated[str, typer.Option("--uts", metavar="MODE", help="host: the host's host name.")] = "",
    cgroupns_mode: Annotated[str, typer.Option("--cgroupns", metavar="MODE", help="private or host.")] = "",
) -> None:
    """Only its signature is of use."""


def _names(
    domainname: Annotated[str, typer.Option("--domainname", metavar="NAME", help="The domain name inside.")] = "",
    extra_hosts: Annotated[
        Texts, _many("--add-host", metavar="NAME:ADDRESS", text="A line of /etc/hosts; also host-gateway.")
    ] = None,
    dns: Annotated[Texts, _many("--dns", metavar="ADDRESS", text="A DNS server instead of the host's.")] = None,
    dns_search: Annotated[Texts, _many("--dns-search", metavar="DOMAIN", text="A search domain; . for none.")] = None,
    dns_options: Annotated[
        Texts, _many("--dns-option", "--dns-opt", metavar="OPTION", text="An option of resolv.conf.")
    ] = None,
    mac_address: Annotated[str, typer.Option("--mac-address", metavar="MAC", help="Of its interface.")] = "",
    ip_address: Annotated[str, typer.Option("--ip", metavar="ADDRESS", help="Its IPv4 address.")] = "",
    ip6_address: Annotated[str, typer.Option("--ip6", metavar="ADDRESS", help="Its IPv6 address.")] = "",
    network_aliases: Annotated[
        Texts, _many("--network-alias", "--net-alias", metavar="NAME", text="One more name in its network.")
    ] = None,
    exposed_ports: Annotated[Texts, _many("--expose", metavar="PORT[/PROTO]", text="A port that -P publishes.")] = None,
    publish_all_ports: Annotated[
        bool, typer.Option("-P", "--publish-all", help="Publish all exposed ports on free ports.")
    ] = False,
) -> None:
    """Only its signature is of use."""


def _processors_and_memory(
    memory_swap: Annotated[
        str, typer.Option("--memory-swap", metavar="SIZE", help="Memory and swap together; -1: no limit.")
    ] = "",
    memory_reservation: Annotated[
        str, typer.Option("--memory-reservation", metavar="SIZE", help="A soft memory limit.")
    ] = "",
    memory_swappiness: Annotated[int, typer.Option("--memory-swappiness", metavar="N", help="0 to 100.")] = -1,
    oom_kill_disable: Annotated[bool, typer.Option("--oom-kill-disable", help="Never kill for memory.")] = False,
    oom_score_adj: Annotated[int, typer.Option("--oom-score-adj", metavar="N", help="-1000 to 1000.")] = 0,
    cpu_shares: Annotated[int, typer.Option("-c", "--cpu-shares", metavar="N", help="Relative weight (1024).")] = 0,
    cpu_period: Annotated[int, typer.Option("--cpu-period", metavar="US", help="Of the quota, microseconds.")] = 0,
    cpu_quota: Annotated[int, typer.Option("--cpu-quota", metavar="US", help="Microseconds in a period.")] = 0,
    cpuset_cpus: Annotated[str, typer.Option("--cpuset-cpus", metavar="LIST", help="Processors, such as 0-2,4.")] = "",
    cpuset_mems: Annotated[str, typer.Option("--cpuset-mems", metavar="LIST", help="Memory nodes.")] = "",
    blkio_weight: Annotated[int, typer.Option("--blkio-weight", metavar="N", help="10 to 1000.", min=0)] = 0,
    shm_size: Annotated[str, typer.Option("--shm-size", metavar="SIZE", help="Of /dev/shm (64m).")] = "",
) -> None:
    """Only its signature is of use."""


def _devices(
    devices: Annotated[
        Texts,
        _many("--device", metavar="PATH[:INSIDE][:rwm]", text="A device of the host or CDI (role admin)."),
    ] = None,
    device_cgroup_rules: Annotated[
        Texts, _many("--device-cgroup-rule", metavar="RULE", text="Such as 'c 189:* rwm' (role admin).")
    ] = None,
    gpus: Annotated[str, typer.Option("--gpus", metavar="WHICH", help="all, a number or device=...; by CDI.")] = "",
    device_read_bps: Annotated[Texts, _many("--device-read-bps", metavar="PATH:SIZE", text="Bytes a second.")] = None,
    device_write_bps: Annotated[Texts, _many("--device-write-bps", metavar="PATH:SIZE", text="Bytes a second.")] = None,
    device_read_iops: Annotated[Texts, _many("--device-read-iops", metavar="PATH:N", text="Reads a second.")] = None,
    device_write_iops: Annotated[Texts, _many("--device-write-iops", metavar="PATH:N", text="Writes a second.")] = None,
) -> None:
    """Only its signature is of use."""


def _health(
    health_cmd: Annotated[str, typer.Option("--health-cmd", metavar="LINE", help="A shell line: 0 is healthy.")] = "",
    health_interval: Annotated[str, typer.Option("--health-interval", metavar="TIME", help="Between (30s).")] = "",
    health_timeout: Annotated[str, typer.Option("--health-timeout", metavar="TIME", help="Of one check (30s).")] = "",
    health_retries: Annotated[int, typer.Option("--health-retries", metavar="N", help="Until unhealthy (3).")] = 0,
    health_start_period: Annotated[
        str, typer.Option("--health-start-period", metavar="TIME", help="Failures do not count (0s).")
    ] = "",
    health_start_interval: Annotated[
        str, typer.Option("--health-start-interval", metavar="TIME", help="In the start period (5s).")
    ] = "",
    no_healthcheck: Annotated[bool, typer.Option("--no-healthcheck", help="Not even the image's.")] = False,
) -> None:
    """Only its signature is of use."""
