"""The files of a container's log: `log`, which the monitor writes, and before it `log.N`, the larger N the newer.

A rotation renames `log` to `log.N` and asks the monitor to open `log` anew; the monitor closes the old file first. So a
file is complete as soon as one after it is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from shoald.runtime.logfile import Cursor, LogFile, expired


class Place(Struct, frozen=True):
    """A file of a chain as it was seen."""

    path: Path
    sequence: int
    inode: int


def rotated(path: Path) -> list[tuple[int, Path]]:
    """(number, path) of the files before `path`, the oldest first."""
    start = f"{path.name}."
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(path.parent):
            number = name.removeprefix(start)
            if name.startswith(start) and number.isascii() and number.isdigit():
                found.append((int(number), path.with_name(name)))
    return sorted(found)


def rotated_path(path: Path, number: int) -> Path:
    """Where rotation `number` puts `path`."""
    return path.with_name(f"{path.name}.{number}")


def scan(path: Path) -> list[Place]:
    """The chain, the oldest first. Looks again while it is being rotated."""
    while True:
        current = _inode(path)
        older = rotated(path)
        places = [Place(each, number, inode) for number, each in older if (inode := _inode(each)) is not None]
        if _inode(path) != current:
            continue
        if current is not None:
            places.append(Place(path, older[-1][0] + 1 if older else 1, current))
        return places


def open_place(place: Place) -> LogFile | None:
    """The file that was seen; None when its name no longer stands for it."""
    file = LogFile.open(place.path, place.sequence)
    if file is not None and file.inode != place.inode:
        file.close()
        return None
    return file


def opened(path: Path, which: int) -> LogFile | None:
    """The oldest (0) or the newest (-1) file; None when there is none."""
    while places := scan(path):
        file = open_place(places[which])
        if file is not None:
            return file
    return None


def successor(path: Path, file: LogFile) -> LogFile | None:
    """The file after an open one, which then is complete; None when it is the last.

    Raises OutOfRange (CURSOR_EXPIRED) when files between the two are gone.
    """
    while True:
        later = [place for place in scan(path) if place.sequence > file.sequence and place.inode != file.inode]
        if not later:
            return None
        if later[0].sequence != file.sequence + 1:
            raise expired("the log was rotated away faster than it was read")
        found = open_place(later[0])
        if found is not None:
            return found


def at_cursor(path: Path, text: str) -> tuple[LogFile, int] | None:
    """The file and offset of a cursor; None when there is no log at all. Raises InvalidArgument (INVALID_CURSOR),
    OutOfRange (CURSOR_EXPIRED)."""
    cursor = Cursor.parse(text)
    while places := scan(path):
        place = next((each for each in places if each.inode == cursor.inode), None)
        if place is None:
            raise expired()
        file = open_place(place)
        if file is None:
            continue
        try:
            return file, file.offset(cursor)
        except BaseException:
            file.close()
            raise
    return None


def tail(path: Path, lines: int, *, stdout: bool, stderr: bool) -> tuple[LogFile, int] | None:
    """The place before the last `lines` lines of the wanted streams; an unfinished last line counts as one."""
    places = scan(path)
    found: tuple[LogFile, int] | None = None
    remaining = lines
    looked = False
    for place in reversed(places):
        file = open_place(place)
        if file is None:
            if found is None:
                continue
            break
        if found is not None:
            found[0].close()
        if lines <= 0:
            return file, file.end()
        if not looked and (part := file.ends_in_a_part(stdout=stdout, stderr=stderr)) is not None:
            looked = True
            remaining -= part
        offset, counted = file.back(remaining, stdout=stdout, stderr=stderr)
        found = file, offset or 0
        if offset is not None:
            break
        remaining -= counted
    return found


def since(path: Path, time_ns: int) -> LogFile | None:
    """The newest file that may hold records of that time and later ones, with all before the next begins."""
    chosen: LogFile | None = None
    for place in reversed(scan(path)):
        file = open_place(place)
        if file is None:
            break
        if chosen is not None:
            chosen.close()
        chosen = file
        first = file.first_time_ns()
        if first is not None and first < time_ns:
            break
    return chosen


def end_cursor(path: Path) -> str:
    """The cursor after the last whole line now; "" when there is no log."""
    with _closing(opened(path, -1)) as file:
        return "" if file is None else file.cursor(file.end())


def holds(path: Path, cursor: str) -> bool:
    """Whether the chain still holds the place of a cursor."""
    try:
        found = at_cursor(path, cursor)
    except Exception:  # noqa: BLE001 - whatever is wrong with it: it can't be used
        return False
    if found is not None:
        found[0].close()
    return found is not None


def move(path: Path, to: Path) -> None:
    """Give the chain another name. Nothing of it may be written any more."""
    for number, each in rotated(path):
        os.rename(each, rotated_path(to, number))
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, to)


def remove(path: Path) -> None:
    """Delete the chain."""
    for each in (*(older for _, older in rotated(path)), path):
        each.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def _closing(file: LogFile | None) -> Iterator[LogFile | None]:
    try:
        yield file
    finally:
        if file is not None:
            file.close()
