"""Daemons for the attacks, one with crun and one with runc, and what must hold after each attack."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import shoald.main
from tests.e2e.security.building import Builder
from tests.e2e.security.lab import Lab
from tests.support.daemon import running_fleet, until
from tests.support.docker_registry import DockerRegistry
from tests.support.unpacked import tree

INIT = "catatonit"


@pytest.fixture(scope="session")
def make_lab(registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lab]]:
    """The lab with a runtime, made when it is first asked for."""
    labs: dict[str, Lab] = {}
    with ExitStack() as stack:

        def make(runtime: str) -> Lab:
            if runtime not in labs:
                labs[runtime] = _lab(stack, registry, tmp_path_factory.mktemp(runtime), runtime)
            return labs[runtime]

        yield make


def _lab(stack: ExitStack, registry: DockerRegistry, directory: Path, runtime: str) -> Lab:
    copies = {name: directory / name for name in (runtime, "conmon", INIT)}
    for name, copy in copies.items():
        found = shutil.which(name) or shutil.which(name, path="/usr/libexec/podman")
        assert found is not None, f"{name} is not installed"
        shutil.copy(found, copy)
    settings = {"name": str(copies[runtime]), "conmon": str(copies["conmon"]), "init_path": str(copies[INIT])}
    fleet = stack.enter_context(running_fleet(1, runtime=settings))
    own = (Path(sys.executable).resolve(), Path(shoald.main.__file__), Path(sys.executable).parent / "shoald")
    return Lab(fleet, registry, copies[runtime], (*copies.values(), *own))


@pytest.fixture(params=["crun", "runc"])
def lab(request: pytest.FixtureRequest, make_lab: Callable[[str], Lab]) -> Iterator[Lab]:
    """Each runtime in turn; afterwards no container is left."""
    made = make_lab(request.param)
    yield made
    until(lambda: not made.bundles(), what="bundles of removed containers are gone")


@pytest.fixture
def host(make_lab: Callable[[str], Lab]) -> Iterator[Lab]:
    """For what does not depend on the runtime."""
    made = make_lab("crun")
    yield made
    until(lambda: not made.bundles(), what="bundles of removed containers are gone")


@pytest.fixture(params=[(), ("--userns", "host")], ids=["userns", "userns-host"])
def userns(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options of `run`: with a user namespace and without."""
    options: tuple[str, ...] = request.param
    return options


@pytest.fixture
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of the host that every attack aims at; it must be the same afterwards."""
    directory = Path("/var/tmp") / f"shoal-canary-{tmp_path_factory.getbasetemp().name}"
    directory.mkdir(mode=0o755)
    try:
        (directory / "file").write_text("sings\n")
        (directory / "dir").mkdir()
        before = tree(directory)
        yield directory
        assert tree(directory) == before
    finally:
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def the_hosts_devices_stay() -> Iterator[None]:
    """Nobody but root owns the host's /dev/null and its like (during a creation it may be lent)."""
    yield
    until(lambda: all(_own(Path("/dev", name)) for name in ("null", "zero", "full", "random", "urandom", "tty")))


def _own(device: Path) -> bool:
    found = device.lstat()
    return (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o666)


@pytest.fixture
def builder(lab: Lab, tmp_path: Path, busybox: str) -> Builder:
    """Builds with each runtime."""
    return Builder(lab, tmp_path)
