"""Real daemons for tests: N `shoald serve` processes with everything of their own, and the installed `shoal`.

    with running_fleet(2) as fleet:
        fleet.shoal("run", "-d", "--all", f"{registry.address}/busybox", "sleep", "60")

Each daemon has its own directories, loopback ports, publish address, bridge, subnet, nft table, cgroup and host ids, so
that several test sessions can run on one machine. Leaving the block removes all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.pki import KeyPair, Role, create_ca, issue_host, issue_user
from shoald import compose, config
from tests.support.docker_registry import free_port

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0
SLOTS = 64


@dataclass
class Daemon:
    """One `shoald serve`: start it, stop it, kill it, start it again over the same state."""

    name: str
    directory: Path
    run_dir: Path
    settings: dict[str, Any]
    within: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def config_file(self) -> Path:
        return self.directory / f"{self.name}.toml"

    @property
    def log_file(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def root(self) -> Path:
        return self.directory / self.name

    @property
    def address(self) -> str:
        """host:port of the API."""
        return str(self.settings["listen"][0])

    @property
    def metrics_address(self) -> str:
        """host:port of the metrics."""
        return str(self.settings["metrics_listen"])

    @property
    def publish_address(self) -> str:
        """Where `-p 80:80` can be reached."""
        return str(self.settings["network"]["publish_address"])

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def configure(self, **changes: Any) -> None:
        """Change keys of the configuration ({"limits": {...}} as keyword) for the next start."""
        for key, value in changes.items():
            self.settings[key] = {**self.settings.get(key, {}), **value} if isinstance(value, dict) else value

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it says READY=1 (sd_notify). Raises RuntimeError with its log."""
        self.config_file.write_text(_toml(self.settings))
        socket_path = self.directory / f"{self.name}.notify"
        socket_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_file.open("ab") as log:
            ready.bind(str(socket_path))
            self.process = subprocess.Popen(
                [*self.within, BIN / "shoald", "serve", "--config", self.config_file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_environment(), "NOTIFY_SOCKET": str(socket_path), **(environment or {})},
                start_new_session=True,
            )
            self._wait_ready(ready)

    def _wait_ready(self, ready: socket.socket) -> None:
        ready.settimeout(0.1)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096).split(b"\n"):
                    return
        self.kill()
        raise RuntimeError(f"{self.name} does not start:\n{self.log()[-4000:]}")

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def purge(self) -> None:
        """End it and remove all that it made on the machine."""
        self.kill()
        asyncio.run(compose.purge(config.load(self.config_file, {}, {})))


@dataclass
class Fleet:
    """Daemons, their CA, and a client that knows them: hosts h1, h2..., group `fleet`, which is the default."""

    directory: Path
    ca: KeyPair
    daemons: list[Daemon]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        """The client's."""
        return self.directory / "client" / "config.toml"

    @property
    def first(self) -> Daemon:
        """h1."""
        return self.daemons[0]

    def user(self, name: str, role: Role, days: int = 1) -> tuple[Path, Path]:
        """Certificate and key files of one more user."""
        certificate, key = self.directory / "pki" / f"{name}.pem", self.directory / "pki" / f"{name}-key.pem"
        issue_user(self.ca, name, role, days).save(certificate, key, overwrite=True)
        return certificate, key

    def add_host(self, name: str, address: str, **changes: str) -> None:
        """One more entry of the client's configuration, with the admin's certificate unless `changes` says so."""
        pki = self.directory / "pki"
        self.entries[name] = {
            "address": address,
            "ca": str(pki / "ca.pem"),
            "cert": str(pki / "admin.pem"),
            "key": str(pki / "admin-key.pem"),
            **changes,
        }
        self._write()

    def remove_host(self, name: str) -> None:
        """Forget an entry."""
        self.entries.pop(name, None)
        self._write()

    def _write(self) -> None:
        names = [daemon.name for daemon in self.daemons]
        document: dict[str, Any] = {"default": names, "groups": {"fleet": names}}
        document["hosts"] = self.entries
        self.config_file.parent.mkdir(exist_ok=True)
        self.config_file.write_text(_toml(document))

    def environment(self) -> dict[str, str]:
        """For programs that use this client configuration."""
        return {**_environment(), "SHOAL_CONFIG": str(self.config_file), "HOME": str(self.directory / "client")}

    def command(self, *arguments: str | Path) -> list[str]:
        """The installed `shoal` with these arguments."""
        return [*self.first.within, str(BIN / "shoal"), *map(str, arguments)]

    def shoal(
        self, *arguments: str | Path, code: int | None = 0, stdin: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the installed `shoal`; the exit code must be `code` (None: any)."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
            cwd=self.directory,
        )
        if code is not None:
            assert done.returncode == code, (
                f"shoal {' '.join(map(str, arguments))}: exit code {done.returncode}, not {code}\n"
                f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}\n--- log of {self.first.name}\n"
                f"{self.first.log()[-3000:]}"
            )
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
        """`shoal ... --format json`: its objects."""
        out = self.shoal(*arguments, "--format", "json", code=code).stdout
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    def remove_containers(self) -> None:
        """Remove the containers of all daemons that run."""
        for daemon in self.daemons:
            if daemon.process is not None:
                ids = self.shoal("ps", "-aq", "--no-trunc", "-H", daemon.name).stdout.split()
                if ids:
                    self.shoal("rm", "-f", "-v", "-H", daemon.name, *ids)


@contextmanager
def running_fleet(
    hosts: int = 1, parent: str | Path = "/var/tmp", within: Sequence[str] = (), **settings: Any
) -> Iterator[Fleet]:
    """`hosts` daemons that run, with their data below `parent`. `settings` are keys of the daemon's configuration.

    `within` is a command that runs its arguments elsewhere, by exec (nsenter): daemons and clients are started by it.
    """
    token = secrets.token_hex(2)
    # Not below pytest's own directory: that one is 0700, and user namespaces of containers must pass through.
    directory = Path(tempfile.mkdtemp(prefix=f"shoal-test-{token}-", dir=parent))
    directory.chmod(0o711)
    (directory / "owner").write_text(_identity(os.getpid()))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        fleet = _make(directory, token, hosts, settings)
        for daemon in fleet.daemons:
            daemon.within = tuple(within)
            stack.callback(daemon.purge)
            daemon.start()
        stack.callback(fleet.remove_containers)
        yield fleet


def sweep_abandoned() -> None:
    """Take down fleets whose test session was killed before it could."""
    for directory in Path("/var/tmp").glob("shoal-test-*"):
        owner = directory / "owner"
        if not owner.exists() or owner.read_text() == _identity(int(owner.read_text().split()[0])):
            continue
        for file in directory.glob("h*.toml"):
            _kill_daemon(file)
            asyncio.run(compose.purge(config.load(file, {}, {})))
        shutil.rmtree(directory, ignore_errors=True)


def _identity(pid: int) -> str:
    """The process and its start, which tells it from a later one of the same number; the number if it is gone."""
    with contextlib.suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return str(pid)


def _kill_daemon(config_file: Path) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(config_file) in (entry / "cmdline").read_text().split("\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                until(lambda pid=int(entry.name): not alive(pid), what="its end")


def _make(directory: Path, token: str, hosts: int, settings: Mapping[str, Any]) -> Fleet:
    pki = directory / "pki"
    ca = create_ca("test fleet")
    ca.save(pki / "ca.pem", pki / "ca-key.pem")
    issue_user(ca, "admin", Role.ADMIN).save(pki / "admin.pem", pki / "admin-key.pem")
    second = secrets.randbelow(100) + 100
    subnets = _free_subnets(hosts)
    fleet = Fleet(directory, ca, [])
    for number in range(1, hosts + 1):
        name = f"h{number}"
        issue_host(ca, name, ["127.0.0.1", "localhost"]).save(pki / f"{name}.pem", pki / f"{name}-key.pem")
        run_dir = Path(f"/run/shoal-t{token}{number}")
        daemon = Daemon(
            name,
            directory,
            run_dir,
            {
                "root": str(directory / name),
                "run_dir": str(run_dir),
                "listen": [f"127.0.0.1:{free_port()}"],
                "metrics_listen": f"127.0.0.1:{free_port()}",
                "log_format": "json",
                "log_level": "debug",
                "tls": {
                    "cert": str(pki / f"{name}.pem"),
                    "key": str(pki / f"{name}-key.pem"),
                    "ca": str(pki / "ca.pem"),
                    "deny_list": str(pki / "deny-list"),
                },
                "network": {
                    "bridge": f"sh{token}{number}",
                    "subnet": str(subnets[number - 1]),
                    "nft_table": f"shoal_t{token}{number}",
                    "publish_address": f"127.{second}.{secrets.randbelow(200) + 1}.{number}",
                },
                "runtime": {"cgroup_parent": f"/shoal-t{token}{number}"},
                # Ranges of ids of their own: the start of one is anywhere in 56 blocks, by token and number.
                "userns": {"base": 0x70000000 + (int(token, 16) + number) % 56 * SLOTS * 65536, "slots": SLOTS},
            },
        )
        (pki / "deny-list").touch()
        daemon.configure(**settings)
        fleet.daemons.append(daemon)
        fleet.add_host(name, daemon.address)
    return fleet


def _free_subnets(count: int) -> list[ipaddress.IPv4Network]:
    """Networks of 256 addresses that no route of this machine overlaps."""
    taken = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        _, network, _, _, _, _, _, mask, *_ = line.split()
        bits = int(mask, 16).bit_count()
        if bits:
            address = int.from_bytes(bytes.fromhex(network), "little")
            taken.append(ipaddress.IPv4Network((address, bits), strict=False))
    pool = list(ipaddress.IPv4Network("10.224.0.0/12").subnets(new_prefix=24))
    free = [n for n in random.sample(pool, 64) if not any(n.overlaps(t) for t in taken)]
    return free[:count]


def _environment() -> dict[str, str]:
    kept = ("LANG", "LC_ALL", "SSL_CERT_FILE")
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        **{key: os.environ[key] for key in kept if key in os.environ},
    }


def _toml(document: Mapping[str, Any], at: Sequence[str] = ()) -> str:
    """A TOML text of strings, numbers, lists and tables."""
    plain = [
        f"{json.dumps(key)} = {json.dumps(value)}" for key, value in document.items() if not isinstance(value, dict)
    ]
    text = "\n".join(plain) + "\n"
    for key, value in document.items():
        if isinstance(value, dict):
            path = (*at, json.dumps(key))
            text += f"\n[{'.'.join(path)}]\n" + _toml(value, path)
    return text


def until(condition: Any, seconds: float = 20.0, what: str = "") -> Any:
    """The first true value of `condition()`; AssertionError when there is none for so long."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
