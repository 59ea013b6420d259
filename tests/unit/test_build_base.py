"""Which image a build starts from, and who gets the credentials of a build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument, NotFound
from shoal.platform import Platform
from shoal.v1 import image_pb2, types_pb2
from shoald.api.codec_image import build_request_of
from shoald.engine.build import find_base
from shoald.metadata import Metadata
from shoald.model.build import BuildRequest
from shoald.model.image import Image, RegistryCredentials
from tests.support import records

LINUX = Platform("linux", "amd64")
LOGIN = RegistryCredentials("ada", "secret", registry="r.test:5000")
PULLED = records.image("pulled")


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


def _same(name: str, image: Image, platform: Platform) -> Image:
    return image


class Pull:
    """Notes what is pulled, and with which credentials."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, RegistryCredentials | None]] = []

    async def __call__(
        self, reference: str, platform: Platform, credentials: RegistryCredentials | None, emit: object, *, tagged: bool
    ) -> Image:
        self.calls.append((reference, credentials))
        return PULLED


async def _find(md: Metadata, pull: Pull, reference: str, credentials: RegistryCredentials | None = None) -> Image:
    request = BuildRequest(dockerfile=b"FROM x", credentials=credentials)
    return await find_base(md, _same, pull, reference, LINUX, request, lambda _: None)


@pytest.mark.parametrize(
    ("reference", "sent"),
    [
        ("r.test:5000/a/b:1", True),
        ("r.test/a/b:1", False),
        ("r.test:5001/a/b:1", False),
        ("busybox", False),
        ("evil.example/r.test:5000", False),
    ],
)
async def test_credentials_go_to_their_registry_only(md: Metadata, reference: str, sent: bool) -> None:
    pull = Pull()
    assert await _find(md, pull, reference, LOGIN) == PULLED
    assert pull.calls == [(reference, LOGIN if sent else None)]


async def test_a_name_is_no_prefix_of_an_id(md: Metadata) -> None:
    there = records.image("there")
    md.images.put(there, [])
    pull = Pull()
    digits = there.id.removeprefix("sha256:")
    for name in (digits[:1], digits[:12], f"sha256:{digits[:12]}"):
        assert await _find(md, pull, name) == PULLED
    assert (await _find(md, pull, there.id)).id == there.id


async def test_a_name_is_found_as_docker_shortens_it(md: Metadata) -> None:
    there = records.image("there")
    md.images.put(there, [])
    digest = f"r.test/a@{there.manifest_digest}"
    md.images.tag("docker.io/library/busybox:latest", there.id)
    md.images.add_repo_digest(digest, there.id)
    for name in ("busybox", "docker.io/library/busybox:latest", digest, digest.replace("@", ":1@")):
        assert (await _find(md, Pull(), name)).id == there.id


def test_a_build_must_say_whose_its_credentials_are() -> None:
    start = image_pb2.ImageServiceBuildRequest.Start(dockerfile=b"FROM x")
    start.credentials.CopyFrom(types_pb2.RegistryCredentials(username="ada", password="secret"))
    with pytest.raises(InvalidArgument) as caught:
        build_request_of(start)
    assert caught.value.metadata["field"] == "credentials.registry"
    start.credentials.registry = "r.test:5000"
    assert build_request_of(start).credentials == LOGIN


async def test_nothing_is_pulled_where_it_must_be_local(md: Metadata) -> None:
    pull = Pull()
    request = BuildRequest(dockerfile=b"FROM x")
    with pytest.raises(NotFound):
        await find_base(md, _same, pull, "busybox", LINUX, request, lambda _: None, local=True)
    assert pull.calls == []
