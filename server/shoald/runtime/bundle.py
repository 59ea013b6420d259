"""Files of a container in the run directory, written by conmon and by us."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.errors import InvalidArgument

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")


class Monitored(Struct, frozen=True):
    """What we note of a container that was created: each process with its start time (field 22 of /proc/PID/stat)."""

    pid: int
    start_time: int
    monitor_pid: int
    monitor_start_time: int
    cgroup_path: str
    stdin_open: bool
    terminal: bool
    poststop: bool = False
    """It has hooks that run when it is deleted."""


class _Linux(Struct, frozen=True, rename="camel"):
    cgroups_path: str = ""


class _Process(Struct, frozen=True):
    args: tuple[str, ...] = ("",)
    cwd: str = "/"


class Configured(Struct, frozen=True):
    """The part of config.json that is of interest afterwards."""

    linux: _Linux = _Linux()
    process: _Process = _Process()


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """`<run_dir>`: one directory a container, `exits/` for conmon, `oci/` for the OCI runtime's own state."""

    path: Path

    @property
    def exits(self) -> Path:
        """conmon's --exit-dir: files named by container id, holding the exit code."""
        return self.path / "exits"

    @property
    def runtime_root(self) -> Path:
        """The OCI runtime's --root."""
        return self.path / "oci"

    @property
    def terminals(self) -> Path:
        """For the short-lived sockets that hand over terminals."""
        return self.path / "tty"

    def prepare(self) -> None:
        """Make the directories that all containers share (0700)."""
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        for directory in (self.exits, self.runtime_root, self.terminals):
            directory.mkdir(mode=0o700, exist_ok=True)

    def containers(self) -> list[ContainerFiles]:
        """All containers that have a directory."""
        shared = {self.exits.name, self.runtime_root.name, self.terminals.name}
        names = [entry.name for entry in self.path.iterdir() if entry.is_dir() and entry.name not in shared]
        return [self.container(name) for name in names if _ID.fullmatch(name)]

    def container(self, container_id: str) -> ContainerFiles:
        """The files of one container. Raises InvalidArgument (INVALID_ID) for an id that can't be a file name."""
        if _ID.fullmatch(container_id) is None:
            raise InvalidArgument(f"bad container id {container_id!r}", reason="INVALID_ID")
        return ContainerFiles(container_id, self.path / container_id, self.exits / container_id)


@dataclass(frozen=True, slots=True)
class ContainerFiles:
    """Paths of one container."""

    container_id: str
    directory: Path
    exit_file: Path

    @property
    def rootfs(self) -> Path:
        """The mount point of the root file system."""
        return self.directory / "rootfs"

    @property
    def pid_file(self) -> Path:
        """Written by the OCI runtime: pid of the first process."""
        return self.directory / "pidfile"

    @property
    def monitor_pid_file(self) -> Path:
        """Written by conmon: its own pid."""
        return self.directory / "conmon.pid"

    @property
    def runtime_log(self) -> Path:
        """Errors of the OCI runtime, one JSON object a line."""
        return self.directory / "oci.log"

    @property
    def hooks_log(self) -> Path:
        """What crun's hooks wrote."""
        return self.directory / "hooks.log"

    def make(self) -> None:
        """Make the directory (0711: a user namespace must pass through it) and the mount point."""
        self.directory.mkdir(mode=0o711, exist_ok=True)
        self.rootfs.mkdir(mode=0o755, exist_ok=True)

    def write_config(self, config: object, reader: int = 0) -> None:
        """Write config.json; `reader`: a group that may read it. The run directory is a tmpfs: nothing to sync."""
        # 0600: the environment may hold secrets.
        fd = os.open(self.directory / "config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(config))
            if reader:
                os.fchown(fd, 0, reader)
                os.fchmod(fd, 0o640)

    def configured(self) -> Configured:
        """What config.json says, whoever wrote it; empty without one."""
        try:
            return msgspec.json.decode((self.directory / "config.json").read_bytes(), type=Configured)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return Configured()

    def write_monitored(self, monitored: Monitored) -> None:
        """Note what was created, atomically."""
        temporary = self.directory / "monitored.new"
        temporary.write_bytes(msgspec.json.encode(monitored))
        temporary.replace(self.directory / "monitored")

    def monitored(self) -> Monitored | None:
        """What was noted; None when nothing was."""
        try:
            return msgspec.json.decode((self.directory / "monitored").read_bytes(), type=Monitored)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def write_exit(self, exit_code: int) -> None:
        """Write the exit file as conmon does: a temporary file, then a rename."""
        temporary = self.exit_file.with_name(f".{self.container_id}")
        temporary.write_text(str(exit_code))
        temporary.replace(self.exit_file)

    def oom_seen(self) -> bool:
        """True when conmon noticed that the kernel killed for lack of memory."""
        return (self.directory / "oom").exists()

    def monitor_pid(self) -> int | None:
        """conmon's pid as it wrote it; None before that."""
        try:
            return int(self.monitor_pid_file.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def clear(self) -> None:
        """Remove every file of an earlier run; the mount point stays."""
        self.exit_file.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)

    def remove(self) -> None:
        """`clear`, then the directories, unless something is mounted on rootfs. Never descends into rootfs."""
        self.clear()
        for directory in (self.rootfs, self.directory):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return
