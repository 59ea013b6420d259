"""What a sandbox has, on disk before it is made: so that it can be taken down whatever happened to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.errors import FailedPrecondition, ResourceExhausted, ShoalError
from shoald import config as configuration
from shoald.host.files import atomic_write
from shoald.host.trees import remove_tree
from shoald.sandbox.plan import SLOTS, PlannedHost, overlaps, parse_routes, run_directory

_FILE = "sandbox.json"


class Sandbox(Struct, frozen=True):
    """The record. `client_config` is the client's file in which the hosts are enrolled."""

    group: str
    slot: int
    client_config: str
    hosts: tuple[str, ...]
    """Names, in order."""


def load(directory: Path) -> Sandbox | None:
    """The sandbox of a directory, or None. Raises FailedPrecondition (SANDBOX_UNREADABLE)."""
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=Sandbox)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FailedPrecondition(
            f"can't read {directory / _FILE}: {error}", reason="SANDBOX_UNREADABLE", hint="is this a sandbox?"
        ) from error


def save(directory: Path, sandbox: Sandbox) -> None:
    """Durable when it returns."""
    atomic_write(directory / _FILE, msgspec.json.encode(sandbox), 0o600)


def forget(directory: Path) -> None:
    """The sandbox is gone."""
    (directory / _FILE).unlink(missing_ok=True)


def hosts(directory: Path, sandbox: Sandbox) -> list[PlannedHost]:
    """The hosts whose configuration was written: others never started."""
    found = []
    for number, name in enumerate(sandbox.hosts, 1):
        own = directory / f"host-{number}"
        if (own / "shoald.toml").exists():
            found.append(PlannedHost(name, own, configuration.load(own / "shoald.toml", {}, {})))
    return found


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """One that makes or takes down the sandbox of a directory at a time; others wait."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def busy(directory: Path) -> bool:
    """Whether somebody makes or takes down the sandbox of a directory just now, or it is gone."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def take_slot(directory: Path) -> int:
    """Reserve a slot: numbers that no other sandbox of this machine uses. Raises ResourceExhausted (NO_FREE_SLOT)."""
    routes = parse_routes(Path("/proc/net/route").read_text())
    for slot in range(SLOTS):
        place = run_directory(slot)
        if place.exists():
            _reclaim(place, slot)
        if place.exists() or overlaps(slot, routes):
            continue
        try:
            place.mkdir(mode=0o711)
        except FileExistsError:
            continue  # somebody else was faster
        (place / "owner").write_text(f"{directory}\n")
        return slot
    raise ResourceExhausted(
        f"there are {SLOTS} sandboxes already",
        reason="NO_FREE_SLOT",
        hint="take one down with --down --dir DIR; /run/shoal-sandbox-*/owner name the directories",
    )


def _reclaim(place: Path, slot: int) -> None:
    """Free a slot whose maker was killed between taking it and writing its record: nothing else was made then."""
    try:
        owner = Path((place / "owner").read_text().strip())
        fd = os.open(owner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sandbox = load(owner)
        if sandbox is None or sandbox.slot != slot:
            remove_tree(place)
    except (BlockingIOError, ShoalError):
        return
    finally:
        os.close(fd)
