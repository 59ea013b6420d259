"""`shoal image VERB`, as docker groups its verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shoalctl.commands.grouping import NounGroup, noun_app


class ImageGroup(NounGroup):
    """Docker's names."""

    verbs: ClassVar[Mapping[str, str]] = {
        **{name: name for name in ("build", "inspect", "pull", "push", "tag")},
        "ls": "images",
        "rm": "rmi",
    }
    aliases: ClassVar[Mapping[str, str]] = {"list": "images", "remove": "rmi"}


app = noun_app("Manage images.", ImageGroup)
