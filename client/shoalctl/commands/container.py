"""`shoal container VERB`, as docker groups its verbs."""

from __future__ import annotations

from typing import Any

from shoalctl.commands.command import HostCommand, verb_app
from shoalctl.commands.inspect import inspect
from shoalctl.commands.kill import kill
from shoalctl.commands.logs import logs
from shoalctl.commands.ps import ps
from shoalctl.commands.rm import rm
from shoalctl.commands.run import run
from shoalctl.commands.start import start
from shoalctl.commands.stop import stop
from shoalctl.commands.wait import wait

app = verb_app("Manage containers.")

_VERBS: dict[str, Any] = {
    "inspect": inspect,
    "kill": kill,
    "logs": logs,
    "ls": ps,
    "rm": rm,
    "start": start,
    "stop": stop,
    "wait": wait,
}
for _name, _function in _VERBS.items():
    app.command(_name, cls=HostCommand)(_function)
app.command("run", cls=HostCommand, context_settings={"allow_interspersed_args": False})(run)
