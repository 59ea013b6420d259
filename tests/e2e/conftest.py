"""A registry for the session, and daemons for the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.daemon import Fleet, running_fleet
from tests.support.docker_registry import DockerRegistry, docker_registry
from tests.support.images import push_image_sync


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here start real daemons; without root they can't."""
    for item in items:
        if "/tests/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def registry() -> Iterator[DockerRegistry]:
    """A real registry on loopback that holds busybox:latest."""
    with docker_registry() as running:
        push_image_sync(running.address, "busybox:latest")
        yield running


@pytest.fixture(scope="session")
def busybox(registry: DockerRegistry) -> str:
    """The reference of a small image."""
    return f"{registry.address}/busybox:latest"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts, for the tests of a module: each test cleans up after itself."""
    with running_fleet(2) as running:
        yield running


@pytest.fixture(scope="module")
def host() -> Iterator[Fleet]:
    """One host, for the tests of a module."""
    with running_fleet(1) as running:
        yield running
