"""The OCI process of an exec: the container's own, with what the caller asks for; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shoal.errors import InvalidArgument
from shoald.runtime.capabilities import ALL_CAPABILITIES, capability_sets
from shoald.runtime.spec import ResolvedUser, working_dir


class ExecRequest(Struct, frozen=True):
    """What to run in a container. "" and () mean: as the container's first process has it."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    tty: bool = False
    stdin_open: bool = False
    privileged: bool = False
    detach: bool = False
    rows: int = 0
    columns: int = 0


def exec_process(config: Mapping[str, Any], request: ExecRequest, user: ResolvedUser) -> dict[str, Any]:
    """The `process` object (runtime-spec config.md).

    Raises InvalidArgument (NO_COMMAND, INVALID_WORKDIR, INVALID_ENV).
    """
    base: Mapping[str, Any] = config["process"]
    check_exec(request)
    process = {
        "terminal": request.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids), "umask": 0o022},
        "args": list(request.args),
        "env": _environment(base["env"], request, user),
        "cwd": working_dir(request.working_dir) if request.working_dir else base["cwd"],
        "capabilities": _privileged() if request.privileged else _capabilities(base, user.uid),
        "rlimits": list(base.get("rlimits", ())),
        "noNewPrivileges": bool(base.get("noNewPrivileges", True)) and not request.privileged,
    }
    if "apparmorProfile" in base and not request.privileged:
        process["apparmorProfile"] = base["apparmorProfile"]
    if request.tty and request.rows and request.columns:
        process["consoleSize"] = {"height": request.rows, "width": request.columns}
    return process


def check_exec(request: ExecRequest) -> None:
    """Refuse what can't be run, whatever the container. Raises InvalidArgument (NO_COMMAND, INVALID_ENV,
    INVALID_WORKDIR, INVALID_STRING)."""
    if not request.args or not request.args[0]:
        raise InvalidArgument("no command to run", reason="NO_COMMAND")
    if any("\0" in text for text in (*request.args, *request.env, request.user, request.working_dir)):
        raise InvalidArgument("a NUL byte in the request", reason="INVALID_STRING")
    for entry in request.env:
        if not entry.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {entry!r}", reason="INVALID_ENV")
    if request.working_dir:
        working_dir(request.working_dir)


def _environment(base: Sequence[str], request: ExecRequest, user: ResolvedUser) -> list[str]:
    entries = {entry.partition("=")[0]: entry for entry in base}
    if request.user:
        entries["HOME"] = f"HOME={user.home}"
    if request.tty:
        entries.setdefault("TERM", "TERM=xterm")
    for entry in request.env:
        name, separator, _ = entry.partition("=")
        if separator:
            entries[name] = entry
        else:
            entries.pop(name, None)
    return list(entries.values())


def _capabilities(base: Mapping[str, Any], uid: int) -> dict[str, Any]:
    """The container's bounding set, for the user of the exec: a user other than root holds none of it."""
    bounding = list(base.get("capabilities", {}).get("bounding", ()))
    held = bounding if uid == 0 else []
    return {**capability_sets(uid), "bounding": bounding, "effective": held, "permitted": held}


def _privileged() -> dict[str, Any]:
    every = list(ALL_CAPABILITIES)
    return {"bounding": every, "effective": every, "permitted": every}
