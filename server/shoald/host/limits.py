"""Changing limits of a control group while it is in use: all of them or none."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.cgroups import Cgroups
from shoald.host.syscall import failure

_IN_ANOTHER_ORDER = (errno.EINVAL, errno.ERANGE)
"""A limit may have to wait for another one: memory can't be more than memory and swap together."""


@dataclass(frozen=True, slots=True)
class LimitFile:
    """A value for a control file; an empty one stands for that of the cgroup above."""

    controller: str
    name: str
    value: str


def set_limits(cgroups: Cgroups, cgroup: str, values: Sequence[LimitFile]) -> None:
    """Write them; after an error all files are as they were. What the host lacks is left out. Blocking.

    Raises FailedPrecondition (LIMIT_REFUSED: the kernel doesn't take it; NOT_RUNNING: the cgroup is gone).
    """
    wanted: list[tuple[Path, str]] = []
    for each in values:
        directory = cgroups.path(cgroup, each.controller)
        if directory is None:
            continue
        if not directory.is_dir():
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        file = directory / each.name
        if file.exists():
            wanted.append((file, each.value or _read(directory.parent / file.name)))
    before = [(file, _read(file)) for file, _ in wanted]
    try:
        _write_all(wanted)
    except BaseException:
        with contextlib.suppress(ShoalError):
            _write_all(before)
        raise


def _write_all(values: Sequence[tuple[Path, str]]) -> None:
    left = list(values)
    while left:
        refused: list[tuple[Path, str]] = []
        first: OSError | None = None
        for file, value in left:
            try:
                file.write_text(value)
            except OSError as error:
                if error.errno not in _IN_ANOTHER_ORDER:
                    raise _refused(file, value, error) from error
                first = first or error
                refused.append((file, value))
        if first is not None and len(refused) == len(left):
            raise _refused(*refused[0], first) from first
        left = refused


def _refused(file: Path, value: str, error: OSError) -> ShoalError:
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return FailedPrecondition("the container is not running", reason="NOT_RUNNING")
    if error.errno in (errno.EINVAL, errno.ERANGE, errno.EBUSY, errno.ENOSPC, errno.EACCES):
        return FailedPrecondition(
            f"the kernel refuses {value} for {file.name}: {error.strerror}", reason="LIMIT_REFUSED"
        )
    return failure("set limit", error.errno or 0, path=file)


def _read(path: Path) -> str:
    return path.read_text().strip()
