"""A real firewalld in a network namespace of its own, with a bus of its own: the machine's rules are not touched.

Beside it is another namespace, "outside", that a link connects with it: where strangers and the world are.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.daemon import until

HOST_ADDRESS, OUTSIDE_ADDRESS = "198.51.100.1", "198.51.100.2"
ANSWER = "this-is-outside"

_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
<allow send_type="method_call"/><allow send_type="signal"/></policy></busconfig>
"""
_ANSWERING = """\
import socket
server = socket.create_server(("", 80))
while True:
    with server.accept()[0] as connection:
        connection.sendall(b"this-is-outside")
"""


def missing() -> str:
    """The program that is not installed; "" when all are."""
    return next((name for name in ("firewalld", "firewall-cmd", "dbus-daemon") if shutil.which(name) is None), "")


@dataclass
class Firewalld:
    """It runs. `within` and `outside` start a program in one of the namespaces."""

    directory: Path
    token: str
    process: subprocess.Popen[bytes] | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def _bus(self) -> str:
        return f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={self.directory / 'bus'}"

    @property
    def within(self) -> list[str]:
        """For the host that firewalld guards."""
        return ["nsenter", f"--net=/run/netns/shoal-fw-{self.token}", "env", self._bus]

    @property
    def outside(self) -> list[str]:
        """For the stranger's side."""
        return ["nsenter", f"--net=/run/netns/shoal-fo-{self.token}"]

    def start(self) -> None:
        """Start it and wait until it answers."""
        system = self.directory / "etc"
        system.mkdir(exist_ok=True)
        default = Path("/etc/firewalld/firewalld.conf").read_text()
        (system / "firewalld.conf").write_text(default + "".join(f"{k}={v}\n" for k, v in self.options.items()))
        with (self.directory / "firewalld.log").open("ab") as log:
            argv = ["firewalld", "--nofork", "--nopid", f"--system-config={system}"]
            self.process = subprocess.Popen(
                [*self.within, *argv, f"--log-file={self.directory / 'own.log'}"], stdout=log, stderr=log
            )
        until(lambda: self.command("--state", check=False) == "running", what="firewalld")

    def stop(self) -> None:
        """SIGTERM: it removes its rules."""
        _end(self.process)

    def command(self, *arguments: str, check: bool = True) -> str:
        """`firewall-cmd`: what it prints."""
        argv = [*self.within, "firewall-cmd", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def nft(self, *arguments: str) -> str:
        """`nft` in its namespace: what it prints."""
        return subprocess.run([*self.within, "nft", *arguments], capture_output=True, text=True, check=True).stdout

    def stranger_hears(self, address: str, port: int, seconds: float = 1.0) -> str:
        """What a connection from outside brings; "" when there is none."""
        return _hears([*self.outside], address, port, seconds)

    def host_hears(self, address: str, port: int, seconds: float = 1.0) -> str:
        """The same from the host itself."""
        return _hears([*self.within], address, port, seconds)


def _hears(within: list[str], address: str, port: int, seconds: float) -> str:
    program = (
        "import socket, sys\n"
        f"with socket.create_connection(({address!r}, {port}), {seconds}) as c:\n"
        "    print(c.recv(100).decode())"
    )
    done = subprocess.run([*within, "python3", "-c", program], capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


@contextmanager
def running_firewalld(**options: str) -> Iterator[Firewalld]:
    """`options` are those of firewalld.conf(5)."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-fw-"))
    fw = Firewalld(directory, secrets.token_hex(2), options=options)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        for name in (f"shoal-fw-{fw.token}", f"shoal-fo-{fw.token}"):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        _connect(fw)
        (directory / "bus.conf").write_text(_BUS.format(path=directory / "bus"))
        bus = subprocess.Popen(
            ["dbus-daemon", f"--config-file={directory / 'bus.conf'}", "--nofork", "--nopidfile", "--nosyslog"],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(_end, bus)
        until((directory / "bus").exists, what="the bus")
        world = subprocess.Popen([*fw.outside, "python3", "-c", _ANSWERING])
        stack.callback(_end, world)
        stack.callback(fw.stop)
        fw.start()
        yield fw


def _connect(fw: Firewalld) -> None:
    """A link between the two, with an address each, and the host's default route over it."""
    ours, theirs = f"shoal-fw-{fw.token}", f"shoal-fo-{fw.token}"
    _ip("-n", ours, "link", "add", "outer0", "type", "veth", "peer", "name", "outer0", "netns", theirs)
    for name, address in ((ours, HOST_ADDRESS), (theirs, OUTSIDE_ADDRESS)):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "outer0")
        for link in ("lo", "outer0"):
            _ip("-n", name, "link", "set", link, "up")
    _ip("-n", ours, "route", "add", "default", "via", OUTSIDE_ADDRESS)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
        process.kill()
        process.wait()
