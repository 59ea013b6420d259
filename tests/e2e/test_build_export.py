"""The files of a build's result leave the host without a container, and a client that dies in their midst leaves
nothing there."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

from tests.support.daemon import Fleet, until


def leases(host: Fleet) -> int:
    """How many exports go on."""
    database = sqlite3.connect(f"file:{host.first.root / 'meta.db'}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(*) FROM leases WHERE kind = 'export'").fetchone()[0])
    finally:
        database.close()


def mounts(host: Fleet) -> list[str]:
    """What the daemon has mounted."""
    places = (str(host.first.root), str(host.first.run_dir))
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(places)]


def test_a_client_that_dies_leaves_nothing(host: Fleet, busybox: str, tmp_path: Path) -> None:
    # More than the buffers on the way hold.
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN dd if=/dev/urandom of=/big bs=1M count=96\n")
    host.shoal("build", tmp_path)
    before = mounts(host)
    command = host.command("build", "-o", "-", tmp_path)
    with subprocess.Popen(command, env=host.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert len(client.stdout.read(1 << 20)) == 1 << 20
        assert leases(host) == 1
        assert len(mounts(host)) == len(before) + 1
        client.kill()
    until(lambda: leases(host) == 0 and mounts(host) == before, 30, "the export is over")
    assert host.shoal("ps", "-aq").stdout == ""
    assert not list((host.first.root / "containers").iterdir())
