"""`build --ssh ID[=SOCKET]`: agents of this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault

_VARIABLE = "SSH_AUTH_SOCK"


class SshAgent(NamedTuple):
    """The path of an agent's socket, and the handle that a build and the call that lends the agent know it by."""

    path: str
    handle: str


def ssh_agents(texts: Iterable[str], environment: Mapping[str, str]) -> dict[str, SshAgent]:
    """By id; without SOCKET that of SSH_AUTH_SOCK. Raises UsageFault."""
    found = {}
    for text in texts:
        name, _, path = text.partition("=")
        path = path or environment.get(_VARIABLE, "")
        if not name:
            raise UsageFault(f"invalid --ssh {text!r}", hint="write default, or ID=SOCKET")
        if not path:
            raise UsageFault(f"--ssh {name}: no agent runs here", hint=f"start ssh-agent, so that {_VARIABLE} is set")
        try:
            is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError as error:
            raise UsageFault(f"--ssh {name}: {path}: {error.strerror}") from error
        if not is_socket:
            raise UsageFault(
                f"--ssh {name}: {path} is not an agent's socket", hint="add keys to an agent: ssh-add FILE"
            )
        found[name] = SshAgent(path, os.urandom(16).hex())
    return found
