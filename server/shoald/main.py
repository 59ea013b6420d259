"""The command `shoald`: serve, doctor, sandbox, version. Each imports what it needs: the daemon stays small."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import InvalidArgument, ShoalError
from shoald import config as configuration
from shoald.host import memory

EXIT_FAILED = 1
EXIT_USAGE = 2

_OVERRIDES = {
    "root": "directory of durable state",
    "run_dir": "directory of running state",
    "socket": 'path of the unix socket, or "off"',
    "metrics_listen": 'host:port of metrics, or ""',
    "log_level": "debug, info, warning or error",
    "log_format": "auto, json or console",
    "tls.cert": "certificate of this host, PEM",
    "tls.key": "its private key, PEM",
    "tls.ca": "authority of the clients' certificates, PEM",
    "tls.deny_list": "serial numbers of revoked certificates",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 1 for a failure, 2 for wrong usage or configuration."""
    # gRPC must not hook into forks: the daemon never forks, and the hooks cost time at every vfork.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments) or 0)
    except ShoalError as error:
        print(f"shoald: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has enough (`| head`): what is left in the buffer must not be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="shoald", description="The daemon of shoal: containers on this host.")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the daemon")
    _add_configuration(serve)
    serve.set_defaults(command=_serve)
    doctor = commands.add_parser("doctor", help="say what this host has and lacks")
    _add_configuration(doctor)
    doctor.add_argument("--format", choices=("table", "json"), default="table")
    doctor.set_defaults(command=_doctor)
    _add_sandbox(commands.add_parser("sandbox", help="several daemons on this machine, to try a fleet"))
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return top


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"TOML file (default: {configuration.DEFAULT_FILE}, if it exists)"
    )
    parser.add_argument(
        "--listen", action="append", metavar="HOST:PORT", help="TCP listener with mutual TLS; may be repeated"
    )
    for key, text in _OVERRIDES.items():
        flag = "--" + key.replace(".", "-").replace("_", "-")
        parser.add_argument(flag, dest=key, metavar="VALUE", help=text)


def _add_sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="how many daemons (default: 2)")
    parser.add_argument("--dir", type=Path, help="where they keep their files (default: /var/lib/shoal-sandbox/GROUP)")
    parser.add_argument(
        "--group", default="sandbox", help="group and prefix of the hosts' names in the client's configuration"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the client's configuration file")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then take all down (the default)")
    way.add_argument("--detach", action="store_true", help="return when the daemons are ready")
    way.add_argument("--down", action="store_true", help="take a sandbox down: containers, networks, files")
    parser.set_defaults(command=_sandbox)


def _load(arguments: argparse.Namespace) -> configuration.Config:
    flags = {key: value for key in _OVERRIDES if (value := getattr(arguments, key)) is not None}
    if arguments.listen:
        flags["listen"] = arguments.listen
    return configuration.load(arguments.config, os.environ, flags)


def _serve(arguments: argparse.Namespace) -> None:
    config = _load(arguments)
    # Directories that user namespaces pass through are 0711, whatever umask the caller has.
    os.umask(0o022)
    memory.keep_small()
    # structlog would load it for colourful tracebacks, at the price of 5 MB; it is here only because of the client.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from shoald import log

    log.configure(config.log_level, config.log_format)
    from shoald.daemon import serve

    asyncio.run(serve(config, lambda: _load(arguments)))


def _doctor(arguments: argparse.Namespace) -> int:
    from shoald import doctor

    report = asyncio.run(doctor.examine(_load(arguments)))
    print(doctor.as_json(report) if arguments.format == "json" else doctor.as_table(report))
    return EXIT_FAILED if doctor.fatal(report) else 0


def _sandbox(arguments: argparse.Namespace) -> int:
    from shoald.sandbox import command

    return command.run(arguments)


def _version(_: argparse.Namespace) -> None:
    from shoald.version import version

    print(f"shoald {version()}")


if __name__ == "__main__":
    sys.exit(main())
