"""Statements of in-toto: a predicate, and what it is about (https://in-toto.io/Statement/v0.1)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.platform import Platform
from shoald.attest.purl import image_url

TYPE = "https://in-toto.io/Statement/v0.1"
MEDIA_TYPE = "application/vnd.in-toto+json"


class Subject(Struct, frozen=True):
    """An artefact by a name and its digest."""

    name: str
    digest: Digest


class Statement(Struct, frozen=True):
    """A statement as it is stored; `body` is JSON."""

    predicate_type: str
    body: bytes


def subjects_of_image(names: Sequence[str], manifest: Digest, platform: Platform) -> list[Subject]:
    """The image by each of its names as a package URL, as BuildKit has it; "_" for one without a name.

    Raises InvalidArgument (INVALID_REFERENCE).
    """
    return [Subject(image_url(name, platform), manifest) for name in names] or [Subject("_", manifest)]


def make_statement(predicate_type: str, predicate: bytes, subjects: Sequence[Subject]) -> Statement:
    """The statement that `predicate`, a JSON object, holds for `subjects`. Raises InvalidArgument (BAD_PREDICATE)."""
    if not subjects or not predicate.startswith(b"{"):
        raise InvalidArgument("a statement has a subject, and an object as its predicate", reason="BAD_PREDICATE")
    document = {
        "_type": TYPE,
        "predicateType": predicate_type,
        "subject": [{"name": each.name, "digest": {each.digest.algorithm: each.digest.hex}} for each in subjects],
        "predicate": msgspec.Raw(predicate),
    }
    return Statement(predicate_type, msgspec.json.encode(document))
