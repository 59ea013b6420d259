"""The engines that are measured, each with storage, sockets and networks of its own, all taken down afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.daemon import Fleet, running_fleet

WAIT_S = 60.0


class Engine(ABC):
    """A container engine: its command line, and its processes."""

    name: str

    def __init__(self, prefix: Sequence[str | Path], environment: dict[str, str]) -> None:
        self._prefix = [str(word) for word in prefix]
        self.environment = environment

    def command(self, *arguments: str) -> list[str]:
        """A command line."""
        return [*self._prefix, *arguments]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run it; its output. Raises RuntimeError."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=600, env=self.environment
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def seconds(self, *arguments: str) -> float:
        """How long a command takes, wall clock; its output is thrown away."""
        command = self.command(*arguments)
        begun = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.environment)
        taken = time.perf_counter() - begun
        if done.returncode != 0:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.stderr.decode()[-800:]}")
        return taken

    run_flags: tuple[str, ...] = ()
    """What `run` needs on this machine."""
    rm_flags: tuple[str, ...] = ()
    """What makes `rm -f` kill at once."""

    def remove_image(self, reference: str) -> None:
        """Remove an image with its content."""
        self.run("rmi", "-f", reference)

    def remove_containers(self) -> None:
        """Remove all containers."""
        ids = self.run("ps", "-aq").split()
        if ids:
            self.run("rm", "-f", *self.rm_flags, *ids)

    @abstractmethod
    def daemon_pids(self) -> list[int]:
        """The processes that are there without any container."""

    @abstractmethod
    def monitor_pids(self) -> list[int]:
        """The processes that are there for containers, besides the containers themselves."""

    @abstractmethod
    def version(self) -> str:
        """For the report."""


class Shoal(Engine):
    """One shoald over mutual TLS on loopback, as a laptop would reach a host."""

    name = "shoal"

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet.command(), fleet.environment())
        self.fleet = fleet

    def daemon_pids(self) -> list[int]:
        return [self.fleet.first.pid]

    def monitor_pids(self) -> list[int]:
        return processes("conmon", str(self.fleet.first.run_dir))

    def version(self) -> str:
        return self.run("version", "--format", "{{.Server.Version}} ({{.Server.Runtime}})").strip()


class Docker(Engine):
    """dockerd with its defaults (bridge, iptables, userland proxy), on its own data root and socket."""

    name = "docker"

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "docker.sock"
        self._directory = directory
        program = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
        super().__init__([program], {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "HOME": str(directory)})

    def daemon_pids(self) -> list[int]:
        return processes("dockerd", str(self._directory)) + processes("containerd", str(self._directory))

    def monitor_pids(self) -> list[int]:
        return processes("containerd-shim-runc-v2", str(self._directory))

    def version(self) -> str:
        return self.run("version", "--format", "{{.Server.Version}}").strip()


class Podman(Engine):
    """Podman as root; it has no daemon."""

    name = "podman"
    rm_flags = ("-t", "0")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        flags: list[str | Path] = [
            "--root",
            directory / "root",
            "--runroot",
            directory / "run",
            "--tmpdir",
            directory / "tmp",
        ]
        flags += ["--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=overlay"]
        super().__init__(["podman", *flags], dict(os.environ))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if 0 <= hard < 1048576:
            # Its default limits are above what may be set here.
            self.run_flags = (f"--ulimit=nofile={hard}:{hard}", "--ulimit=nproc=4096:4096")

    def daemon_pids(self) -> list[int]:
        return []

    def monitor_pids(self) -> list[int]:
        return processes("conmon", str(self._directory))

    def version(self) -> str:
        return self.run("--version").split()[-1]


def processes(program: str, argument: str) -> list[int]:
    """Those of a program that have a text among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if os.path.basename(words[0]) == program and any(argument in word for word in words):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def shoal(directory: Path) -> Iterator[Shoal]:
    """A daemon that runs while the block does."""
    with running_fleet(1, directory, log_level="info") as fleet:
        engine = Shoal(fleet)
        yield engine
        engine.remove_containers()


@contextlib.contextmanager
def docker(directory: Path) -> Iterator[Docker]:
    """A dockerd that runs while the block does; its interface and rules go with it."""
    directory = directory / "docker"
    directory.mkdir()
    engine = Docker(directory)
    (directory / "daemon.json").write_text('{"insecure-registries": ["127.0.0.0/8"]}')
    command = ["dockerd", "--config-file", directory / "daemon.json", "-H", f"unix://{engine.socket}"]
    command += ["--data-root", directory / "data", "--exec-root", directory / "exec", "--pidfile", directory / "pid"]
    command += ["--bip", "10.223.77.1/24"]
    with network_restored("docker0"), (directory / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + WAIT_S
            while subprocess.run(engine.command("version"), capture_output=True, env=engine.environment).returncode:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd does not start: {(directory / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield engine
            engine.remove_containers()
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
            unmount_below(directory)


@contextlib.contextmanager
def podman(directory: Path) -> Iterator[Podman]:
    """Podman's directories; its interface and rules go with them."""
    directory = directory / "podman"
    directory.mkdir()
    engine = Podman(directory)
    with network_restored("podman0", "cni-podman0"):
        try:
            yield engine
        finally:
            engine.run("system", "reset", "--force", check=False)
            unmount_below(directory)


@contextlib.contextmanager
def network_restored(*interfaces: str) -> Iterator[None]:
    """Undo what an engine does to packet filters and interfaces: tables that are new go, those of before come back."""
    before = _tables()
    saved = subprocess.run(["iptables-save"], capture_output=True).stdout if shutil.which("iptables-save") else b""
    try:
        yield
    finally:
        for interface in interfaces:
            subprocess.run(["ip", "link", "delete", interface], capture_output=True)
        if saved.strip():
            subprocess.run(["iptables-restore"], input=saved, capture_output=True)
        for table in _tables() - before:
            if "shoal" not in table:
                subprocess.run(["nft", "delete", *table.split()], capture_output=True)


def _tables() -> set[str]:
    return set(subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines())


def unmount_below(directory: Path) -> None:
    """Unmount all that is mounted below a directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(points, reverse=True):
        if point.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", point], capture_output=True)
