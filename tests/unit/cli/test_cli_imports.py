"""What a command that asks no host must not import, and what the client must never import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("grpc", "google", "cryptography", "rich", "asyncio", "tomlkit", "ssl")
_SCRIPT = """
import sys
from shoalctl.app import run
code = run(sys.argv[1:])
found = sorted({name.partition(".")[0] for name in sys.modules})
print(code, *found, sep="\\n", file=sys.stderr)
"""


def imported(*arguments: str, config: Path) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        env={**os.environ, "SHOAL_CONFIG": str(config), "SHOAL_HOSTS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    code, *names = done.stderr.splitlines()[done.stderr.splitlines().index(MARK(done.stderr)) :]
    return int(code), set(names)


def MARK(text: str) -> str:
    """The line with the exit code: the first that is only a number."""
    return next(line for line in text.splitlines() if line.isdecimal())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('[hosts.a]\naddress = "127.0.0.1:1"\n[hosts.b]\naddress = "127.0.0.1:2"\n')
    return path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["ps", "--help"], 0),
        (["run", "--help"], 0),
        (["completion", "bash"], 0),
        (["host", "list"], 0),
        (["host", "list", "--format", "json"], 0),
        (["host", "group"], 0),
        (["nonsense"], 2),
        (["ps", "--nonsense"], 2),
        (["run", "-p", "nonsense", "busybox"], 2),
        (["ps", "--format", "{{nonsense"], 2),
    ],
)
def test_commands_that_ask_no_host_import_nothing_heavy(arguments: list[str], code: int, config: Path) -> None:
    got, modules = imported(*arguments, config=config)
    assert got == code
    assert not modules & set(HEAVY)


def test_the_client_needs_no_dependency_of_the_daemon(config: Path) -> None:
    _, modules = imported("-H", "a", "ps", config=config)
    assert "grpc" in modules
    assert not modules & {
        "shoald",
        "aiohttp",
        "msgspec",
        "structlog",
        "prometheus_client",
        "libarchive",
        "isal",
        "rich",
    }


def test_every_verb_can_be_imported_without_what_only_posix_has() -> None:
    script = """
import sys
for name in ("termios", "tty", "fcntl", "pwd", "grp", "resource"):
    sys.modules[name] = None  # as on Windows: importing it fails
import signal
for name in ("SIGWINCH", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
from importlib import import_module
from shoalctl.app import VERBS
for verb in VERBS.values():
    import_module(f"shoalctl.commands.{verb.module}")
import shoalctl.commands.foreground, shoalctl.commands.building, shoalctl.commands.running, shoalctl.render.terminal
from shoalctl import Fleet, HostResult
"""
    subprocess.run([sys.executable, "-c", script], check=True)
