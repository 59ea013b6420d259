"""What each daemon of a sandbox gets for itself: no two, nor the host's own daemon, ever meet. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from shoal.errors import InvalidArgument
from shoald import config as configuration
from shoald.config import Config, Network, Runtime, Tls, Userns

MAX_HOSTS = 32
SLOTS = 16
"""Sandboxes at the same time."""

PARENT = Path("/var/lib/shoal-sandbox")

_RUN = "/run/shoal-sandbox-{slot}"
_FIRST_PORT = 20000
_IDS = range(0x8000_0000, 0xFFFE_0000)
_IDS_EACH = 65536
_GROUP = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_PASSED_ON = ("SHOALD_RUNTIME_", "SHOALD_REGISTRIES_", "SHOALD_LIMITS_", "SHOALD_LOG_LEVEL")


class PlannedHost(Struct, frozen=True):
    """One daemon: its name in the client's configuration, its directory, its configuration."""

    name: str
    directory: Path
    config: Config

    @property
    def config_file(self) -> Path:
        """The configuration as a file."""
        return self.directory / "shoald.toml"

    @property
    def log_file(self) -> Path:
        """What the daemon writes to its standard error."""
        return self.directory / "shoald.log"


def check_request(hosts: int, group: str) -> None:
    """Raises InvalidArgument (INVALID_SANDBOX)."""
    if not 1 <= hosts <= MAX_HOSTS:
        raise InvalidArgument(f"--hosts: {hosts} is not 1 to {MAX_HOSTS}", reason="INVALID_SANDBOX")
    if not _GROUP.fullmatch(group):
        raise InvalidArgument(f"--group: {group!r} is not a name: a-z 0-9 . _ -", reason="INVALID_SANDBOX")


def run_directory(slot: int) -> Path:
    """The directory of running state that marks a slot as taken."""
    return Path(_RUN.format(slot=slot))


def subnet(slot: int, number: int) -> ipaddress.IPv4Network:
    """The network of the host `number` (from 1): a /21 of its own in 10.192.0.0/12."""
    return ipaddress.IPv4Network(f"10.{192 + slot}.{(number - 1) * 8}.0/21")


def overlaps(slot: int, routes: Iterable[ipaddress.IPv4Network]) -> bool:
    """Whether this machine already has routes into the networks of a slot."""
    ours = ipaddress.IPv4Network(f"10.{192 + slot}.0.0/16")
    return any(route.overlaps(ours) for route in routes if route.prefixlen > 8)


def parse_routes(text: str) -> list[ipaddress.IPv4Network]:
    """The destinations of /proc/net/route."""
    networks = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (1, 7))
        networks.append(ipaddress.IPv4Network((address, mask.bit_count()), strict=False))
    return networks


def base_config(environment: Mapping[str, str]) -> Config:
    """Defaults, with what the caller's environment says of runtime, registries and limits."""
    passed = {name: value for name, value in environment.items() if name.startswith(_PASSED_ON)}
    return configuration.load(Path("/dev/null"), passed, {})


def plan(
    base: Config, directory: Path, group: str, slot: int, ports: Sequence[tuple[int, int]]
) -> tuple[PlannedHost, ...]:
    """All hosts of a sandbox; `ports` holds for each its API's and its metrics' port on 127.0.0.1."""
    return tuple(_host(base, directory, group, slot, number, ports) for number in range(1, len(ports) + 1))


def preferred_ports(slot: int, number: int) -> tuple[int, int]:
    """Ports for API and metrics that no other sandbox prefers."""
    first = _FIRST_PORT + slot * 2 * MAX_HOSTS + (number - 1) * 2
    return first, first + 1


def _host(
    base: Config, directory: Path, group: str, slot: int, number: int, ports: Sequence[tuple[int, int]]
) -> PlannedHost:
    own = directory / f"host-{number}"
    api, metrics = ports[number - 1]
    config = replace(
        base,
        root=own / "root",
        run_dir=run_directory(slot) / str(number),
        listen=(f"127.0.0.1:{api}",),
        socket="",
        metrics_listen=f"127.0.0.1:{metrics}",
        log_format="json",
        tls=Tls(cert=own / "host.pem", key=own / "host-key.pem", ca=directory / "pki" / "ca.pem"),
        network=Network(
            bridge=f"shoalbx{slot}-{number}",
            subnet=str(subnet(slot, number)),
            nft_table=f"shoal_sandbox_{slot}_{number}",
            # An address for each: the same `-p` then works on all hosts at once.
            publish_address=f"127.0.{slot}.{number}",
        ),
        runtime=_runtime(base.runtime, slot, number),
        userns=_userns(slot, number, len(ports)),
    )
    return PlannedHost(f"{group}-{number}", own, config)


def _runtime(base: Runtime, slot: int, number: int) -> Runtime:
    return replace(base, cgroup_parent=f"/shoal-sandbox-{slot}-{number}")


def _userns(slot: int, number: int, hosts: int) -> Userns:
    share = len(_IDS) // _IDS_EACH // SLOTS
    each = share // hosts
    first = slot * share + (number - 1) * each
    return Userns(base=_IDS.start + first * _IDS_EACH, size=_IDS_EACH, slots=each)
