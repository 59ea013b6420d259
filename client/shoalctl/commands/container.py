"""`shoal container VERB`, as docker groups its verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shoalctl.commands.grouping import NounGroup, noun_app

_SAME = (
    *("attach", "commit", "cp", "create", "diff", "exec", "export", "inspect", "kill", "logs", "pause", "port"),
    *("rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait"),
)


class ContainerGroup(NounGroup):
    """Docker's names."""

    verbs: ClassVar[Mapping[str, str]] = {**{name: name for name in _SAME}, "ls": "ps"}
    aliases: ClassVar[Mapping[str, str]] = {"list": "ps", "ps": "ps", "remove": "rm"}


app = noun_app("Manage containers.", ContainerGroup)
