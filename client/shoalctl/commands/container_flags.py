"""The flags of `run` and `create` that are not about isolation, in docker's spelling; and commands that take all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from shoalctl.commands import isolation_flags
from shoalctl.commands.command import HostCommand, check_numbers
from shoalctl.commands.flag_table import Flag, options
from shoalctl.commands.isolation_options import IsolationOptions
from shoalctl.commands.out_flags import OUT, SWITCHES, out_name, refuse
from shoalctl.flags.detach_keys import DEFAULT

_META = "shoal.container"
SETTINGS = {"allow_interspersed_args": False, "max_content_width": 110}
"""Of the command: everything after IMAGE is the container's command, also what looks like a flag."""

FLAGS = (
    Flag("-d --detach", "detach", "Print the id and leave it running.", "", False),
    Flag("-i --interactive", "interactive", "Pass standard input on.", "", False),
    Flag("-t --tty", "tty", "Give the container a terminal.", "", False),
    Flag("--rm", "rm", "Remove the container when it has exited.", "", False),
    Flag("--name", "name", "The container's name.", "NAME", ""),
    Flag("-e --env", "env", "Set a variable.", "KEY[=VALUE]"),
    Flag("--env-file", "env_file", "Variables from a file.", "FILE"),
    Flag("-p --publish", "publish", "Publish a port (on 127.0.0.1).", "[IP:]HOST:PORT"),
    Flag("-v --volume", "volume", "Mount /host/path, ./path or a volume.", "SRC:DST[:ro]"),
    Flag("--mount", "mount", "Mount; bind, volume or tmpfs.", "type=...,src=...,dst=..."),
    Flag("--tmpfs", "tmpfs", "Mount a tmpfs.", "DST[:size=64m]"),
    Flag("--config", "config", "Mount a file of this machine.", "NAME=FILE[,target=]"),
    Flag("--secret", "secret", "Give a secret, on a tmpfs.", "id=NAME,src=FILE|env=VAR"),
    Flag("--follow", "follow", "Keep mounted files of this machine in step.", "", False),
    Flag("-w --workdir", "workdir", "The working directory.", "DIR", ""),
    Flag("-u --user", "user", "The user, by name or id.", "USER[:GROUP]", ""),
    Flag("-l --label", "label", "Label the container.", "KEY=VALUE"),
    Flag("--read-only", "read_only", "Mount the root file system read-only.", "", False),
    Flag("--network --net", "network", "A network, host, none or container:NAME.", "NETWORK"),
    Flag("-h --hostname", "hostname", "The host name inside.", "NAME", ""),
    Flag("--entrypoint", "entrypoint", "Instead of the image's entrypoint.", "COMMAND", optional=str),
    Flag("--init", "init", "Run an init that reaps and forwards signals.", "", False),
    Flag("--restart", "restart", "no, on-failure[:n], always or unless-stopped.", "POLICY", "no"),
    Flag("--stop-signal", "stop_signal", "What stop sends.", "SIGNAL", ""),
    Flag("--stop-timeout", "stop_timeout", "Grace time of stop; -1: without end.", "SECONDS", optional=int),
    Flag("--pull", "pull", "missing, always or never.", "POLICY", "missing"),
    Flag("--platform", "platform", "Instead of the host's own.", "OS/ARCH", ""),
    Flag("--userns", "userns", "host: no user namespace (role admin).", "MODE", ""),
    Flag("-m --memory", "memory", "Memory limit, such as 512m.", "SIZE", ""),
    Flag("--cpus", "cpus", "Processor limit, such as 1.5.", "N", ""),
    Flag("--pids-limit", "pids_limit", "Process limit; -1: none.", "N", 0),
    Flag("--cidfile", "cidfile", "Write the id to a new file.", "FILE", ""),
    Flag("--creds", "creds", "For the registry.", "USER:PASSWORD", ""),
    Flag("--log-driver", "log_driver", "local (or json-file, the same), journald or none.", "NAME", ""),
    Flag("--log-opt", "log_opt", "Such as max-size=10m and max-file=3.", "KEY=VALUE"),
    Flag("-q --quiet", "quiet", "Show no progress of a pull.", "", False),
    Flag("-a --attach", "attach", "Only stdin, stdout or stderr; else all.", "STREAM"),
    Flag("--detach-keys", "detach_keys", "What leaves a container with a terminal running.", "KEYS", DEFAULT),
    Flag("--sig-proxy/--no-sig-proxy", "sig_proxy", "Pass signals on; else they end only this command.", "", True),
)
FOLLOWING = frozenset({"detach", "follow", "attach", "detach_keys", "sig_proxy"})
"""Those that say how a container is followed: `create` has none of them."""


class ContainerCommand(HostCommand):
    """A command that makes containers. It takes all of these flags; what they say ends up in `ctx.meta`."""

    flags: ClassVar[Sequence[Flag]] = FLAGS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._own = options(self.flags)
        self._isolation = [*options(isolation_flags.FLAGS), *options(_OUT, hidden=True)]
        super().__init__(*args, params=[*kwargs.pop("params"), *self._own], **kwargs)
        self.params.extend(self._isolation)

    def invoke(self, ctx: Any) -> Any:
        """Move these flags from the parameters to `ctx.meta`, those of isolation parsed, then run."""
        isolation = {param.name: ctx.params.pop(param.name) for param in self._isolation}
        refuse(isolation)
        given = {param.name: ctx.params.pop(param.name) for param in self._own}
        check_numbers(given)
        ctx.meta[_META] = given, IsolationOptions.parse(isolation)
        return super().invoke(ctx)


class CreateCommand(ContainerCommand):
    """The same without the flags that say how the container is followed."""

    flags: ClassVar[Sequence[Flag]] = [flag for flag in FLAGS if flag.name not in FOLLOWING]


_OUT = [Flag(flag, out_name(flag), "", default=False if flag in SWITCHES else None) for flag in OUT]


def given_of(ctx: Any) -> tuple[Mapping[str, Any], IsolationOptions]:
    """What the flags of a ContainerCommand say: by the names of the table, and those of isolation parsed."""
    found: tuple[Mapping[str, Any], IsolationOptions] = ctx.meta[_META]
    return found
