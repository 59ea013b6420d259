"""A real systemd-journald in a mount namespace of its own, with a volatile journal: the machine's is not touched."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon import until

PROGRAM = Path("/lib/systemd/systemd-journald")
_SCRIPT = f"""\
set -e
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /run/log
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
cat > /run/systemd/journald.conf.d/test.conf <<END
[Journal]
Storage=volatile
Audit=no
ReadKMsg=no
RateLimitBurst=0
ForwardToSyslog=no
ForwardToConsole=no
ForwardToWall=no
END
exec {PROGRAM}
"""


@dataclass(frozen=True)
class Journald:
    """It runs; programs see its journal when they are started through `within`."""

    pid: int

    @property
    def within(self) -> list[str]:
        """Starts a program in its namespace."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--"]

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """What journalctl finds, with all fields."""
        argv = [*self.within, "journalctl", "--quiet", "--no-pager", "--all", "--output=json", *matches]
        out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def running_journald() -> Iterator[Journald]:
    """While the block runs."""
    made = [path for path in (Path("/run/systemd"), Path("/run/log")) if not path.exists()]
    for path in made:
        path.mkdir()
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        journald = Journald(process.pid)
        # Through /proc: before it has a namespace of its own, it sees no such socket.
        until(lambda: _answers(journald, process), what="systemd-journald")
        yield journald
    finally:
        process.terminate()
        process.communicate(timeout=10)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _answers(journald: Journald, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        assert process.stderr is not None
        raise RuntimeError(f"systemd-journald does not start: {process.stderr.read().decode()}")
    return Path(f"/proc/{process.pid}/root/run/systemd/journal/socket").exists() and (
        subprocess.run([*journald.within, "journalctl", "--sync"], capture_output=True).returncode == 0
    )
