"""Hooks: programs that the OCI runtime runs around a container's start and end (OCI runtime spec 1.0.2,
config.md "POSIX-platform Hooks"); pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""All kinds. createContainer runs in the container's namespaces, startContainer in its root too, the others on the
host."""

LONGEST_SECONDS = 45
"""Of one hook, whatever its specification says: the runtime ends it and tells, before we would have to end both."""

LONGEST_POSTSTOP_SECONDS = 20

_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)

_OUTPUT = ("run.oci.hooks.stdout", "run.oci.hooks.stderr")
"""crun(1): the files that its hooks' output goes to; else to nobody. runc puts it into its message."""


class Hook(Struct, frozen=True):
    """A program; `args` with its own name first; `timeout` in seconds, None for the longest."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


def hook_list(hooks: Mapping[str, Sequence[Hook]]) -> dict[str, Any]:
    """The `hooks` object."""
    found: dict[str, Any] = {}
    for kind in HOOKS:
        longest = LONGEST_POSTSTOP_SECONDS if kind == "poststop" else LONGEST_SECONDS
        entries: list[dict[str, Any]] = []
        for hook in hooks.get(kind, ()):
            timeout = min(hook.timeout or longest, longest)
            # Without an environment of its own runc gives a hook the container's: LD_PRELOAD of an image, run by root.
            env = list(hook.env or _ENV)
            entries.append({"path": hook.path, "args": list(hook.args or (hook.path,)), "timeout": timeout, "env": env})
        if entries:
            found[kind] = entries
    return found


def with_output(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The configuration, with the output of hooks in a file, for crun."""
    if "hooks" not in config:
        return config
    return {**config, "annotations": {**config.get("annotations", {}), **dict.fromkeys(_OUTPUT, path)}}


def reader(config: Mapping[str, Any]) -> int:
    """The group that must be able to read config.json: hooks in the container's user namespace look there for the root
    file system (NVIDIA's all do). 0 for no other than root."""
    mappings = config.get("linux", {}).get("gidMappings", ())
    inside = "createContainer" in config.get("hooks", {})
    return int(mappings[0]["hostID"]) if inside and mappings else 0
