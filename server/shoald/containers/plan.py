"""How an image's configuration and a request become the first process; pure.

Follows moby `daemon/commit.go` merge and `docker run`: a request's entrypoint clears the image's command; environment
entries are keyed by name and the request wins; labels are united.
"""

from __future__ import annotations

import math
import posixpath
import re
import signal as signals
from collections.abc import Iterable, Sequence

from shoal.errors import InvalidArgument
from shoald.containers.isolation import check_isolation
from shoald.containers.limits import check_limits
from shoald.containers.logging import check_log
from shoald.model.container import ContainerSpec, Mount, MountKind, Process
from shoald.network.reservations import check_host_ip, check_protocol
from shoald.oci.config import ImageConfig
from shoald.runtime.namespaces import bridged

DEFAULT_STOP_TIMEOUT_S = 10.0
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME, _MAX_HOSTNAME = 255, 64
"""64: HOST_NAME_MAX of Linux."""


def merge_env(*layers: Sequence[str]) -> tuple[str, ...]:
    """Unite "KEY=value" lists; a later entry replaces an earlier one in its place. Entries without "=" unset the
    name."""
    merged: dict[str, str | None] = {}
    for entry in (entry for layer in layers for entry in layer):
        key, separator, _ = entry.partition("=")
        merged[key] = entry if separator else None
    return tuple(entry for entry in merged.values() if entry is not None)


def process_of(spec: ContainerSpec, image: ImageConfig) -> Process:
    """The first process. Raises InvalidArgument (NO_COMMAND) when neither side names one."""
    config = image.defaults
    if spec.entrypoint is not None:
        entrypoint, command = tuple(e for e in spec.entrypoint if spec.entrypoint != ("",)), spec.command
    else:
        entrypoint = tuple(config.entrypoint or ())
        command = spec.command or tuple(config.cmd or ())
    args = (*entrypoint, *command)
    if not args or not args[0]:
        raise InvalidArgument(
            "no command specified", reason="NO_COMMAND", hint="name a command after the image, or use --entrypoint"
        )
    env = merge_env(tuple(config.env or ()), spec.env)  # PATH, HOME... are added by shoald.runtime.spec
    working_dir = spec.working_dir or config.working_dir or "/"
    if not working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{working_dir}' is invalid, it needs to be an absolute path",
            reason="INVALID_WORKDIR",
        )
    user = spec.user or config.user or ""
    # The request was checked before, an image can hold anything.
    _refuse_nul("the image's configuration", (*args, *env, working_dir, user))
    return Process(args=args, env=env, working_dir=working_dir, user=user)


def stop_signal_of(spec: ContainerSpec, image: ImageConfig) -> int:
    """The number of the stop signal: the request's, the image's, SIGTERM."""
    return parse_signal(spec.stop_signal or image.defaults.stop_signal or "SIGTERM")


def parse_signal(text: str) -> int:
    """ "SIGHUP", "hup" or "1" -> 1; also "RTMIN+3". Raises InvalidArgument (INVALID_SIGNAL)."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit():
        number = int(name[:4])  # longer than any signal, and no number that takes long to read
        if 1 <= number <= 64:
            return number
        raise InvalidArgument(f"invalid signal: {text[:100]}", reason="INVALID_SIGNAL")
    name = name if name.startswith("SIG") else "SIG" + name
    match = re.fullmatch(r"SIGRT(MIN|MAX)(?:([+-])(\d{1,2}))?", name)
    if match:
        base = signals.SIGRTMIN if match[1] == "MIN" else signals.SIGRTMAX
        number = int(base) + (int(match[3]) if match[2] == "+" else -int(match[3]) if match[3] else 0)
        if signals.SIGRTMIN <= number <= signals.SIGRTMAX:
            return number
    elif name in signals.Signals.__members__:
        return int(signals.Signals[name])
    raise InvalidArgument(
        f"invalid signal: {text[:100]}", reason="INVALID_SIGNAL", hint="a name like SIGTERM or a number from 1 to 64"
    )


def check_name(name: str) -> None:
    """Raises InvalidArgument (INVALID_NAME)."""
    if not (_NAME.fullmatch(name) and len(name) <= _MAX_NAME):
        raise InvalidArgument(
            f"invalid container name ({name[:_MAX_NAME]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            reason="INVALID_NAME",
        )


def check_spec(spec: ContainerSpec) -> None:
    """Refuse what can never work, before anything is made. Raises InvalidArgument."""
    if spec.name:
        check_name(spec.name)
    if spec.hostname and (len(spec.hostname) > _MAX_HOSTNAME or not _HOSTNAME.fullmatch(spec.hostname)):
        raise InvalidArgument(f"invalid hostname: {spec.hostname[:_MAX_NAME]}", reason="INVALID_HOSTNAME")
    if spec.userns not in ("", "host"):
        raise InvalidArgument(
            f"unknown user namespace mode {spec.userns!r}", reason="INVALID_USERNS", hint='leave it out, or "host"'
        )
    if spec.ports and not bridged(spec):
        raise InvalidArgument(
            f"ports can't be published with network {spec.network}",
            reason="INVALID_PORTS",
            hint="leave out -p, or use --network bridge",
        )
    if spec.hostname and spec.network == "host":
        raise InvalidArgument(
            "a host name can't be set with network host", reason="INVALID_HOSTNAME", hint="leave out --hostname"
        )
    if spec.auto_remove and spec.restart_policy.name != "no":
        raise InvalidArgument("--rm and --restart exclude each other", reason="INVALID_RESTART_POLICY")
    check_log(spec.log)
    _check_strings(spec)
    _check_numbers(spec)
    check_isolation(spec)
    check_mounts(spec.mounts)


def _check_strings(spec: ContainerSpec) -> None:
    for what, values in (
        ("environment", spec.env),
        ("command", spec.command),
        ("entrypoint", spec.entrypoint or ()),
        ("labels", (*spec.labels, *spec.labels.values())),
        ("user", (spec.user,)),
        ("working directory", (spec.working_dir,)),
    ):
        _refuse_nul(what, values)
    for entry in spec.env:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry!r}", reason="INVALID_ENV")


def _refuse_nul(what: str, values: Iterable[str]) -> None:
    if any("\0" in value for value in values):
        raise InvalidArgument(f"{what} contains a NUL byte", reason="INVALID_STRING")


def _check_numbers(spec: ContainerSpec) -> None:
    check_limits(spec.resources)
    if spec.restart_policy.max_retries < 0 or (
        spec.restart_policy.max_retries and spec.restart_policy.name != "on-failure"
    ):
        raise InvalidArgument("a maximum retry count goes only with on-failure", reason="INVALID_RESTART_POLICY")
    for port in spec.ports:
        if not (0 < port.container_port < 65536 and 0 <= port.host_port < 65536):
            raise InvalidArgument(f"invalid port {port.host_port}:{port.container_port}", reason="INVALID_PORTS")
        check_protocol(port.protocol)
        if port.host_ip:
            check_host_ip(port.host_ip)
    if spec.stop_timeout_s is not None and not math.isfinite(spec.stop_timeout_s):
        raise InvalidArgument(f"invalid stop timeout {spec.stop_timeout_s}", reason="INVALID_STOP_TIMEOUT")


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Targets must be absolute, distinct and not the root. Raises InvalidArgument (INVALID_MOUNT)."""
    seen: set[str] = set()
    for mount in mounts:
        target = mount.target
        if not target.startswith("/") or "\0" in target or ".." in target.split("/"):
            raise InvalidArgument(f"invalid mount path: '{target}' must be absolute", reason="INVALID_MOUNT")
        if clean_target(target) == "/":
            raise InvalidArgument("invalid mount: the destination can't be '/'", reason="INVALID_MOUNT")
        if clean_target(target) in seen:
            raise InvalidArgument(f"duplicate mount point: {target}", reason="INVALID_MOUNT")
        seen.add(clean_target(target))
        if mount.tmpfs_size_bytes < 0 or not 0 <= mount.tmpfs_mode <= 0o7777:
            raise InvalidArgument(f"invalid tmpfs options for {target}", reason="INVALID_MOUNT")
        if mount.kind is MountKind.BIND and (not mount.source.startswith("/") or "\0" in mount.source):
            raise InvalidArgument(
                f"invalid bind source '{mount.source}': it must be an absolute path on the host", reason="INVALID_MOUNT"
            )


def clean_target(target: str) -> str:
    """A mount target without doubled or trailing slashes and single dots."""
    return "/" + "/".join(part for part in target.split("/") if part not in ("", "."))


def with_image_volumes(spec: ContainerSpec, image: ImageConfig) -> tuple[Mount, ...]:
    """The request's mounts and an anonymous volume for each VOLUME of the image that none of them covers."""
    taken = {clean_target(mount.target) for mount in spec.mounts} | {"/"}
    wanted = {_inside(path) for path in image.defaults.volumes or {} if path.startswith("/") and "\0" not in path}
    extra = [Mount(kind=MountKind.VOLUME, target=path, anonymous=True) for path in sorted(wanted - taken)]
    return (*spec.mounts, *extra)


def _inside(path: str) -> str:
    """A path of an image, whatever dots are in it."""
    return clean_target(posixpath.normpath(path))
