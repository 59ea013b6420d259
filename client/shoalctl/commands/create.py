"""`shoal create`: as `run`, without the start."""

from __future__ import annotations

import inspect
from typing import Any

from shoalctl.commands.command import execute, verb_app
from shoalctl.commands.isolation_flags import ContainerCommand
from shoalctl.commands.run import run
from shoalctl.commands.run_flags import parsed
from shoalctl.commands.run_options import RunOptions
from shoalctl.flags.detach_keys import DEFAULT
from shoalctl.invocation import Invocation

app = verb_app()
_NOT_HERE = {"detach": True, "follow": False, "attach": None, "detach_keys": DEFAULT, "sig_proxy": True}
"""Parameters of `run` that say how it is followed, and what holds here."""


def create(ctx: Any, **given: Any) -> None:
    """Create a container and print its id; `shoal start` runs it."""
    execute(_create(ctx.obj, parsed(ctx, given | _NOT_HERE)))


# Evaluated: Typer reads what the annotations carry from the signature.
_parameters = inspect.signature(run, eval_str=True).parameters
create.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [each for name, each in _parameters.items() if name not in _NOT_HERE]
)
create.__annotations__ = {name: kind for name, kind in run.__annotations__.items() if name not in _NOT_HERE}
create.__wrapped__ = run  # type: ignore[attr-defined]
# Everything after IMAGE is the container's command, also what looks like a flag.
app.command(cls=ContainerCommand, context_settings={"allow_interspersed_args": False, "max_content_width": 110})(create)


async def _create(invocation: Invocation, options: RunOptions) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.creating import Creating

        return await Creating(fleet, options).run()
