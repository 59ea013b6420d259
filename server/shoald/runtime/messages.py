"""What crun and runc say when they fail, told as errors of ours."""

from __future__ import annotations

import contextlib
import re

import msgspec

from shoal.errors import FailedPrecondition, Internal, InvalidArgument, ShoalError

_NOT_FOUND = (
    re.compile(r"executable file `(?P<name>.*)` not found in \$PATH", re.DOTALL),  # crun
    re.compile(r'exec: "(?P<name>.*)": executable file not found in \$PATH', re.DOTALL),  # runc
    re.compile(r'exec: "(?P<name>.*)": stat .*: no such file or directory', re.IGNORECASE),  # runc
)
_NOT_EXECUTABLE = (
    re.compile(r"open executable: (?:Permission denied|Operation not permitted)"),  # crun
    re.compile(
        r"exec(?:uting)? container process.* `(?P<name>.*)`: (?:Permission denied|Exec format error|Is a directory)"
    ),
    re.compile(r'exec: "(?P<name>.*)": (?:permission denied|is a directory|exec format error|not a directory)'),  # runc
)
_WORKDIR = (
    re.compile(r"chdir `.*`: "),  # crun
    re.compile(r"error during container init: mkdir /.*: not a directory"),  # runc
    re.compile(r"chdir to cwd"),  # runc
)
_HOOK = (
    re.compile(r"error executing hook|timeout expired for `"),  # crun
    re.compile(r"error running hook #\d+: "),  # runc
)
_LIMIT = 4000


def runtime_error(message: str, *, command: str, working_dir: str, hook_output: str = "") -> ShoalError:
    """The error for a runtime's message. Metadata "exit_code" is what Docker's client exits with: 127, 126 or 125.
    `hook_output`: what hooks wrote, where it is not in the message."""
    message = message.strip()[-_LIMIT:]
    metadata = {"command": command, "runtime_message": message}
    if any(pattern.search(message) for pattern in _HOOK):
        text = f"a hook of a CDI device failed: {message}" + (f": {hook_output}" if hook_output else "")
        return FailedPrecondition(text, reason="HOOK_FAILED", metadata=metadata | {"exit_code": "125"})
    if any(pattern.search(message) for pattern in _NOT_FOUND):
        if not command:
            return _not_executable(command, metadata)
        text = f"{command!r} was not found in the container" + ("" if "/" in command else " (searched $PATH)")
        return FailedPrecondition(text, reason="COMMAND_NOT_FOUND", metadata=metadata | {"exit_code": "127"})
    if any(pattern.search(message) for pattern in _NOT_EXECUTABLE):
        return _not_executable(command, metadata)
    if any(pattern.search(message) for pattern in _WORKDIR):
        text = f"working directory {working_dir!r} can't be used: {message}"
        return InvalidArgument(text, reason="INVALID_WORKDIR", metadata=metadata | {"exit_code": "126"})
    text = message or "the OCI runtime failed and did not say why"
    return Internal(text, reason="RUNTIME_FAILED", metadata=metadata | {"exit_code": "125"})


def _not_executable(command: str, metadata: dict[str, str]) -> ShoalError:
    text = f"{command!r} can't be executed in the container"
    return FailedPrecondition(text, reason="COMMAND_NOT_EXECUTABLE", metadata=metadata | {"exit_code": "126"})


class _LogLine(msgspec.Struct):
    msg: str = ""
    level: str = ""


def errors_in(log: bytes) -> str:
    """The error messages of a runtime's JSON log (`--log-format=json`), joined; "" when there are none."""
    found: list[str] = []
    for line in log.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            entry = msgspec.json.decode(line, type=_LogLine)
            # crun hands on what its first process says, a line of such a log itself.
            said = errors_in(entry.msg.encode()) if entry.msg.startswith("{") else ""
            if entry.level in ("error", "fatal") and (said or entry.msg) not in found:
                found.append(said or entry.msg)
    return "; ".join(found)
