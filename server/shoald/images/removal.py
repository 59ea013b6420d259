"""Names of images, and their end, as Docker has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shoal.errors import FailedPrecondition, InvalidArgument
from shoal.reference import Reference
from shoald.images.indexing import canonical
from shoald.metadata import HoldKind, Metadata
from shoald.model.container import ContainerState
from shoald.model.image import Image, IndexRecord

_ENDED = frozenset({ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD, ContainerState.REMOVING})


def remove_image(md: Metadata, name: str, force: bool) -> tuple[list[str], list[str]]:
    """Take a name away, and delete the image with its last one; what is garbage then is the collector's.

    By tag or digest reference: only this name, as long as another tag is left. By id: the image with all its names, if
    they are in one repository or `force` is given. By an index's digest: the index with its names, likewise, and those
    of its images that nobody has another name for. Returns (untagged references, deleted ids).
    Raises NotFound (IMAGE_NOT_FOUND), InvalidArgument (AMBIGUOUS_ID), FailedPrecondition (IMAGE_IN_USE: by a running
    container always, by a stopped one unless forced; IMAGE_HAS_NAMES).
    """
    with md.transaction():
        if (index := md.indexes.get(name)) is not None:
            return _remove_index(md, index, force)
        image = md.images.find(name)
        reference = _as_name(name, image)
        if reference is not None:
            going = _going(reference, image)
            parts = _parts(md, going)
            if set(going) < {*image.tags, *image.repo_digests} or set(image.part_of) - set(going):
                for each in going:
                    _unname(md, each)
                return going, _delete_unnamed(md, parts)
        elif not force and _spread(image.tags):
            raise _has_names(f"image {_short(image)}", image.tags, image.id)
        elif not force and (others := sorted(set(image.part_of) - set(image.tags))):
            raise FailedPrecondition(
                f"image {_short(image)} is part of {', '.join(others)}",
                reason="IMAGE_HAS_NAMES",
                hint="remove that, or use --force",
                metadata={"image": image.id},
            )
        _check_users(md, image, force)
        parts = _parts(md, image.part_of)
        md.images.delete(image.id)
        return [*image.tags, *image.repo_digests], [image.id, *_delete_unnamed(md, parts)]


def _remove_index(md: Metadata, index: IndexRecord, force: bool) -> tuple[list[str], list[str]]:
    names = md.indexes.names(index.digest)
    if not force and _spread(names):
        raise _has_names(f"index {index.digest.removeprefix('sha256:')[:12]}", names, index.digest)
    going: list[str] = []
    for name in names:
        if (image := md.images.get(index.image_id)) is not None:
            going += _going(name, image)
        for each in going:
            _unname(md, each)
    md.indexes.delete(index.digest)
    image = md.images.get(index.image_id)
    if image is None or image.tags or image.repo_digests or image.part_of:
        return going, _delete_unnamed(md, index.images)
    _check_users(md, image, force)
    md.images.delete(image.id)
    return going, [image.id, *_delete_unnamed(md, index.images)]


def _spread(names: Iterable[str]) -> bool:
    return len({Reference.parse(name).name for name in names}) > 1


def _has_names(what: str, names: Iterable[str], digest: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{what} has names in several repositories: {', '.join(names)}",
        reason="IMAGE_HAS_NAMES",
        hint="remove the names one by one, or use --force",
        metadata={"image": digest},
    )


def prune_images(md: Metadata, wanted: Callable[[Image], bool], *, unused: bool) -> tuple[list[str], list[str]]:
    """Delete the images that are `wanted` and that no container uses, not even another image of an index that they are
    in: those without a tag that no index has, or (`unused`) all. Returns (untagged references, deleted ids)."""
    untagged: list[str] = []
    deleted: list[str] = []
    with md.transaction():
        held = md.leases.held(HoldKind.BLOB)
        for image in md.images.list():
            named = bool(image.tags or image.part_of)
            if (named and not unused) or not wanted(image) or md.images.get(image.id) is None:
                continue
            if image.manifest_digest in held:  # a build or push is at it
                continue
            if any(md.containers.using_image(each) for each in (image.id, *_parts(md, image.part_of))):
                continue
            names, ids = remove_image(md, image.id, force=True)
            untagged += names
            deleted += ids
    return untagged, deleted


def _parts(md: Metadata, references: Iterable[str]) -> list[str]:
    """The images of the indexes that these tags mean."""
    found = [index for each in references if (index := md.indexes.named(each)) is not None]
    return list(dict.fromkeys(image for index in found for image in index.images))


def _delete_unnamed(md: Metadata, images: Iterable[str]) -> list[str]:
    """Of the images of an index that is gone, delete those that nobody has a name for, or a container; their ids."""
    deleted = []
    for image_id in images:
        image = md.images.get(image_id)
        if image is None or image.tags or image.repo_digests or image.part_of or md.containers.using_image(image_id):
            continue
        md.images.delete(image_id)
        deleted.append(image_id)
    return deleted


def tag_image(md: Metadata, source: str, target: str) -> tuple[Image, str]:
    """Give an image another name; one that another image had moves (that image stays, nameless if need be).

    Returns the image and the canonical name. Raises NotFound (IMAGE_NOT_FOUND), InvalidArgument (INVALID_REFERENCE).
    """
    reference = Reference.parse(target)
    if reference.digest is not None:
        raise InvalidArgument("a tag can't have a digest", reason="INVALID_REFERENCE")
    tag = str(reference.with_default_tag())
    with md.transaction():
        image = md.images.find(source)
        index = md.indexes.get(source) or md.indexes.named(canonical(source))
        if index is not None:
            md.indexes.name(tag, index.digest)
        else:
            md.images.tag(tag, image.id)
        tagged = md.images.get(image.id)
        assert tagged is not None
        return tagged, tag


def _as_name(name: str, image: Image) -> str | None:
    """The stored form of `name` when it is one of the image's names rather than (a part of) its id."""
    names = {*image.tags, *image.repo_digests}
    if name in names:
        return name
    if image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
        return None
    full = canonical(name)
    return full if full in names else None


def _going(reference: str, image: Image) -> list[str]:
    """What goes with a name: with a repository's last tag its digests, which would keep the image for nobody."""
    repository = Reference.parse(reference).name
    left = [tag for tag in image.tags if tag != reference and Reference.parse(tag).name == repository]
    if reference in image.repo_digests or left:
        return [reference]
    return [reference, *(each for each in image.repo_digests if Reference.parse(each).name == repository)]


def _unname(md: Metadata, reference: str) -> None:
    if not md.images.untag(reference):
        md.images.remove_repo_digest(reference)


def _check_users(md: Metadata, image: Image, force: bool) -> None:
    for container in md.containers.using_image(image.id):
        running = container.state not in _ENDED
        if running or not force:
            state = "running" if running else "stopped"
            raise FailedPrecondition(
                f"image {_short(image)} is used by the {state} container {container.name}",
                reason="IMAGE_IN_USE",
                hint=f"stop and remove it first: `shoal rm -f {container.name}`"
                if running
                else f"remove it first: `shoal rm {container.name}`, or use --force",
                metadata={"image": image.id, "container": container.id},
            )


def _short(image: Image) -> str:
    return image.id.removeprefix("sha256:")[:12]
