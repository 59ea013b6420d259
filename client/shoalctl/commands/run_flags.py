"""The flags of `run` and `create` as they come from the command line -> what is asked for, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from shoalctl.commands.container_flags import given_of
from shoalctl.commands.credentials import given as credentials
from shoalctl.commands.run_options import STREAMS, RunOptions
from shoalctl.flags import environment, images, logging, mounts, networks, ports, process, secrets, sizes
from shoalctl.flags.detach_keys import DEFAULT, parse_detach_keys
from shoalctl.flags.fault import UsageFault

_CREATED: Mapping[str, Any] = {
    "detach": True,
    "follow": False,
    "attach": None,
    "detach_keys": DEFAULT,
    "sig_proxy": True,
}
"""What holds for `create`, which has no flags about following."""


def parsed(ctx: Any, image: str, command: Sequence[str]) -> RunOptions:
    """The flags of a ContainerCommand. Raises UsageFault; asks no host."""
    flags, isolation = given_of(ctx)
    given = {**_CREATED, **flags}
    options = RunOptions(
        image=image,
        command=command,
        name=given["name"],
        env=environment.environment(given["env"] or (), given["env_file"] or (), os.environ),
        labels=environment.labels(given["label"] or ()),
        mounts=[
            *map(mounts.parse_volume, given["volume"] or ()),
            *map(mounts.parse_mount, given["mount"] or ()),
            *map(mounts.parse_tmpfs, given["tmpfs"] or ()),
            *map(mounts.parse_config, given["config"] or ()),
        ],
        secrets=[secrets.parse_secret(text, os.environ) for text in given["secret"] or ()],
        follow=given["follow"],
        ports=[port for text in given["publish"] or () for port in ports.parse_port(text)],
        working_dir=given["workdir"],
        user=given["user"],
        hostname=given["hostname"],
        entrypoint=None if given["entrypoint"] is None else process.entrypoint(given["entrypoint"]),
        networks=networks.parse_networks(given["network"] or ()),
        userns=_choice("--userns", given["userns"], ("", "host")),
        restart=process.parse_restart(given["restart"]),
        stop_signal=process.parse_signal(given["stop_signal"]) if given["stop_signal"] else "",
        stop_timeout=None if given["stop_timeout"] is None else timedelta(seconds=max(given["stop_timeout"], -1)),
        platform=images.checked_platform(given["platform"]),
        memory=sizes.parse_size(given["memory"]) if given["memory"] else 0,
        nano_cpus=sizes.parse_cpus(given["cpus"]) if given["cpus"] else 0,
        pids_limit=max(given["pids_limit"], -1),
        read_only=given["read_only"],
        init=given["init"],
        remove=given["rm"],
        detach=given["detach"],
        interactive=given["interactive"] or "stdin" in (given["attach"] or ()),
        tty=given["tty"],
        pull=_choice("--pull", given["pull"], ("missing", "always", "never")),
        quiet=given["quiet"],
        attach=_streams(given["attach"]),
        detach_keys=parse_detach_keys(given["detach_keys"]),
        sig_proxy=given["sig_proxy"],
        cidfile=given["cidfile"],
        creds=credentials(given["creds"]),
        isolation=isolation,
        log=logging.parse_log(given["log_driver"], given["log_opt"] or ()),
    )
    _check(options)
    return options


def _choice(flag: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageFault(f"{flag} {value!r} is unknown", hint=f"choose {', '.join(filter(None, choices))}")
    return value


def _streams(given: Sequence[str] | None) -> frozenset[str]:
    for name in given or ():
        _choice("--attach", name, tuple(sorted(STREAMS)))
    return frozenset(given) if given else STREAMS


def _check(options: RunOptions) -> None:
    """Combinations that can't work, found before any host is asked."""
    if not options.image:
        raise UsageFault("the image's name is empty")
    if options.remove and options.restart.name != "no":
        raise UsageFault("--rm and --restart contradict each other")
    if options.ports and options.networks and options.networks[0].name in networks.ALONE:
        raise UsageFault(f"-p has no use with --network {options.networks[0].name}")
    if options.attach != STREAMS and options.detach:
        raise UsageFault("-a and -d contradict each other")
    if options.follow and options.detach:
        raise UsageFault("--follow goes with a run in the foreground", hint="leave out -d")
    if options.follow and not any(mount.kind == "content" for mount in options.mounts):
        raise UsageFault("--follow has nothing to follow", hint="mount files of this machine: -v ./conf:/etc/app")
    if options.cidfile and os.path.lexists(options.cidfile):
        raise UsageFault(
            f"--cidfile: {options.cidfile} exists already", hint="remove it; is its container still there?"
        )
    if options.tty and options.interactive and not options.detach:
        from shoalctl.render.terminal import input_is_terminal

        if not input_is_terminal():
            raise UsageFault("-t with -i needs a terminal as standard input", hint="leave out -t for a pipe")
