"""Row 2: no way from a working directory into what the runtime holds open (CVE-2024-21626, CVE-2024-23651's kin)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import grpc
import pytest

from shoal.v1 import container_pb2 as pb
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from tests.e2e.security.building import Builder
from tests.e2e.security.lab import Lab, refusal
from tests.support.layers import Symlink

DIRECT = [
    *(f"/proc/self/fd/{n}" for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 64, 1023)),
    "//proc//self/./fd/8",
    "/tmp/../proc/self/fd/9",
    "/proc/1/fd/7",
    "/proc/thread-self/fd/7",
    "/proc/self/task/1/fd/7",
    "/proc/self/cwd",
    "/proc/self/root",
    "/proc/1/cwd",
    "/proc/self/map_files",
    "/dev/fd/7",
    "/dev/stdin",
]
LINKED = {
    "descriptor": "/proc/self/fd/7",
    "process": "/proc/self",
    "proc": "/proc",
    "relative": "../../proc/self/fd/8",
    "chain": "/hop1",
    "dev": "/dev/fd",
}
THROUGH = {
    "descriptor": "/evil",
    "process": "/evil/fd/7",
    "proc": "/evil/self/fd/7",
    "relative": "/evil",
    "chain": "/evil",
    "dev": "/evil/7",
}
LOOK = """
ls -l /proc/$$/fd
echo cwd $(readlink /proc/self/cwd)
cd /proc/self/cwd/../../../../../.. && echo top $(ls -id . | cut -d' ' -f1) $(ls -id / | cut -d' ' -f1)
"""


def _stdio_only(output: str, cwd: str = "/") -> None:
    lines = output.replace("\r", "").split("\n")
    found = {match[1]: match[2] for line in lines if (match := re.search(r" (\d+) -> (.*)", line))}
    assert set(found) == {"0", "1", "2"}, found
    for target in found.values():
        assert re.fullmatch(r"/dev/null|pipe:\[\d+\]|/dev/pts/0|/dev/console|/0|", target), found
    assert f"cwd {cwd}" in lines
    (top,) = (line.split() for line in lines if line.startswith("top"))
    assert top[1] == top[2], "another root than the container's"


@pytest.mark.parametrize(
    "options", [(), ("-i",), ("--init",), ("--network", "host"), ("-v", "/var/tmp:/mnt:ro"), ("-w", "/tmp")]
)
def test_first_process_has_its_standard_streams_alone(
    lab: Lab, userns: tuple[str, ...], options: tuple[str, ...], busybox: str
) -> None:
    _stdio_only(lab.sh(busybox, LOOK, *userns, *options), "/tmp" if "-w" in options else "/")


@pytest.mark.parametrize("options", [("-d",), ("-d", "-t"), ("-d", "-i", "-t")])
def test_in_the_background_and_with_a_terminal_too(lab: Lab, options: tuple[str, ...], busybox: str) -> None:
    name = lab.fleet.shoal("run", "-q", *options, busybox, "sh", "-c", LOOK).stdout.strip()
    try:
        lab.fleet.shoal("wait", name)
        _stdio_only(lab.fleet.shoal("logs", name).stdout)
    finally:
        lab.fleet.shoal("rm", "-f", name)


@pytest.mark.parametrize("path", DIRECT)
def test_working_directory_asked_for(host: Lab, path: str, busybox: str) -> None:
    assert "working directory" in refusal(host.run(busybox, "cat", "../../../../etc/shadow", options=("-w", path)))


@pytest.mark.parametrize("path", DIRECT)
def test_working_directory_of_an_image(host: Lab, path: str) -> None:
    image = host.image(config={"WorkingDir": path})
    assert "working directory" in refusal(host.run(image, "ls", "../../.."))


@pytest.mark.parametrize("name", LINKED)
def test_working_directory_through_a_link(lab: Lab, userns: tuple[str, ...], name: str) -> None:
    layer = {"evil": Symlink(LINKED[name]), "hop1": Symlink("hop2/fd/7"), "hop2": Symlink("/proc/self")}
    image = lab.image(layer, config={"WorkingDir": THROUGH[name]})
    assert "working directory" in refusal(lab.run(image, "ls", "../../..", options=userns))


def test_working_directory_through_a_link_in_a_volume(lab: Lab, tmp_path: Path, busybox: str) -> None:
    (tmp_path / "evil").symlink_to("/proc/self/fd/7")
    for mount in (f"{tmp_path}:/mnt", f"{tmp_path}:/mnt:ro"):
        done = lab.run(busybox, "ls", options=("-v", mount, "-w", "/mnt/evil"))
        assert "working directory" in refusal(done)
    try:
        lab.sh(busybox, "ln -s /proc/self/fd/8 /mnt/evil", "-v", "planted:/mnt")
        assert "working directory" in refusal(lab.run(busybox, "ls", options=("-v", "planted:/mnt", "-w", "/mnt/evil")))
    finally:
        lab.fleet.shoal("volume", "rm", "planted", code=None)


async def test_every_descriptor_number_is_refused(host: Lab, busybox: str) -> None:
    """All of 3..1023, over the API."""
    numbers = iter(range(3, 1024))
    refused: dict[int, str] = {}
    async with grpc.aio.insecure_channel(f"unix:{host.fleet.first.run_dir}/api/shoald.sock") as channel:
        stub = ContainerServiceStub(channel)

        async def ask() -> None:
            for number in numbers:
                spec = pb.ContainerSpec(image=busybox, working_dir=f"/proc/self/fd/{number}", command=["true"])
                try:
                    await stub.Run(pb.ContainerServiceRunRequest(spec=spec))
                except grpc.aio.AioRpcError as error:
                    refused[number] = f"{error.code().name} {error.details()}"

        host.fleet.shoal("pull", "-q", busybox)
        await asyncio.gather(*(ask() for _ in range(4)))
    assert sorted(refused) == list(range(3, 1024))
    assert all(text.startswith("INVALID_ARGUMENT") and "working directory" in text for text in refused.values())


@pytest.mark.parametrize("path", ["/proc/self/fd/7", "/proc/self/cwd", "/evil"])
def test_working_directory_of_a_build(builder: Builder, path: str, busybox: str) -> None:
    dockerfile = f"FROM {busybox}\nRUN ln -s /proc/self/fd/8 /evil\nWORKDIR {path}\nRUN ls ../../../../etc > /seen\n"
    done = builder.build(dockerfile, code=None)
    assert done.returncode != 0, done.stdout
    assert re.search(r"working directory|leads nowhere|not allowed", done.stderr), done.stderr


def test_step_of_a_build_has_its_standard_streams_alone(builder: Builder, busybox: str) -> None:
    _stdio_only(builder.step(busybox, LOOK))
