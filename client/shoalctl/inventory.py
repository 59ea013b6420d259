"""The hosts that this client knows: names, addresses, certificates, labels, groups, and which of them a command means.

```toml
default = ["web1"]                # targets when a command names none: host names or "@group"
[hosts.web1]
address = "10.0.0.1:7443"         # or "unix:///run/shoal/api/shoald.sock"
ca = "pki/ca.pem"                 # paths are relative to this file
cert = "pki/me.pem"
key = "pki/me-key.pem"
server_name = ""                  # the name in the host's certificate, when it is not the address
labels = {role = "web"}
[groups]
web = ["web1", "web2"]
```
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shoal.errors import AlreadyExists, InvalidArgument, NotFound
from shoalctl import config_file
from shoalctl.address import Address
from shoalctl.label_selector import LabelSelector

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_KEYS = ("address", "ca", "cert", "key", "server_name", "labels")


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `address` is in normal form; `ca`, `cert` and `key` are absolute paths, None when not given."""

    name: str
    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_socket(self) -> bool:
        """Whether the daemon is on this machine, behind a unix socket, without TLS."""
        return self.address.startswith("unix:")

    @property
    def target(self) -> str:
        """The channel's target as gRPC takes it."""
        return Address.parse(self.address).target

    @property
    def tls_name(self) -> str:
        """The name that the host's certificate must carry: `server_name`, else the host part of the address."""
        return self.server_name or Address.parse(self.address).host


class Inventory:
    """The configuration in memory. Changes are noted and written by `save()`, into the file as it is then."""

    def __init__(
        self,
        path: Path,
        hosts: Mapping[str, Host] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        default: Sequence[str] = (),
        builders: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.builders = tuple(builders)
        """Names of the groups whose hosts share their builds: one of them builds (of each platform)."""
        self._hosts = dict(hosts or {})
        self._groups = {name: tuple(members) for name, members in (groups or {}).items()}
        self._default = tuple(default)
        self._edits: list[config_file.Edit] = []

    @classmethod
    def load(cls, path: Path | None = None, *, must_exist: bool = False) -> Inventory:
        """Read the file (by default where `config_path()` says); without one the inventory is empty.

        `must_exist`: a file that `path` or SHOAL_CONFIG names must be there.
        Raises InvalidArgument (reason INVALID_CONFIG) with file and line, FailedPrecondition (CONFIG_UNREADABLE,
        NO_HOME).
        """
        chosen = (path or config_file.config_path()).absolute()
        if must_exist and (path or os.environ.get("SHOAL_CONFIG")):
            config_file.check_there(chosen)
        return _decode(chosen, config_file.read_text(chosen))

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All hosts by name, in the file's order."""
        return MappingProxyType(self._hosts)

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """All groups: their hosts' names."""
        return MappingProxyType(self._groups)

    @property
    def default(self) -> tuple[str, ...]:
        """The targets of a command that names none: host names and `@group`."""
        return self._default

    def host(self, name: str) -> Host:
        """One host. Raises NotFound (reason UNKNOWN_HOST) that lists similar names."""
        if name not in self._hosts:
            raise _unknown("host", name, self._hosts)
        return self._hosts[name]

    def group(self, name: str) -> list[Host]:
        """A group's hosts. Raises NotFound (reason UNKNOWN_GROUP, or UNKNOWN_HOST for a member that is not there)."""
        if name not in self._groups:
            raise _unknown("group", name, self._groups)
        for member in self._groups[name]:
            if member not in self._hosts:
                raise _unknown("host", member, self._hosts, f" in group {name!r}")
        return [self._hosts[member] for member in self._groups[name]]

    def select(
        self,
        hosts: Iterable[str] = (),
        groups: Iterable[str] = (),
        all_hosts: bool = False,
        default: Sequence[str] | None = None,
        labels: Iterable[str] | Mapping[str, str] = (),
    ) -> list[Host]:
        """The hosts that a command means, each once, in the order in which they are named.

        `hosts` (names or `@group`) and `groups` may hold comma-separated lists. `labels` (`key=value`, `key!=value`,
        `key`, or a mapping of keys to values; all must hold) narrow the choice, or choose from all hosts when nothing
        else is named. With no choice at all it is `default`, else the inventory's default, else the only host.

        Raises NotFound (reason UNKNOWN_HOST, UNKNOWN_GROUP or NO_HOST_MATCHES), InvalidArgument (reason NO_TARGET or
        INVALID_SELECTOR).
        """
        wanted = [*_split(hosts), *(f"@{name.removeprefix('@')}" for name in _split(groups))]
        conditions = (
            [f"{key}={value}" for key, value in labels.items()] if isinstance(labels, Mapping) else _split(labels)
        )
        selectors = [LabelSelector.parse(condition) for condition in conditions]
        if all_hosts or (selectors and not wanted):
            chosen = list(self._hosts.values())
        else:
            chosen = self._resolve(wanted or self._fallback(default))
        if not chosen:
            raise self._no_target()
        matching = [host for host in chosen if all(selector.matches(host.labels) for selector in selectors)]
        if not matching:
            said = ",".join(map(str, selectors))
            raise NotFound(
                f"no host has the labels {said}", reason="NO_HOST_MATCHES", hint="`shoal host list` shows every label"
            )
        return matching

    def add_host(
        self,
        name: str,
        address: str,
        *,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        key: Path | str | None = None,
        server_name: str = "",
        labels: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> Host:
        """Add a host, or with `replace` change one. Relative paths are relative to the working directory.

        In the file, paths inside its directory become relative to it. Raises AlreadyExists (reason HOST_EXISTS),
        InvalidArgument (reason INVALID_HOST_NAME, INVALID_ADDRESS or INVALID_LABEL).
        """
        if name in self._hosts and not replace:
            raise AlreadyExists(
                f"host {name!r} is already there ({self._hosts[name].address})",
                reason="HOST_EXISTS",
                hint=f"choose another name, or remove it first: shoal host remove {name}",
            )
        normal = str(Address.parse(address))
        paths = {which: _absolute(value, Path.cwd()) for which, value in (("ca", ca), ("cert", cert), ("key", key))}
        host = Host(_checked_name(name), normal, **paths, server_name=server_name, labels=_checked_labels(labels or {}))
        self._hosts[name] = host
        self._edits.append(config_file.put_host(name, self._entry(host)))
        return host

    def remove_host(self, name: str) -> None:
        """Remove a host, also from the groups and the default; a group that this empties goes too.

        Raises NotFound (reason UNKNOWN_HOST).
        """
        self.host(name)
        del self._hosts[name]
        self._edits.append(config_file.drop("hosts", name))
        # Only this name goes: other names in the file that mean nothing are not this command's business.
        for group, members in list(self._groups.items()):
            if name in members:
                self._keep_group(group, [member for member in members if member != name])
        if name in self._default:
            self._keep_default([target for target in self._default if target != name])

    def set_group(self, name: str, members: Sequence[str]) -> None:
        """Make a group of these hosts; without members, remove it (also from the default).

        Raises NotFound (reason UNKNOWN_HOST), InvalidArgument (reason INVALID_HOST_NAME).
        """
        _checked_name(name)
        self._keep_group(name, [self.host(member).name for member in members])

    def set_default(self, targets: Sequence[str]) -> None:
        """Choose the targets (host names or `@group`) of commands that name none.

        Raises NotFound (reason UNKNOWN_HOST or UNKNOWN_GROUP).
        """
        self._resolve(targets)
        self._keep_default(targets)

    def save(self) -> None:
        """Write the changes since `load` into the file as it is now, atomically, with its comments kept.

        Raises FailedPrecondition (reason CONFIG_UNWRITABLE), or as `load` when the file has become invalid.
        """
        config_file.rewrite(self.path, self._edits, lambda text: _decode(self.path, text))
        self._edits.clear()

    def _keep_group(self, name: str, members: Sequence[str]) -> None:
        if members:
            self._groups[name] = tuple(dict.fromkeys(members))
            self._edits.append(config_file.put_group(name, self._groups[name]))
            return
        self._groups.pop(name, None)
        self._edits.append(config_file.drop("groups", name))
        if f"@{name}" in self._default:
            self._keep_default([target for target in self._default if target != f"@{name}"])

    def _keep_default(self, targets: Sequence[str]) -> None:
        self._default = tuple(dict.fromkeys(targets))
        self._edits.append(config_file.put_default(self._default))

    def _resolve(self, targets: Iterable[str]) -> list[Host]:
        found: dict[str, Host] = {}
        for target in targets:
            several = self.group(target[1:]) if target.startswith("@") else [self.host(target)]
            found.update((host.name, host) for host in several)
        return list(found.values())

    def _fallback(self, default: Sequence[str] | None) -> Sequence[str]:
        if default or self._default:
            return default or self._default
        return list(self._hosts) if len(self._hosts) == 1 else ()

    def _no_target(self) -> InvalidArgument:
        if not self._hosts:
            return InvalidArgument(
                "no host is configured", reason="NO_TARGET", hint="add one: shoal host add NAME ADDRESS"
            )
        return InvalidArgument(
            f"no host chosen out of {len(self._hosts)}",
            reason="NO_TARGET",
            hint=f'choose with -H NAME, -g GROUP or --all, or write default = ["NAME"] in {self.path}',
        )

    def _entry(self, host: Host) -> dict[str, Any]:
        paths = {
            which: _portable(path, self.path.parent)
            for which in ("ca", "cert", "key")
            if (path := getattr(host, which))
        }
        entry: dict[str, Any] = {"address": host.address, **paths}
        if host.server_name:
            entry["server_name"] = host.server_name
        if host.labels:
            entry["labels"] = dict(host.labels)
        return entry


def _decode(path: Path, text: str) -> Inventory:
    data = config_file.parse(path, text)
    if unknown := sorted(set(data) - {"default", "hosts", "groups", "builders"}):
        raise config_file.invalid(path, f"unknown key {unknown[0]!r}", config_file.line_of(text, unknown[0]))
    hosts = {}
    for name, entry in _table(path, text, data, "hosts").items():
        try:
            hosts[name] = _decode_host(path, name, entry)
        except InvalidArgument as error:
            hint = f" ({error.hint})" if error.hint else ""
            line = config_file.line_of(text, "hosts", name)
            raise config_file.invalid(path, f"host {name!r}: {error.message}{hint}", line) from error
    groups = {}
    for name, members in _table(path, text, data, "groups").items():
        if not _NAME.fullmatch(name) or not _is_strings(members):
            line = config_file.line_of(text, "groups", name)
            raise config_file.invalid(path, f"group {name!r} must be a list of host names under a valid name", line)
        groups[name] = members
    default = data.get("default", [])
    if not _is_strings(default):
        raise config_file.invalid(path, "default must be a list of host names", config_file.line_of(text, "default"))
    builders = data.get("builders", [])
    if not _is_strings(builders):
        raise config_file.invalid(path, "builders must be a list of group names", config_file.line_of(text, "builders"))
    return Inventory(path, hosts, groups, default, builders)


def _decode_host(path: Path, name: str, entry: Any) -> Host:
    _checked_name(name)
    if not isinstance(entry, dict):
        raise InvalidArgument("must be a table")
    for key in entry:
        if key not in _KEYS:
            raise InvalidArgument(
                f"unknown key {key!r}", hint=f"known are {', '.join(_KEYS)}; a host name with dots needs quotes"
            )
    texts = {key: entry.get(key, "") for key in _KEYS if key != "labels"}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InvalidArgument(f"{key} must be a string")
    if not texts["address"]:
        raise InvalidArgument("address is missing")
    labels = entry.get("labels", {})
    if not isinstance(labels, dict):
        raise InvalidArgument("labels must be a table of strings")
    return Host(
        name,
        str(Address.parse(texts["address"])),
        ca=_absolute(texts["ca"], path.parent),
        cert=_absolute(texts["cert"], path.parent),
        key=_absolute(texts["key"], path.parent),
        server_name=texts["server_name"],
        labels=_checked_labels(labels),
    )


def _table(path: Path, text: str, data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise config_file.invalid(path, f"{key} must be a table", config_file.line_of(text, key))
    return value


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid name {name[:80]!r}",
            reason="INVALID_HOST_NAME",
            hint="a name has up to 64 of a-z 0-9 . _ - and begins with a letter or digit",
        )
    return name


def _checked_labels(labels: Mapping[str, Any]) -> Mapping[str, str]:
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or not isinstance(value, str) or not value.isprintable() or "," in value:
            raise InvalidArgument(
                f"invalid label {key[:80]!r}",
                reason="INVALID_LABEL",
                hint="a label is key=value: letters, digits . _ / - in the key, a string without commas as value",
            )
    return MappingProxyType(dict(labels))


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _split(texts: Iterable[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _absolute(path: Path | str | None, base: Path) -> Path | None:
    return Path(os.path.abspath(base / os.path.expanduser(path))) if path else None


def _portable(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> NotFound:
    import difflib

    near = difflib.get_close_matches(name[:80], list(known), n=3)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    return NotFound(
        f"unknown {kind} {name[:80]!r}{where}{guess}",
        reason=f"UNKNOWN_{kind.upper()}",
        hint="`shoal host list` shows the hosts and groups of this client",
        metadata={kind: name[:80]},
    )
