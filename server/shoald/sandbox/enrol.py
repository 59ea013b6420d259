"""The sandbox's entries in the client's configuration; all else in that file stays as it is, comments included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from shoal.errors import AlreadyExists, InvalidArgument
from shoald.host.files import atomic_write
from shoald.sandbox.plan import PlannedHost

LABEL = "sandbox"


def client_config(environment: Mapping[str, str]) -> Path:
    """Where the client looks: SHOAL_CONFIG, else shoal/config.toml in XDG_CONFIG_HOME or ~/.config."""
    if chosen := environment.get("SHOAL_CONFIG"):
        return Path(chosen).expanduser().absolute()
    base = environment.get("XDG_CONFIG_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    return root / "shoal" / "config.toml"


def check(file: Path, group: str, names: Iterable[str]) -> None:
    """Raises AlreadyExists (HOST_EXISTS) when the names belong to something else than a sandbox of this group."""
    document = _read(file)
    hosts = document.get("hosts", {})
    for name in names:
        entry = hosts.get(name)
        if entry is not None and entry.get("labels", {}).get(LABEL) != group:
            raise AlreadyExists(
                f"{file} has a host {name!r} already", reason="HOST_EXISTS", hint="choose another --group"
            )


def enrol(file: Path, group: str, directory: Path, hosts: Iterable[PlannedHost]) -> None:
    """Add the hosts and the group, or replace what an earlier sandbox left of them."""
    document = _read(file)
    table = _table(document, "hosts", is_super_table=True)
    names = []
    for host in hosts:
        entry = tomlkit.table()
        entry["address"] = host.config.listen[0]
        entry["ca"] = str(directory / "pki" / "ca.pem")
        entry["cert"] = str(directory / "pki" / "admin.pem")
        entry["key"] = str(directory / "pki" / "admin-key.pem")
        labels = tomlkit.inline_table()
        labels[LABEL] = group
        entry["labels"] = labels
        table[host.name] = entry
        names.append(host.name)
    _table(document, "groups")[group] = names
    _write(file, document)


def withdraw(file: Path, group: str, names: Iterable[str]) -> None:
    """Take the entries out again; others that have the same names but are not of this sandbox stay."""
    if not file.exists():
        return
    document = _read(file)
    before = tomlkit.dumps(document)
    hosts: Any = document.get("hosts", {})
    ours = set()
    for name in names:
        if name in hosts and hosts[name].get("labels", {}).get(LABEL) == group:
            del hosts[name]
            ours.add(name)
    groups: Any = document.get("groups", {})
    if group in groups and set(groups[group]) <= ours:
        del groups[group]
    for key, table in (("hosts", hosts), ("groups", groups)):
        if key in document and not table:
            del document[key]
    if tomlkit.dumps(document) != before:
        _write(file, document)


def _read(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text())
    except FileNotFoundError:
        return tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise InvalidArgument(
            f"can't read the client's configuration {file}: {error}", reason="INVALID_CONFIG"
        ) from error


def _write(file: Path, document: tomlkit.TOMLDocument) -> None:
    real = Path(os.path.realpath(file))
    real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    text = tomlkit.dumps(document).strip("\n")  # an entry that went leaves the empty line before it
    atomic_write(real, f"{text}\n".encode() if text else b"", mode)


def _table(document: tomlkit.TOMLDocument, key: str, *, is_super_table: bool = False) -> Any:
    if key not in document:
        document[key] = tomlkit.table(is_super_table=is_super_table)
    return document[key]
