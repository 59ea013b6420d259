"""The daemon's configuration: a TOML file, overridden by SHOALD_* variables, overridden by flags.

Every key has a default; an unknown key is an error. The variable of `network.bridge` is SHOALD_NETWORK_BRIDGE; commas
separate the items of lists there. Errors are InvalidArgument (INVALID_CONFIG) with metadata "key" and perhaps "line".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec
from msgspec import Struct, field

from shoal.errors import InvalidArgument, NotFound
from shoald.config_check import check

DEFAULT_FILE = Path("/etc/shoal/shoald.toml")
ENV_PREFIX = "SHOALD_"

SOCKET_OFF = "off"


class Tls(Struct, frozen=True, kw_only=True):
    """PEM files for TCP listeners; all three or none. They are read again when they change."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    """The authority that must have issued a client's certificate."""
    deny_list: Path | None = None
    """Serial numbers (hex, one a line, # comments) of client certificates that are refused."""


class Registries(Struct, frozen=True, kw_only=True):
    """How registries are treated; named as in references: host or host:port."""

    insecure: tuple[str, ...] = ()
    """Hosts and CIDR networks that plain http may be spoken to. Loopback always may."""
    ca: Mapping[str, Path] = field(default_factory=dict)
    """Registry -> PEM file of authorities trusted for it besides the system's."""


class Network(Struct, frozen=True, kw_only=True):
    """The default bridge network, and what others have in common with it."""

    bridge: str = "shoal0"
    subnet: str = "10.209.0.0/20"
    pool: str = "10.209.128.0/17"
    """Where the subnets of networks come from that name none, a /24 each."""
    nft_table: str = "shoal"
    publish_address: str = "127.0.0.1"
    """Where ports are published that name no address."""
    mtu: int = 0
    """0: that of the default route's interface."""
    dns: str = ""
    """The program aardvark-dns, by which containers find each other; empty: found by name; "off": none."""


class Runtime(Struct, frozen=True, kw_only=True):
    """Programs that run containers. Empty paths: found by name."""

    name: str = "auto"
    """auto, crun, runc or an absolute path."""
    conmon: str = ""
    cgroup_parent: str = "/shoal"
    mount_controllers: bool = True
    """On a hybrid cgroup host where crun does not work otherwise: mount the v1 controllers that are missing."""
    seccomp_profile: str = ""
    """A containers-common profile; empty: the distribution's; "unconfined": none."""
    init_path: str = ""
    """The program that `--init` runs; empty: catatonit or tini."""
    cdi_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi", "/run/cdi")
    """Where CDI specifications are; what a later one describes wins."""


class Userns(Struct, frozen=True, kw_only=True):
    """Host ids for containers: `slots` ranges of `size` ids from `base` on."""

    base: int = 0x70000000
    size: int = 65536
    slots: int = 4095


class Limits(Struct, frozen=True, kw_only=True):
    """What the API accepts."""

    max_calls: int = 1024
    """Calls over TCP at the same time; more are RESOURCE_EXHAUSTED."""
    max_streams: int = 256
    """Calls at the same time on one connection; more wait."""
    max_message_bytes: int = 4 << 20


class Build(Struct, frozen=True, kw_only=True):
    """What builds may keep."""

    cache_bytes: int = 0
    """Of results of steps, cache mounts and contexts; the least recently used beyond it go. 0: a tenth of the disk; -1:
    no limit."""


class Config(Struct, frozen=True, kw_only=True):
    """All that an operator can set."""

    root: Path = Path("/var/lib/shoal")
    """Durable state: images, containers, volumes, database."""
    run_dir: Path = Path("/run/shoal")
    """Running state; a tmpfs, gone after a reboot."""
    listen: tuple[str, ...] = ()
    """host:port of each TCP listener; needs [tls]."""
    socket: str = ""
    """Path of the unix socket; empty: api/shoald.sock in `run_dir`; "off": none. Whoever may connect is an admin."""
    metrics_listen: str = "127.0.0.1:9469"
    """host:port of Prometheus metrics; empty: off. Metrics are read-only and need no certificate."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: console at a terminal, else json."""
    tls: Tls = Tls()
    registries: Registries = Registries()
    network: Network = Network()
    runtime: Runtime = Runtime()
    userns: Userns = Userns()
    limits: Limits = Limits()
    build: Build = Build()

    @property
    def socket_path(self) -> Path | None:
        """The unix socket, or None when there is to be none."""
        if self.socket == SOCKET_OFF:
            return None
        # A directory of its own: that one is 0700, while containers' user namespaces must pass through `run_dir`.
        return Path(self.socket) if self.socket else self.run_dir / "api" / "shoald.sock"


def load(file: Path | None, env: Mapping[str, str], flags: Mapping[str, str | list[str]]) -> Config:
    """From all three places. `file` None: the default file if it exists. Keys of `flags`: "tls.cert"."""
    path = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    table = _parse(path) if path else {}
    for keys, kind in _leaves(Config):
        name = ENV_PREFIX + "_".join(keys).upper()
        if name in env:
            _set(table, keys, _split(env[name]) if _is_list(kind) else env[name])
        if (value := flags.get(".".join(keys))) is not None:
            _set(table, keys, value)
    return _convert(table)


def from_toml(text: str, name: str = "configuration") -> Config:
    """The configuration of a TOML text alone."""
    return _convert(_parse_text(text, name))


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise NotFound(
            f"configuration file {path} does not exist", reason="FILE_NOT_FOUND", hint="name it with --config FILE"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"can't read configuration file {path}: {error}", reason="INVALID_CONFIG") from error
    return _parse_text(text, str(path))


def _parse_text(text: str, name: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{name}: not TOML: {error}", reason="INVALID_CONFIG") from error
    _refuse_unknown(table, Config, (), text, name)
    try:
        _convert(table)
    except InvalidArgument as error:
        line = _line_of(text, tuple(error.metadata.get("key", "").split(".")))
        if not line:
            raise
        metadata = error.metadata | {"line": str(line)}
        raise InvalidArgument(f"{name}:{line}: {error.message}", reason="INVALID_CONFIG", metadata=metadata) from error
    return table


def _refuse_unknown(table: Mapping[str, Any], kind: type[Struct], at: tuple[str, ...], text: str, name: str) -> None:
    hints = get_type_hints(kind)
    for key, value in table.items():
        keys = (*at, key)
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            line = _line_of(text, keys)
            raise InvalidArgument(
                f"{name}{f':{line}' if line else ''}: unknown key {'.'.join(keys)!r}",
                reason="INVALID_CONFIG",
                hint=f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(hints)}",
                metadata={"key": ".".join(keys), "line": str(line)},
            )
        if _is_section(hints[key]) and isinstance(value, dict):
            _refuse_unknown(value, hints[key], keys, text, name)


def _convert(table: Mapping[str, Any]) -> Config:
    try:
        config = msgspec.convert(table, Config, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        key = re.sub(r"\[.*", "", where.rstrip("`"))
        message = f"{key}: {what}" if key else what
        raise InvalidArgument(message, reason="INVALID_CONFIG", metadata={"key": key} if key else None) from error
    check(config)
    return config


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        if not value:
            raise ValueError("an empty path")
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _leaves(kind: type[Struct], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, hint in get_type_hints(kind).items():
        if _is_section(hint):
            yield from _leaves(hint, (*at, key))
        else:
            yield (*at, key), hint


def _is_section(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _is_list(hint: object) -> bool:
    return getattr(hint, "__origin__", None) is tuple


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _set(table: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InvalidArgument(f"{key}: Expected a table", reason="INVALID_CONFIG", metadata={"key": key})
        table = inner
    table[keys[-1]] = value


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """The 1-based line that sets a key (or opens its table) in a plainly written file; 0 when it is not found."""
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.fullmatch(r"\s*\[+([^\]]+)\]+\s*(#.*)?", line):
            section = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if section == keys:
                return number
        elif assignment := re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line):
            parts = tuple(part.strip("\"'") for part in assignment[1].split("."))
            if (*section, *parts) == keys:
                return number
    return 0
