"""Names of images as Docker has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.digest import Digest
from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoald.images.removal import prune_images, remove_image, tag_image
from shoald.metadata import HoldKind, Metadata
from shoald.model.container import ContainerState
from shoald.model.image import IndexRecord
from tests.support import records

A1, A2, B1 = "r.test/a:1", "r.test/a:2", "docker.io/library/b:1"
DIGEST_A = f"r.test/a@{Digest.of(b'a')}"


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


def _image(md: Metadata, *names: str, seed: str = "i") -> str:
    image = records.image(seed)
    md.images.put(image, [])
    for name in names:
        if "@" in name:
            md.images.add_repo_digest(name, image.id)
        else:
            md.images.tag(name, image.id)
    return image.id


def test_one_name_of_two(md: Metadata) -> None:
    image = _image(md, A1, A2, DIGEST_A)
    assert remove_image(md, A1, False) == ([A1], [])
    assert remove_image(md, A2, False) == ([A2, DIGEST_A], [image])


def test_digests_of_a_repository_go_with_its_last_tag(md: Metadata) -> None:
    image = _image(md, A1, B1, DIGEST_A)
    assert remove_image(md, A1, False) == ([A1, DIGEST_A], [])
    assert remove_image(md, "b:1", False) == ([B1], [image])


def _index(md: Metadata, name: str, *images: str) -> IndexRecord:
    index = IndexRecord(records.sha(name + "".join(images)), "index", 1, images[0], images)
    md.indexes.put(index, [index.digest, records.sha("attestation")], [name])
    return index


def test_the_images_of_an_index_go_with_its_last_name(md: Metadata) -> None:
    here, other = _image(md, seed="here"), _image(md, seed="other")
    index = _index(md, A1, here, other)
    found = md.images.get(other)
    assert found is not None
    assert (found.tags, found.part_of) == ((), (A1,))
    tag_image(md, A1, A2)
    assert md.indexes.names(index.digest) == [A1, A2]
    assert md.references.has_blob(records.sha("attestation"))
    assert remove_image(md, A1, False) == ([A1], [])
    assert md.indexes.named(A2) == index
    assert remove_image(md, A2, False) == ([A2], [here, other])
    assert md.indexes.get(index.digest) is None
    assert not md.references.has_blob(records.sha("attestation"))


def test_of_an_index_that_goes_what_has_names_or_containers_stays(md: Metadata) -> None:
    here, named, used = _image(md, seed="here"), _image(md, B1, seed="named"), _image(md, seed="used")
    md.containers.insert(records.container(image_id=used))
    _index(md, A1, here, named, used)
    assert remove_image(md, A1, False) == ([A1], [here])
    assert [md.images.get(each) is not None for each in (named, used)] == [True, True]


def test_a_part_of_an_index_is_removed_by_force_only(md: Metadata) -> None:
    here, other = _image(md, seed="here"), _image(md, seed="other")
    index = _index(md, A1, here, other)
    with pytest.raises(FailedPrecondition, match=r"is part of r\.test/a:1"):
        remove_image(md, other, False)
    assert remove_image(md, other, True) == ([], [other])
    assert md.indexes.get(index.digest) is None
    assert md.images.find(A1).id == here


def test_an_image_of_two_indexes_stays_for_the_other(md: Metadata) -> None:
    here, other, third = (_image(md, seed=seed) for seed in ("here", "other", "third"))
    _index(md, A1, here, other)
    second = _index(md, A2, third, here)
    assert remove_image(md, A1, False) == ([A1], [other])
    assert md.indexes.named(A2) == second
    assert md.images.get(here) is not None


def test_a_name_that_moves_is_no_index_any_more(md: Metadata) -> None:
    here, other, new = _image(md, seed="here"), _image(md, seed="other"), _image(md, seed="new")
    index = _index(md, A1, here, other)
    md.images.tag(A1, new)
    assert (md.indexes.named(A1), md.indexes.get(index.digest)) == (None, None)
    assert md.images.find(A1).id == new
    assert md.images.get(other) is not None


def test_an_index_of_an_image_that_is_gone_is_refused(md: Metadata) -> None:
    here = _image(md, seed="here")
    with pytest.raises(NotFound):
        _index(md, A1, here, records.sha("nothing"))
    assert md.indexes.named(A1) is None
    with pytest.raises(NotFound):
        md.images.find(A1)


def test_by_the_digest_of_an_index(md: Metadata) -> None:
    here, other = _image(md, A2, seed="here"), _image(md, seed="other")
    index = _index(md, A1, here, other)
    md.images.add_repo_digest(DIGEST_A, here)
    assert remove_image(md, index.digest, False) == ([A1], [other])
    assert md.indexes.get(index.digest) is None
    assert md.images.find(A2).tags == (A2,)
    with pytest.raises(NotFound):
        md.images.find(A1)


def test_by_the_digest_of_an_index_without_names(md: Metadata) -> None:
    here, other = _image(md, seed="here"), _image(md, seed="other")
    index = IndexRecord(records.sha("nameless"), "index", 1, here, (here, other))
    md.indexes.put(index, [index.digest], [])
    container = records.container(image_id=here, state=ContainerState.RUNNING)
    md.containers.insert(container)
    with pytest.raises(FailedPrecondition, match="is used by the running container"):
        remove_image(md, index.digest, True)
    assert md.indexes.get(index.digest) == index
    md.containers.delete(container.id)
    assert remove_image(md, index.digest, False) == ([], [here, other])


def test_an_index_with_names_in_two_repositories(md: Metadata) -> None:
    here, other = _image(md, seed="here"), _image(md, seed="other")
    index = _index(md, A1, here, other)
    md.indexes.name(B1, index.digest)
    md.images.add_repo_digest(DIGEST_A, here)
    with pytest.raises(FailedPrecondition, match="has names in several repositories"):
        remove_image(md, index.digest, False)
    assert remove_image(md, index.digest, True) == ([B1, A1, DIGEST_A], [here, other])


def test_by_digest_reference(md: Metadata) -> None:
    image = _image(md, B1, DIGEST_A)
    assert remove_image(md, DIGEST_A, False) == ([DIGEST_A], [])
    assert remove_image(md, image, False) == ([B1], [image])


def test_last_digest_reference(md: Metadata) -> None:
    image = _image(md, DIGEST_A)
    assert remove_image(md, DIGEST_A, False) == ([DIGEST_A], [image])


def test_by_id(md: Metadata) -> None:
    image = _image(md, A1, A2)
    assert remove_image(md, image.removeprefix("sha256:")[:12], False) == ([A1, A2], [image])


def test_by_id_with_names_in_two_repositories(md: Metadata) -> None:
    image = _image(md, A1, B1)
    with pytest.raises(FailedPrecondition) as caught:
        remove_image(md, image, False)
    assert caught.value.reason == "IMAGE_HAS_NAMES"
    assert A1 in caught.value.message
    assert remove_image(md, image, True)[1] == [image]


def test_nameless(md: Metadata) -> None:
    image = _image(md)
    assert remove_image(md, image, False) == ([], [image])


def test_unknown(md: Metadata) -> None:
    with pytest.raises(NotFound):
        remove_image(md, "nothing", False)


@pytest.mark.parametrize(
    ("state", "force", "goes"),
    [
        (ContainerState.RUNNING, False, False),
        (ContainerState.RUNNING, True, False),
        (ContainerState.RESTARTING, True, False),
        (ContainerState.EXITED, False, False),
        (ContainerState.EXITED, True, True),
        (ContainerState.CREATED, True, True),
    ],
)
def test_used_by_a_container(md: Metadata, state: ContainerState, force: bool, goes: bool) -> None:
    image = _image(md, A1, A2)
    md.containers.insert(records.container("user", image_id=image, state=state))
    # One name of two is never the container's business.
    assert remove_image(md, A2, False) == ([A2], [])
    if goes:
        assert remove_image(md, A1, force) == ([A1], [image])
        return
    with pytest.raises(FailedPrecondition) as caught:
        remove_image(md, A1, force)
    assert caught.value.reason == "IMAGE_IN_USE"
    assert "user" in caught.value.message
    assert md.images.find(A1).id == image


def test_tag_moves(md: Metadata) -> None:
    old, new = _image(md, A1, seed="old"), _image(md, seed="new")
    tagged, name = tag_image(md, new, "r.test/a:1")
    assert (tagged.id, name) == (new, A1)
    left = md.images.get(old)
    assert left is not None
    assert left.tags == ()
    assert tag_image(md, A1, "short")[1] == "docker.io/library/short:latest"
    with pytest.raises(InvalidArgument):
        tag_image(md, A1, DIGEST_A)


def _prune(md: Metadata, *, unused: bool = False, but: str = "") -> set[str]:
    return set(prune_images(md, lambda image: image.id != but, unused=unused)[1])


def test_prune_takes_what_has_no_tag_and_no_container(md: Metadata) -> None:
    named, nameless, digest_only, used = (
        _image(md, A1, seed="named"),
        _image(md, seed="nameless"),
        _image(md, DIGEST_A, seed="digest"),
        _image(md, seed="used"),
    )
    md.containers.insert(records.container(image_id=used))
    part, other = _image(md, seed="part"), _image(md, seed="other")
    _index(md, A2, part, other)
    assert _prune(md, but=nameless) == {digest_only}
    assert _prune(md) == {nameless}
    assert _prune(md) == set()
    assert _prune(md, unused=True) == {named, part, other}
    assert [image.id for image in md.images.list()] == [used]


def test_prune_keeps_an_index_of_which_a_part_is_used(md: Metadata) -> None:
    here, other = _image(md, seed="here"), _image(md, seed="other")
    _index(md, A1, here, other)
    md.containers.insert(records.container(image_id=other))
    assert _prune(md, unused=True) == set()
    assert md.indexes.named(A1) is not None


def test_prune_leaves_what_a_build_holds(md: Metadata) -> None:
    building = _image(md, seed="building")
    with md.leases.lease("build") as lease:
        md.leases.hold(lease, HoldKind.BLOB, records.image("building").manifest_digest)
        assert _prune(md, unused=True) == set()
    assert _prune(md) == {building}
