"""The client's configuration file: where it is, reading it fast, and changing it without losing a comment."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

Edit = Callable[["TOMLDocument"], None]
"""One change to the document; it must be harmless when the file has changed meanwhile."""


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """SHOAL_CONFIG, else `$XDG_CONFIG_HOME/shoal/config.toml`, else `~/.config/shoal/config.toml` on every system.

    Raises FailedPrecondition (reason NO_HOME).
    """
    env = os.environ if environ is None else environ
    if chosen := env.get("SHOAL_CONFIG"):
        return expanded(chosen)
    base = env.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path there is invalid and to be ignored.
    root = Path(base) if base and os.path.isabs(base) else expanded("~/.config")
    return root / "shoal" / "config.toml"


def expanded(path: str) -> Path:
    """The absolute path; `~` and `~user` are home directories. Raises FailedPrecondition (reason NO_HOME)."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise FailedPrecondition(
            f"there is no home directory for {path}", reason="NO_HOME", hint="set HOME or SHOAL_CONFIG"
        ) from error


def check_there(path: Path) -> None:
    """Raises FailedPrecondition (reason CONFIG_UNREADABLE) when a file that was asked for by its name is not there."""
    with contextlib.suppress(PermissionError):  # reading it tells
        if not path.exists():
            raise FailedPrecondition(
                f"the configuration {path} does not exist",
                reason="CONFIG_UNREADABLE",
                hint="correct --config or SHOAL_CONFIG; `shoal host add` makes the file",
            )


def read_text(path: Path) -> str:
    """The file's text; empty when there is no file. Raises FailedPrecondition (reason CONFIG_UNREADABLE)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise FailedPrecondition(f"can't read {path}: {error.strerror}", reason="CONFIG_UNREADABLE") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise invalid(path, "not UTF-8 text", line) from error


def parse(path: Path, text: str) -> dict[str, Any]:
    """Read TOML. Raises InvalidArgument (reason INVALID_CONFIG) with file and line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = int(found[1]) if found and found[1] else text.rstrip("\r\n").count("\n") + 1
        message = str(error)[: found.start()] if found else str(error)
        raise invalid(path, message, line) from error


def line_of(text: str, *keys: str) -> int | None:
    """The line (from 1) where a table such as `[hosts.web1]` or a key of its parent begins; None if not found."""
    quoted = [rf"""(?:{re.escape(key)}|"{re.escape(key)}"|'{re.escape(key)}')""" for key in keys]
    header = r"\[\s*" + r"\s*\.\s*".join(quoted) + r"\s*\]"
    dotted = r"\s*\.\s*".join(quoted) + r"\s*[.=]"
    for pattern in (header, dotted, rf"{quoted[-1]}\s*="):
        if found := re.search(rf"^[ \t]*{pattern}", text, re.MULTILINE):
            return text.count("\n", 0, found.start()) + 1
    return None


def invalid(path: Path, message: str, line: int | None = None) -> InvalidArgument:
    """The error for a mistake in the file, which its message and metadata locate."""
    where = f"{path}:{line}" if line else str(path)
    metadata = {"file": str(path)} | ({"line": str(line)} if line else {})
    return InvalidArgument(
        f"{where}: {message}", reason="INVALID_CONFIG", hint=f"correct the file {path}", metadata=metadata
    )


def rewrite(path: Path, edits: Sequence[Edit], check: Callable[[str], object]) -> str:
    """Apply edits to the file as it is now, check the result and put it in place atomically; returns the new text.

    The file keeps its comments, its mode and, when it is a symbolic link, its place. A new one has mode 0600 in a
    directory of mode 0700. Raises what `check` raises, and FailedPrecondition (reason CONFIG_UNWRITABLE).
    """
    import tomlkit

    real = Path(os.path.realpath(path))
    document = tomlkit.parse(read_text(real))
    for edit in edits:
        edit(document)
    text = tomlkit.dumps(document)
    check(text)
    try:
        _replace(real, text.encode())
    except OSError as error:
        raise FailedPrecondition(f"can't write {path}: {error.strerror}", reason="CONFIG_UNWRITABLE") from error
    return text


def put_host(name: str, entry: Mapping[str, Any]) -> Edit:
    """Add or change the table `[hosts.NAME]`; keys that `entry` lacks are removed."""

    def edit(document: TOMLDocument) -> None:
        import tomlkit

        if "hosts" not in document:
            document["hosts"] = tomlkit.table(is_super_table=True)
        hosts: Any = document["hosts"]
        if name not in hosts:
            hosts[name] = tomlkit.table()
        table: Any = hosts[name]
        for key in set(table) - set(entry):
            del table[key]
        for key, value in entry.items():
            if table.get(key) == value:
                continue
            if isinstance(value, Mapping):
                inline = tomlkit.inline_table()
                inline.update(value)
                table[key] = inline
            else:
                table[key] = value

    return edit


def put_group(name: str, members: Sequence[str]) -> Edit:
    """Set one group's members."""

    def edit(document: TOMLDocument) -> None:
        import tomlkit

        if "groups" not in document:
            document["groups"] = tomlkit.table()
        groups: Any = document["groups"]
        groups[name] = list(members)

    return edit


def put_default(targets: Sequence[str]) -> Edit:
    """Set the default targets."""

    def edit(document: TOMLDocument) -> None:
        document["default"] = list(targets)

    return edit


def drop(table: str, name: str) -> Edit:
    """Remove an entry of `hosts` or `groups`."""

    def edit(document: TOMLDocument) -> None:
        entries: Any = document.get(table, {})
        entries.pop(name, None)

    return edit


def _replace(path: Path, data: bytes) -> None:
    import secrets  # costs 5 ms, and most commands write nothing

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = os.stat(path).st_mode & 0o777 if path.exists() else 0o600
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
