"""Row 1: a container never writes into the programs that the host runs for it (CVE-2019-5736)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.security.lab import Lab, compiled
from tests.support.layers import Entry, File, Symlink

ENTRYPOINTS: dict[str, dict[str, Any]] = {
    "direct": {"Entrypoint": ["/proc/self/exe"]},
    "script": {"Entrypoint": ["/script"]},
    "link": {"Entrypoint": ["/link"]},
    "first": {"Entrypoint": ["/proc/1/exe", "--version"]},
    "descriptor": {"Entrypoint": ["/proc/self/fd/4"]},
}


def _libraries(program: Path) -> dict[str, Entry]:
    """What a dynamic program needs to be executed in the image."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    return {path.lstrip("/"): File(Path(path).read_bytes(), 0o755) for path in paths}


@pytest.mark.parametrize("form", ENTRYPOINTS)
def test_image_that_executes_the_runtime(lab: Lab, userns: tuple[str, ...], form: str, tmp_path: Path) -> None:
    before = lab.digests()
    layer: dict[str, Entry] = {
        **_libraries(lab.runtime),
        "evil.so": File(compiled("overwrite.c", tmp_path / "evil.so", "-shared", "-fPIC"), 0o755),
        "writer": File(compiled("overwrite.c", tmp_path / "writer", "-static", "-DWRITER"), 0o755),
        "script": File(b"#!/proc/self/exe\n", 0o755),
        "link": Symlink("/proc/self/exe"),
    }
    image = lab.image(layer, config={**ENTRYPOINTS[form], "Cmd": None, "Env": ["LD_PRELOAD=/evil.so"]})
    done = lab.run(image, options=userns, timeout=90)
    assert lab.digests() == before
    assert "WROTE" not in done.stdout, done.stdout
    assert done.returncode != 66
    if form != "descriptor":
        # The attack came as far as it can: its code ran in place of the runtime, and was refused.
        assert "refused /proc/self/fd/" in done.stdout, (done.stdout, done.stderr)


def test_program_of_init_is_read_only(lab: Lab, userns: tuple[str, ...], tmp_path: Path) -> None:
    """`--init` binds a program of the host into the container."""
    before = lab.digests()
    layer: dict[str, Entry] = {"writer": File(compiled("overwrite.c", tmp_path / "w", "-static", "-DWRITER"), 0o755)}
    script = (
        "chmod 777 /dev/init; echo x > /dev/init; rm /dev/init; mount -o remount,rw /dev/init; "
        "/writer /proc/1/exe /dev/init"
    )
    done = lab.run(lab.image(layer), "sh", "-c", script, options=("--init", *userns))
    assert lab.digests() == before
    assert done.stdout.count("refused") == 2, (done.stdout, done.stderr)


def test_files_of_the_host_in_etc_belong_to_the_container_alone(lab: Lab, busybox: str) -> None:
    """What it writes into /etc/hosts is its own: another container, and the host, see nothing of it."""
    before = Path("/etc/hosts").read_bytes(), Path("/etc/resolv.conf").read_bytes()
    for network in ("host", "bridge"):
        lab.sh(busybox, "for f in hosts hostname resolv.conf; do echo evil >> /etc/$f; done", "--network", network)
        assert "evil" not in lab.sh(busybox, "cat /etc/hosts /etc/hostname /etc/resolv.conf", "--network", network)
    assert (Path("/etc/hosts").read_bytes(), Path("/etc/resolv.conf").read_bytes()) == before
