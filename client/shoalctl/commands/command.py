"""What the commands that ask hosts share: target flags after the verb, and a run of the event loop."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import cache
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from shoalctl import event_loop, exits
from shoalctl.commands.flag_table import Flag, options
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.switches import Option, with_plain_switches
from shoalctl.invocation import Invocation

MOST = 2**31 - 1


def verb_app(help_text: str | None = None) -> typer.Typer:
    """A Typer application with shoal's settings: plain help, no completion flags of its own."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=help_text is not None,
        context_settings={"max_content_width": 110},
    )


class HostCommand(TyperCommand):
    """A command that asks hosts: it takes -H, -g, --all, --host-label and --timeout too; they end up in `ctx.obj`.

    A flag of its own with such a name wins: the target's is then only before the verb.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for param in self.params for name in param.opts}
        self.params.extend(param for param in _target_params() if not taken.intersection(param.opts))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Also takes switches with a value: `--rm=true`."""
        known = {
            name: Option(not (getattr(param, "is_flag", False) or getattr(param, "count", False)), off)
            for param in self.get_params(ctx)
            if param.param_type_name == "option"
            for names, off in ((param.opts, next(iter(param.secondary_opts), "")), (param.secondary_opts, ""))
            for name in names
        }
        plain = with_plain_switches(args, known, interspersed=ctx.allow_interspersed_args)
        return super().parse_args(ctx, plain)

    def invoke(self, ctx: Any) -> Any:
        """Move the target flags from the parameters to the invocation, then run."""
        check_numbers(ctx.params)
        flags = {param.name: ctx.params.pop(param.name, None) for param in _target_params()}
        invocation: Invocation = ctx.obj or Invocation()
        ctx.obj = invocation.extended(
            hosts=flags["target_host"] or (),
            groups=flags["target_group"] or (),
            everything=bool(flags["target_all"]),
            labels=flags["target_label"] or (),
            timeout=flags["target_timeout"],
        )
        return super().invoke(ctx)


def check_numbers(given: Mapping[str, Any]) -> None:
    """No flag has a use for a number beyond 32 bits, and the messages have no room for all of them."""
    for name, value in given.items():
        if isinstance(value, int) and not -MOST <= value <= MOST:
            raise UsageFault(f"--{name.replace('_', '-')}: {value} is out of range")


_TARGETS = (
    Flag("-H --host", "target_host", "Ask these hosts.", "NAME,..."),
    Flag("-g --group", "target_group", "Ask the hosts of a group.", "GROUP"),
    Flag("--all", "target_all", "Ask all known hosts.", "", False),
    Flag("--host-label", "target_label", "Ask the hosts that carry this label.", "KEY=VALUE"),
    Flag("--timeout", "target_timeout", "Time to connect to a host (10).", "SECONDS", optional=float),
)


@cache
def _target_params() -> list[Any]:
    return options(_TARGETS)


def execute(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run the coroutine of a command to its end and leave with the exit code that it returns; 130 on Ctrl-C."""
    try:
        code = event_loop.run(work)
    except KeyboardInterrupt:
        code = exits.INTERRUPTED
    raise typer.Exit(code)
