"""What the values of a configuration must satisfy, beyond their types. Pure."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import InvalidArgument

if TYPE_CHECKING:
    from shoald.config import Config

_SOCKET_PATH_BYTES = 107
_INTERFACE_CHARACTERS = 15
_LAST_ID = (1 << 32) - 2
_MIN_USERNS = 65536


def check(config: Config) -> None:
    """Raises InvalidArgument (reason INVALID_CONFIG, metadata "key") for the first value that can't work."""
    _check_paths(config)
    for address in config.listen:
        split_address(address, "listen")
    if config.metrics_listen:
        split_address(config.metrics_listen, "metrics_listen")
    _check_tls(config)
    _check_network(config)
    _check_runtime(config)
    _check_userns(config)
    _require(config.build.cache_bytes >= -1, "build.cache_bytes", "must be at least -1")
    for key in ("max_calls", "max_streams", "max_message_bytes"):
        _require(getattr(config.limits, key) >= 1, f"limits.{key}", "must be at least 1")


def split_address(text: str, key: str = "listen") -> tuple[str, int]:
    """("127.0.0.1", 7443) of "127.0.0.1:7443"; IPv6 in brackets. Raises InvalidArgument (INVALID_CONFIG)."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    usable = bool(colon and bare) and (bracketed or ":" not in bare) and re.fullmatch(r"[0-9]{1,5}", port) is not None
    _require(usable and int(port) <= 65535, key, f"{text!r} is not host:port, for example 127.0.0.1:7443 or [::1]:7443")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_paths(config: Config) -> None:
    for key, path in (("root", config.root), ("run_dir", config.run_dir)):
        _require(
            path.is_absolute() and ".." not in path.parts, key, f"{str(path)!r} is not an absolute path without .."
        )
        _require(path != Path("/"), key, "/ itself can't be it")
    overlap = config.root == config.run_dir or config.root in config.run_dir.parents
    _require(not overlap, "run_dir", "must not lie in root: it has to be empty after a reboot")
    socket = config.socket_path
    if socket is not None:
        # A leading @ or NUL would be an abstract socket, which any process of the network namespace can reach.
        _require(socket.is_absolute() and "\0" not in str(socket), "socket", f"{str(socket)!r} is not an absolute path")
        size = len(str(socket).encode())
        _require(
            size <= _SOCKET_PATH_BYTES, "socket", f"its path has {size} bytes; the kernel takes {_SOCKET_PATH_BYTES}"
        )
    _require(bool(socket or config.listen), "listen", "the daemon would be out of reach: set `listen` or `socket`")


def _check_tls(config: Config) -> None:
    tls = config.tls
    given = [name for name in ("cert", "key", "ca") if getattr(tls, name) is not None]
    for name in ("cert", "key", "ca"):
        if given and name not in given:
            _refuse(f"tls.{name}", f"is missing while tls.{given[0]} is set", "mutual TLS needs cert, key and ca")
    if config.listen and not given:
        _refuse(
            "listen",
            f"{config.listen[0]} can't be served without TLS: [tls] cert, key and ca are not set",
            "make them with `shoal pki init` and `shoal pki issue`, or leave `listen` out and use the unix socket",
        )


def _check_network(config: Config) -> None:
    network = config.network
    _require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", network.bridge) is not None
        and len(network.bridge) <= _INTERFACE_CHARACTERS,
        "network.bridge",
        f"{network.bridge!r} is not the name of an interface: 1 to {_INTERFACE_CHARACTERS} of a-z A-Z 0-9 _ . -",
    )
    _require(
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", network.nft_table) is not None,
        "network.nft_table",
        f"{network.nft_table!r} is not a table's name: letters, digits and _",
    )
    try:
        subnet = ipaddress.IPv4Network(network.subnet)
    except ValueError as error:
        _refuse("network.subnet", f"not an IPv4 network: {error}", "write it as 10.209.0.0/20")
    _require(8 <= subnet.prefixlen <= 29, "network.subnet", "its prefix must be /8 to /29")
    try:
        pool = ipaddress.IPv4Network(network.pool)
    except ValueError as error:
        _refuse("network.pool", f"not an IPv4 network: {error}", "write it as 10.209.128.0/17")
    _require(8 <= pool.prefixlen <= 24, "network.pool", "its prefix must be /8 to /24")
    _require(
        network.dns in ("", "off") or Path(network.dns).is_absolute(),
        "network.dns",
        f"{network.dns!r} is not an absolute path",
    )
    try:
        ipaddress.IPv4Address(network.publish_address)
    except ValueError:
        _refuse(
            "network.publish_address", f"{network.publish_address!r} is not an IPv4 address", "for example 127.0.0.1"
        )
    _require(network.mtu == 0 or 576 <= network.mtu <= 65535, "network.mtu", "must be 0 or 576 to 65535")


def _check_runtime(config: Config) -> None:
    runtime = config.runtime
    named = runtime.name in {"auto", "crun", "runc"} or Path(runtime.name).is_absolute()
    _require(named, "runtime.name", f"{runtime.name!r} is not auto, crun, runc or an absolute path")
    for key in ("conmon", "init_path", "seccomp_profile"):
        value = getattr(runtime, key)
        usable = not value or Path(value).is_absolute() or (key == "seccomp_profile" and value == "unconfined")
        _require(usable, f"runtime.{key}", f"{value!r} is not an absolute path")
    for path in runtime.cdi_dirs:
        _require(Path(path).is_absolute(), "runtime.cdi_dirs", f"{path!r} is not an absolute path")
    parent = Path(runtime.cgroup_parent)
    usable = parent.is_absolute() and ".." not in parent.parts and parent != Path("/")
    _require(usable, "runtime.cgroup_parent", f"{runtime.cgroup_parent!r} is not a cgroup path such as /shoal")


def _check_userns(config: Config) -> None:
    userns = config.userns
    _require(userns.size >= _MIN_USERNS, "userns.size", f"images use ids up to 65534: at least {_MIN_USERNS}")
    _require(userns.slots >= 1, "userns.slots", "must be at least 1")
    _require(userns.base >= _MIN_USERNS, "userns.base", "would include ids of this host's users")
    last = userns.base + userns.size * userns.slots - 1
    _require(last <= _LAST_ID, "userns.slots", f"the last id would be {last}, more than {_LAST_ID}")


def _require(condition: bool, key: str, message: str) -> None:
    if not condition:
        _refuse(key, message)


def _refuse(key: str, message: str, hint: str | None = None) -> None:
    raise InvalidArgument(f"{key}: {message}", reason="INVALID_CONFIG", hint=hint, metadata={"key": key})
