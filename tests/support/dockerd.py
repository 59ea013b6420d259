"""A real dockerd for comparisons, without bridge and iptables, so that it leaves the host's network alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCKER = next((p for p in ("/usr/bin/docker", "/usr/local/bin/docker") if os.access(p, os.X_OK)), "docker")


def dockerd_path() -> str | None:
    """The daemon's program; None where Docker is not installed."""
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Dockerd:
    """A running one."""

    directory: Path

    @property
    def socket(self) -> str:
        """Its address."""
        return f"unix://{self.directory}/docker.sock"

    def docker(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[bytes]:
        """Run the docker command."""
        done = subprocess.run(
            [DOCKER, *arguments],
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "DOCKER_HOST": self.socket, "DOCKER_BUILDKIT": "1", "HOME": str(self.directory)},
        )
        if check:
            assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')}"
        return done


@contextlib.contextmanager
def running_dockerd() -> Iterator[Dockerd]:
    """Start it and wait until it answers; afterwards all of it is gone."""
    program = dockerd_path()
    assert program is not None
    directory = Path(tempfile.mkdtemp(prefix="shoal-dockerd-", dir="/var/tmp"))
    (directory / "daemon.json").write_text(json.dumps({"insecure-registries": ["127.0.0.0/8"]}))
    docker = Dockerd(directory)
    command = [program, "--config-file", "daemon.json", "--bridge=none", "--iptables=false", "-H", docker.socket]
    command += ["--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")]
    command += ["--pidfile", str(directory / "pid")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while docker.docker("version", check=False).returncode != 0:
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.2)
            yield docker
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            subprocess.run(f"grep -o ' {directory}[^ ]*' /proc/mounts | xargs -r umount -l", shell=True)
            shutil.rmtree(directory, ignore_errors=True)
            _remove_cgroups()


def _remove_cgroups() -> None:
    """dockerd leaves the parents of its containers' groups."""
    for path in Path("/sys/fs/cgroup").glob("*/docker"):
        with contextlib.suppress(OSError):
            for child in path.iterdir():
                if child.is_dir():
                    child.rmdir()
            path.rmdir()
    with contextlib.suppress(OSError):
        Path("/sys/fs/cgroup/docker").rmdir()
