"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as Docker makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from shoal.errors import FailedPrecondition
from shoald.containers.isolation import HOST_GATEWAY, parse_extra_host
from shoald.model.container import Container, ContainerSpec
from shoald.model.network import DEFAULT
from shoald.network.ports import Endpoint

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_OWN_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class EtcFiles:
    """Paths on the host; None: the container sees the host's own file (network host) or none."""

    hosts: Path | None
    hostname: Path | None
    resolv_conf: Path | None


def hosts_text(hostname: str, address: str | None, more: Sequence[tuple[str, str]] = ()) -> str:
    """Content of /etc/hosts; without an address the name stands for loopback. Of a name with a domain the bare one
    counts too, as in Docker. `more`: (name, address)."""
    words = hostname.split()
    names = " ".join(dict.fromkeys((*words, words[0].partition(".")[0])))
    return _HOSTS + f"{address or '127.0.1.1'}\t{names}\n" + _lines(more)


def resolv_conf_text(text: str, spec: ContainerSpec) -> str:
    """resolv.conf with the request's servers, search domains and options in the place of those that it has. Pure."""
    given = {
        "nameserver": list(spec.dns),
        # A single dot stands for no search at all.
        "search": [" ".join(spec.dns_search)] if spec.dns_search and tuple(spec.dns_search) != (".",) else [],
        "options": [" ".join(spec.dns_options)] if spec.dns_options else [],
    }
    replaced = {
        name
        for name, asked in (("nameserver", spec.dns), ("search", spec.dns_search), ("options", spec.dns_options))
        if asked
    }
    if "search" in replaced:
        replaced.add("domain")
    if not replaced:
        return text
    kept = [line for line in text.splitlines() if line.split()[:1] and line.split()[0] not in replaced]
    new = [f"{name} {value}" for name, values in given.items() for value in values]
    return "".join(f"{line}\n" for line in (*new, *kept))


def extra_hosts(spec: ContainerSpec, gateway: str) -> list[tuple[str, str]]:
    """(name, address) of --add-host; `gateway` stands for host-gateway. Raises FailedPrecondition (NO_HOST_GATEWAY)."""
    found = []
    for name, address in map(parse_extra_host, spec.extra_hosts):
        if address == HOST_GATEWAY and not gateway:
            raise FailedPrecondition(f"{name}: this network has no gateway", reason="NO_HOST_GATEWAY")
        found.append((name, gateway if address == HOST_GATEWAY else address))
    return found


def write_etc(
    directory: Path, container: Container, endpoints: Sequence[Endpoint], resolv_conf: str | None
) -> EtcFiles:
    """Write the files, owned by the container's root. `resolv_conf` None: the host's own is used (network host), or an
    empty one (network none)."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    owner, spec = container.userns_base, container.spec
    if spec.network == "host":
        hostname = os.uname().nodename
        hosts = _read("/etc/hosts") or hosts_text(hostname, None)
        more = extra_hosts(spec, _OWN_LOOPBACK)
        hosts = hosts if not more else hosts.rstrip("\n") + "\n" + _lines(more)
        resolv_conf = _read("/etc/resolv.conf")
    else:
        hostname = container.hostname
        hosts = bridged_hosts(container, endpoints)
    return EtcFiles(
        hosts=_write(directory / "hosts", hosts, owner),
        hostname=_write(directory / "hostname", hostname + "\n", owner),
        resolv_conf=_write(directory / "resolv.conf", bridged_resolv_conf(container, endpoints, resolv_conf), owner),
    )


def bridged_hosts(container: Container, endpoints: Sequence[Endpoint]) -> str:
    """/etc/hosts of a container in these networks: its name stands for all of its addresses. Pure."""
    spec, hostname = container.spec, container.hostname
    names = f"{hostname}.{spec.domainname} {hostname}" if spec.domainname else hostname
    addresses = [address for each in endpoints for address in (each.ip_address, each.ip6_address) if address]
    more = [(names, address) for address in addresses[1:]]
    gateway = next((each.gateway for each in endpoints), "")
    return hosts_text(names, addresses[0] if addresses else None, [*more, *extra_hosts(spec, gateway)])


def bridged_resolv_conf(container: Container, endpoints: Sequence[Endpoint], text: str | None) -> str:
    """resolv.conf with what the request says. Where the networks have a name server of their own, that one asks the
    request's servers. Pure."""
    spec = container.spec
    own = {gateway for each in endpoints if each.network != DEFAULT for gateway in (each.gateway, each.gateway6)}
    servers = [line.split()[1] for line in (text or "").splitlines() if line.split()[:1] == ["nameserver"]]
    return resolv_conf_text(text or "", replace(spec, dns=()) if own & set(servers) else spec)


def rewrite_etc(directory: Path, container: Container, endpoints: Sequence[Endpoint], resolv_conf: str) -> None:
    """The same files of a container that runs, in place: they are mounted there."""
    for name, text in (
        ("hosts", bridged_hosts(container, endpoints)),
        ("resolv.conf", bridged_resolv_conf(container, endpoints, resolv_conf)),
    ):
        # The container's root owns the files but can't replace them: their directory is not mounted there.
        fd = os.open(directory / name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)


def shared_etc(directory: Path) -> EtcFiles:
    """The files of another container (its directory), whose network this one joins: the same ones, as by Docker."""
    return EtcFiles(directory / "hosts", directory / "hostname", directory / "resolv.conf")


def _lines(hosts: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{address}\t{name}\n" for name, address in hosts)


def _write(path: Path, text: str, owner: int) -> Path:
    # Made anew at each start: a container may have written into the old one, which is bind-mounted nowhere now.
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o644)
        os.fchown(fd, owner, owner)
        file.write(text)
    return path


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
