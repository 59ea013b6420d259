"""The command line: which module holds which verb. A verb's module is imported only when the verb is called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.invocation import Invocation


class Verb(NamedTuple):
    """Where a verb lives, and its line in the help; an alias has none and is not listed."""

    module: str
    help: str = ""


VERBS: dict[str, Verb] = {
    "build": Verb("build", "Build an image from a Dockerfile"),
    "pull": Verb("pull", "Pull an image from a registry"),
    "push": Verb("push", "Push an image to a registry"),
    "run": Verb("run", "Create and start a container"),
    "cp": Verb("cp", "Copy files between this machine and a container"),
    "export": Verb("export", "Write a container's file system as a tar archive"),
    "exec": Verb("exec", "Run a command in a running container"),
    "create": Verb("create", "Create a container without starting it"),
    "stop": Verb("stop", "Stop containers: signal, grace time, kill"),
    "start": Verb("start", "Start stopped containers"),
    "restart": Verb("restart", "Stop and start containers"),
    "pause": Verb("pause", "Freeze all processes of containers"),
    "unpause": Verb("unpause", "Let paused containers go on"),
    "rename": Verb("rename", "Give a container another name"),
    "update": Verb("update", "Change limits and restart policies, also while containers run"),
    "top": Verb("top", "List the processes of a container"),
    "stats": Verb("stats", "Show what containers use, live"),
    "diff": Verb("diff", "List the files that a container changed of its image"),
    "commit": Verb("commit", "Make an image of a container"),
    "port": Verb("port", "List the published ports of a container"),
    "prune": Verb("prune", "Remove all containers that do not run"),
    "kill": Verb("kill", "Send a signal to containers"),
    "rm": Verb("rm", "Remove containers"),
    "ps": Verb("ps", "List containers"),
    "images": Verb("images", "List images"),
    "rmi": Verb("rmi", "Remove images"),
    "logs": Verb("logs", "Show the output of containers, of several hosts in one"),
    "attach": Verb("attach", "Connect to the streams of a running container"),
    "inspect": Verb("inspect", "Show all that is known of containers or images, as JSON"),
    "save": Verb("save", "Write images as an archive, for `load` and for docker"),
    "load": Verb("load", "Make the images of an archive"),
    "tag": Verb("tag", "Give an image one more name"),
    "manifest": Verb("manifest", "Manage image indexes, one image for several platforms: create, inspect"),
    "wait": Verb("wait", "Wait until containers stop, and print their exit codes"),
    "info": Verb("info", "Show what the hosts have"),
    "version": Verb("version", "Show the versions of the client and the hosts"),
    "events": Verb("events", "Show what happens on the hosts"),
    "volume": Verb("volume", "Manage volumes: create, list, inspect, remove, prune, export, import"),
    "network": Verb("network", "Manage networks: create, list, inspect, remove, prune, connect, disconnect"),
    "builder": Verb("builder", "Manage builds and what they keep: ls, attach, logs, cancel, du, prune"),
    "host": Verb("host", "Manage the hosts that this client knows"),
    "pki": Verb("pki", "Make the fleet's CA and certificates"),
    "completion": Verb("completion", "Print a completion script for a shell"),
    "container": Verb("container"),
    "image": Verb("image"),
    "ls": Verb("ps"),
}


BUILDS = frozenset({"list", "ls", "attach", "logs", "cancel"})
"""Verbs of `builder` that also follow `build`: about builds, not the cache."""


class VerbGroup(TyperGroup):
    """A group whose commands are modules of `shoalctl.commands`, each with a Typer application named `app`."""

    verbs: ClassVar = VERBS

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs of the help."""
        return [name for name, verb in self.verbs.items() if verb.help]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb's command, imported now; None when there is no such verb."""
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        module = import_module(f"shoalctl.commands.{verb.module}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:1] == ["build"] and args[1:2] and args[1] in BUILDS and "builder" in self.verbs:
            args = ["builder", *args[1:]]
        return self._resolved(ctx, args)

    def _resolved(self, ctx: Any, args: list[str]) -> Any:
        """As the base class, but an unknown verb names the close ones without importing any."""
        if args and args[0] not in self.verbs and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx), 2)
            hint = f" Did you mean {' or '.join(close)}?" if close else f" See '{ctx.command_path} --help'."
            ctx.fail(f"{args[0]!r} is not a {ctx.command_path} command.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items() if verb.help])

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; an error becomes one message and an exit code."""
        try:
            return super().invoke(ctx)
        except ShoalError as error:
            _show(error)
            raise typer.Exit(exits.for_error(error)) from error


app = typer.Typer(
    name="shoal",
    cls=VerbGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    epilog="A command asks the hosts that -H, -g, --all or -l name, else SHOAL_HOSTS, else the current default "
    "(`shoal host use`). The first three also go after the verb.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from shoalctl.commands.version import own_version
        from shoalctl.render import console

        console.out(f"shoal {own_version()['Version']}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    host: Annotated[
        list[str] | None, typer.Option("-H", "--host", metavar="NAME,...", help="Ask these hosts.", show_default=False)
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("-g", "--group", metavar="GROUP", help="Ask the hosts of a group.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask all known hosts.")] = False,
    host_label: Annotated[
        list[str] | None,
        typer.Option("-l", "--host-label", metavar="KEY=VALUE", help="Ask the hosts that carry this label."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Time to connect to a host (10).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the client's version and exit.", is_eager=True, callback=_version)
    ] = False,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="The configuration of the client.")
    ] = None,
) -> None:
    """Command containers and images on many hosts."""
    ctx.obj = Invocation().extended(
        hosts=host or (),
        groups=group or (),
        everything=everything,
        labels=host_label or (),
        timeout=timeout,
        config=config,
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises. All output is written when it returns."""
    defect: Exception | None = None
    code = exits.FAILED
    try:
        code = _called(arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told
        defect = error
    # Only now it is known whether a full disk took the output; a pipe's reader may leave when it has enough.
    defect = _flushed() or defect
    if defect is None:
        return code
    from shoalctl.render.defects import show_defect

    show_defect(defect)
    return exits.FAILED


def _called(arguments: Sequence[str]) -> int:
    try:
        _check_text(arguments)
        app(list(arguments), prog_name="shoal")
    except ShoalError as error:
        _show(error)
        return exits.for_error(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except OSError as error:
        if not _is_typers(error):
            raise
        from shoalctl.defect import OutputFault

        raise OutputFault(error.errno, error.strerror, "standard output") from error
    return exits.OK


def _is_typers(error: OSError) -> bool:
    """Whether it comes from typer itself, which writes help to standard output and touches no other file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("typer.")


def _check_text(arguments: Sequence[str]) -> None:
    """The API takes text. Raises UsageFault for an argument that is none."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            from shoalctl.flags.fault import UsageFault

            raise UsageFault(f"the argument {argument!a} is not UTF-8")


def _flushed() -> Exception | None:
    """The error that the rest of standard output meets, if any."""
    import sys

    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        return None
    except OSError as error:
        from shoalctl.defect import OutputFault

        return OutputFault(error.errno, error.strerror, "standard output")
    return None


def _show(error: ShoalError) -> None:
    from shoalctl.render.errors import show_error

    show_error(error)
