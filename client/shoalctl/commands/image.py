"""`shoal image VERB`, as docker groups its verbs."""

from __future__ import annotations

from typing import Any

from shoalctl.commands.build import build
from shoalctl.commands.command import HostCommand, verb_app
from shoalctl.commands.images import images
from shoalctl.commands.inspect import inspect
from shoalctl.commands.pull import pull
from shoalctl.commands.push import push
from shoalctl.commands.rmi import rmi
from shoalctl.commands.tag import tag

app = verb_app("Manage images.")

_VERBS: dict[str, Any] = {
    "build": build,
    "inspect": inspect,
    "ls": images,
    "pull": pull,
    "push": push,
    "rm": rmi,
    "tag": tag,
}
for _name, _function in _VERBS.items():
    app.command(_name, cls=HostCommand)(_function)
