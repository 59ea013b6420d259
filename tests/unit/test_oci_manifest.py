"""Manifests and indexes: what is read, what is refused, what is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument, ShoalError, Unimplemented
from shoald.oci import mediatypes as mt
from shoald.oci.manifest import Descriptor, Index, Manifest, PlatformSpec, encode
from shoald.oci.parse import MAX_DESCRIPTORS, MAX_MANIFEST_BYTES, manifest_type, parse_manifest

D1, D2 = str(Digest.of(b"1")), str(Digest.of(b"2"))


def descriptor(**changes: Any) -> dict[str, Any]:
    return {"mediaType": mt.OCI_LAYER_GZIP, "digest": D1, "size": 7, **changes}


CONFIG = descriptor(mediaType=mt.OCI_CONFIG, digest=D2)


def document(**members: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **members}).encode()


def test_every_member_of_the_specification_is_read() -> None:
    body = document(
        mediaType=mt.OCI_MANIFEST,
        artifactType="application/x",
        config=CONFIG,
        layers=[
            descriptor(
                urls=["https://e.org/x"],
                annotations={"k": "v"},
                data="eA==",
                artifactType="application/y",
                platform={
                    "architecture": "arm",
                    "os": "linux",
                    "os.version": "1",
                    "os.features": ["f"],
                    "variant": "v7",
                    "features": ["sse4"],
                },
                unknown={"deep": [1]},
            )
        ],
        subject=descriptor(),
        annotations={"a": "b"},
        future=True,
    )
    parsed = parse_manifest(body, mt.OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    (layer,) = parsed.layers
    assert layer == Descriptor(
        media_type=mt.OCI_LAYER_GZIP,
        digest=D1,
        size=7,
        urls=["https://e.org/x"],
        annotations={"k": "v"},
        data="eA==",
        artifact_type="application/y",
        platform=PlatformSpec(architecture="arm", os="linux", os_version="1", os_features=["f"], variant="v7"),
    )
    assert parsed.subject is not None
    assert parsed.annotations == {"a": "b"}
    assert parsed.artifact_type == "application/x"
    assert [part.digest for part in parsed.parts] == [D2, D1]


@pytest.mark.parametrize(
    ("members", "announced", "kind"),
    [
        ({"config": CONFIG, "layers": []}, "", mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": []}, mt.OCI_MANIFEST, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": []}, "application/json; charset=utf-8", mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [], "mediaType": mt.DOCKER_MANIFEST}, "", mt.DOCKER_MANIFEST),
        ({"config": CONFIG, "layers": []}, mt.DOCKER_MANIFEST.upper(), mt.DOCKER_MANIFEST),
        ({"manifests": []}, "", mt.OCI_INDEX),
        ({"manifests": [], "mediaType": mt.DOCKER_INDEX}, mt.DOCKER_INDEX, mt.DOCKER_INDEX),
        ({"manifests": [], "mediaType": mt.DOCKER_INDEX}, "text/plain", mt.DOCKER_INDEX),
    ],
)
def test_kind_is_what_all_agree_on(members: dict[str, Any], announced: str, kind: str) -> None:
    body = document(**members)
    assert manifest_type(body, announced) == kind
    assert isinstance(parse_manifest(body, announced), Index if kind in mt.INDEXES else Manifest)


@pytest.mark.parametrize(
    ("members", "announced"),
    [
        ({"config": CONFIG, "layers": [], "manifests": []}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [], "manifests": []}, mt.OCI_INDEX),
        ({"layers": [], "manifests": []}, ""),
        ({"config": CONFIG, "manifests": []}, mt.OCI_INDEX),
        ({"config": None, "manifests": []}, mt.OCI_INDEX),
        ({"config": CONFIG, "layers": [], "mediaType": mt.OCI_INDEX}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [], "mediaType": mt.OCI_MANIFEST}, mt.DOCKER_MANIFEST),
        ({"config": CONFIG, "layers": [], "mediaType": mt.OCI_INDEX}, ""),
        ({"config": CONFIG, "layers": [], "mediaType": "application/x"}, ""),
        ({"config": CONFIG, "layers": []}, "application/x"),
        ({"config": CONFIG, "layers": []}, mt.OCI_INDEX),
        ({"manifests": []}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [], "schemaVersion": 3}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(size=-1)]}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(size=1.5)]}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(size=2**70)]}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(digest="sha256:../../etc/passwd")]}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(digest=D1.upper())]}, mt.OCI_MANIFEST),
        ({"config": CONFIG, "layers": [descriptor(digest="md5:" + "0" * 32)]}, mt.OCI_MANIFEST),
        ({"config": descriptor(digest=""), "layers": []}, mt.OCI_MANIFEST),
        ({"manifests": [descriptor(digest="latest")]}, mt.OCI_INDEX),
        ({"config": CONFIG}, mt.OCI_MANIFEST),
        ({"layers": []}, mt.OCI_MANIFEST),
        ({}, mt.OCI_MANIFEST),
        ({}, ""),
        ({"config": CONFIG, "layers": [descriptor()] * (MAX_DESCRIPTORS + 1)}, mt.OCI_MANIFEST),
    ],
)
def test_refused(members: dict[str, Any], announced: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_manifest(document(**members), announced)
    assert caught.value.reason == "BAD_MANIFEST"


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"a":"\xff"}', b"[" * 100_000, b'{"layers":' * 50_000])
def test_no_json_document(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_manifest(body, mt.OCI_MANIFEST)


def test_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(DataLoss) as caught:
        parse_manifest(b"{" * (MAX_MANIFEST_BYTES + 1), mt.OCI_MANIFEST)
    assert caught.value.reason == "SIZE_MISMATCH"


@pytest.mark.parametrize(
    ("body", "announced"),
    [
        (b'{"schemaVersion":1,"fsLayers":[]}', ""),
        (b'{"schemaVersion":1,"fsLayers":[]}', mt.DOCKER_SCHEMA1_SIGNED),
        (b'{"schemaVersion":2}', mt.DOCKER_SCHEMA1),
    ],
)
def test_schema_1_says_what_to_do(body: bytes, announced: str) -> None:
    with pytest.raises(Unimplemented) as caught:
        parse_manifest(body, announced)
    assert caught.value.reason == "SCHEMA1"
    assert caught.value.hint


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=8)
        | st.sampled_from([D1, mt.OCI_INDEX, mt.OCI_MANIFEST]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_gives_a_value_or_an_error_of_ours(body: bytes) -> None:
    for announced in ("", mt.OCI_MANIFEST, mt.OCI_INDEX):
        try:
            assert isinstance(parse_manifest(body, announced), Manifest | Index)
        except ShoalError:
            pass


def test_encode_is_compact_and_always_the_same() -> None:
    one = Manifest.of(
        Descriptor(media_type=mt.OCI_CONFIG, digest=D1, size=1),
        [Descriptor(media_type=mt.OCI_LAYER, digest=D2, size=2, annotations={"b": "2", "a": "1"})],
    )
    assert encode(one) == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":1},'
        b'"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":2,'
        b'"annotations":{"a":"1","b":"2"}}]}' % (D1.encode(), D2.encode())
    )
    assert parse_manifest(encode(one)) == one


def test_encoded_index_reads_back() -> None:
    entry = Descriptor(
        media_type=mt.OCI_MANIFEST, digest=D1, size=3, platform=PlatformSpec(architecture="arm64", os="linux")
    )
    index = Index.of([entry], mt.DOCKER_INDEX)
    assert parse_manifest(encode(index), mt.DOCKER_INDEX) == index


def test_descriptor_of_bytes() -> None:
    assert Descriptor.of(b"1", mt.OCI_LAYER) == Descriptor(media_type=mt.OCI_LAYER, digest=D1, size=1)


@pytest.mark.parametrize(
    ("media_type", "compression", "foreign"),
    [
        (mt.OCI_LAYER, "none", False),
        (mt.OCI_LAYER_GZIP, "gzip", False),
        (mt.OCI_LAYER_ZSTD, "zstd", False),
        (mt.DOCKER_LAYER_GZIP, "gzip", False),
        (mt.DOCKER_LAYER, "none", False),
        (mt.DOCKER_FOREIGN_LAYER_GZIP, "gzip", True),
        (mt.OCI_FOREIGN_LAYER_ZSTD, "zstd", True),
        (mt.OCI_CONFIG, None, False),
        ("application/vnd.in-toto+json", None, False),
    ],
)
def test_layer_types(media_type: str, compression: str | None, foreign: bool) -> None:
    assert mt.layer_compression(media_type) == compression
    assert mt.is_foreign(media_type) is foreign
    assert mt.is_layer(media_type) is (compression is not None)


@pytest.mark.parametrize("compression", list(mt.Compression))
@pytest.mark.parametrize("docker", [True, False])
def test_layer_type_names_its_compression(compression: mt.Compression, docker: bool) -> None:
    made = mt.layer_type(compression, docker=docker)
    assert mt.layer_compression(made) is compression
    assert ("docker" in made) is docker
