"""Statements, and the manifest beside the image's that holds them."""

from __future__ import annotations

import json

import pytest

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.platform import Platform
from shoald.attest.manifest import attestation_manifest
from shoald.attest.statement import Subject, make_statement, subjects_of_image
from shoald.images.indexing import subject_of
from shoald.oci.config import parse_config
from shoald.oci.manifest import Descriptor, Index, Manifest, PlatformSpec, encode
from shoald.oci.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from shoald.oci.parse import parse_manifest
from shoald.oci.select import select_platform

IMAGE = Digest.of(b"image")
AMD64 = Platform.parse("linux/amd64")
SPDX, SLSA = "https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"


def test_a_statement() -> None:
    subjects = subjects_of_image(["app:1", "example.com/app:2"], IMAGE, AMD64)
    made = make_statement(SPDX, b'{"a":[1,2]}', subjects)
    assert made.body == (
        b'{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":['
        b'{"name":"pkg:docker/app@1?platform=linux%2Famd64","digest":{"sha256":"' + IMAGE.hex.encode() + b'"}},'
        b'{"name":"pkg:docker/example.com/app@2?platform=linux%2Famd64","digest":{"sha256":"'
        + IMAGE.hex.encode()
        + b'"}}],"predicate":{"a":[1,2]}}'
    )


def test_an_image_without_a_name() -> None:
    assert subjects_of_image([], IMAGE, AMD64) == [Subject("_", IMAGE)]


@pytest.mark.parametrize("predicate", [b"", b"[]", b"null"])
def test_no_statement(predicate: bytes) -> None:
    with pytest.raises(InvalidArgument):
        make_statement(SPDX, predicate, [Subject("_", IMAGE)])
    with pytest.raises(InvalidArgument):
        make_statement(SPDX, b"{}", [])


def test_the_manifest() -> None:
    statements = [make_statement(kind, b"{}", [Subject("_", IMAGE)]) for kind in (SPDX, SLSA)]
    made = attestation_manifest(statements, IMAGE)
    assert made == attestation_manifest(statements, IMAGE)
    (config, config_type), *layers = made.blobs
    assert config_type == OCI_CONFIG
    assert layers == [(each.body, "application/vnd.in-toto+json") for each in statements]
    digests = [str(Digest.of(each.body)) for each in statements]
    assert json.loads(config) == {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    assert parse_config(config).rootfs.diff_ids == digests
    assert json.loads(made.manifest) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [
            {
                "mediaType": "application/vnd.in-toto+json",
                "digest": digest,
                "size": len(each.body),
                "annotations": {"in-toto.io/predicate-type": each.predicate_type},
            }
            for each, digest in zip(statements, digests, strict=True)
        ],
    }
    assert isinstance(parse_manifest(made.manifest, OCI_MANIFEST), Manifest)
    assert json.loads(encode(made.descriptor)) == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(Digest.of(made.manifest)),
        "size": len(made.manifest),
        "annotations": {
            "vnd.docker.reference.digest": str(IMAGE),
            "vnd.docker.reference.type": "attestation-manifest",
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
    }


def test_an_index_with_it() -> None:
    made = attestation_manifest([make_statement(SLSA, b"{}", [Subject("_", IMAGE)])], IMAGE)
    image = Descriptor(
        media_type=OCI_MANIFEST,
        digest=str(IMAGE),
        size=5,
        platform=PlatformSpec(os="linux", architecture="amd64"),
    )
    index = parse_manifest(encode(Index.of([image, made.descriptor])), OCI_INDEX)
    assert isinstance(index, Index)
    assert select_platform(index, AMD64) == image
    assert [subject_of(each) for each in index.manifests] == [None, image.digest]
