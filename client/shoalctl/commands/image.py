"""`shoal image VERB`, as docker groups its verbs."""

from __future__ import annotations

from shoalctl.commands.grouping import NounGroup, noun_app


class ImageGroup(NounGroup):
    """Docker's names."""

    verbs = {
        **{name: name for name in ("build", "inspect", "pull", "push", "tag")},
        "ls": "images",
        "rm": "rmi",
    }
    aliases = {"list": "images", "remove": "rmi"}


app = noun_app("Manage images.", ImageGroup)
