"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as Docker makes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shoald.model.container import Container
from shoald.network.ports import Endpoint

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True)
class EtcFiles:
    """Paths on the host; None: the container sees the host's own file (network host) or none."""

    hosts: Path | None
    hostname: Path | None
    resolv_conf: Path | None


def hosts_text(hostname: str, address: str | None) -> str:
    """Content of /etc/hosts; without an address the name stands for loopback. Of a name with a domain the bare one
    counts too, as in Docker."""
    names = " ".join(dict.fromkeys((hostname, hostname.partition(".")[0])))
    return _HOSTS + f"{address or '127.0.1.1'}\t{names}\n"


def write_etc(directory: Path, container: Container, endpoint: Endpoint | None, resolv_conf: str | None) -> EtcFiles:
    """Write the files, owned by the container's root. `resolv_conf` None: the host's own is used (network host), or an
    empty one (network none)."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    owner = container.userns_base
    network = container.spec.network
    if network == "host":
        hostname = os.uname().nodename
        hosts = _read("/etc/hosts") or hosts_text(hostname, None)
        resolv_conf = _read("/etc/resolv.conf")
    else:
        hostname = container.hostname
        hosts = hosts_text(hostname, endpoint.ip_address if endpoint else None)
    return EtcFiles(
        hosts=_write(directory / "hosts", hosts, owner),
        hostname=_write(directory / "hostname", hostname + "\n", owner),
        resolv_conf=_write(directory / "resolv.conf", resolv_conf or "", owner),
    )


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
