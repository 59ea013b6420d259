"""SBOM and provenance beside an image: in the index, in registries and archives, for each platform."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_build_platforms import architectures, blobs, file_of, index
from tests.e2e.test_peers import run
from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry

SPDX, V02, V1 = "https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"
STATUS = """Package: hello
Status: install ok installed
Architecture: amd64
Version: 2.10-3
Maintainer: Nobody <nobody@example.com>

"""


@pytest.fixture
def context(tmp_path: Path, busybox: str) -> Path:
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox} AS base\nARG TOKENISH=plain\nRUN --mount=type=secret,id=key echo ran\n"
        "FROM base\nCOPY status /var/lib/dpkg/status\nCOPY os-release /etc/os-release\n"
    )
    return tmp_path


def fetched(registry: DockerRegistry, name: str, what: str) -> Any:
    request = urllib.request.Request(
        f"http://{registry.address}/v2/{name}/{what}",
        headers={
            "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json",
        },
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def statements(registry: DockerRegistry, name: str) -> dict[str, dict[str, Any]]:
    """By predicate type, of an index with one image, checked to be about it."""
    document = fetched(registry, name, "manifests/1")
    image, attestation = document["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    found = {}
    for layer in fetched(registry, name, f"manifests/{attestation['digest']}")["layers"]:
        statement = fetched(registry, name, f"blobs/{layer['digest']}")
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        assert layer["annotations"]["in-toto.io/predicate-type"] == statement["predicateType"]
        assert f"sha256:{statement['subject'][0]['digest']['sha256']}" == image["digest"]
        found[statement["predicateType"]] = statement["predicate"]
    return found


def test_in_a_registry(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    (context / "key").write_text("hidden-value")
    name = f"{registry.address}/attested:1"
    done = fleet.shoal(
        *("build", "-H", "h1", "-q", "--sbom", "--provenance", "mode=max", "--secret", f"id=key,src={context}/key"),
        *("--build-arg", "TOKENISH=given", "--push", "-t", name, context),
    )
    assert done.stdout.startswith("sha256:")
    found = statements(registry, "attested")
    assert set(found) == {SPDX, V02}
    [package] = [each for each in found[SPDX]["packages"] if each["name"] == "hello"]
    assert package["versionInfo"] == "2.10-3"
    assert package["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/hello@2.10-3?arch=amd64&distro=debian-12"
    told = json.dumps(found[V02])
    assert "hidden-value" not in told
    assert '"TOKENISH"' in told or "build-arg:TOKENISH" in told
    [base] = [each for each in found[V02]["materials"] if "busybox" in each["uri"]]
    assert len(base["digest"]["sha256"]) == 64
    # It is an image as any other for those who pull it.
    fleet.shoal("pull", "-q", "-H", "h2", name)
    assert fleet.shoal("run", "-H", "h2", "--rm", name, "echo", "runs").stdout == "runs\n"
    run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")
    run("podman", "pull", "--tls-verify=false", "-q", name)
    run("podman", "rmi", name)
    fleet.shoal("rmi", name)


def test_what_add_fetched_is_a_material(fleet: Fleet, registry: DockerRegistry, tmp_path: Path) -> None:
    url = f"http://{registry.address}/v2/busybox/tags/list"
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\nADD {url} /tags\n")
    name = f"{registry.address}/fetched:1"
    flags = ["--provenance", "--network", "host", "--push"]
    fleet.shoal("build", "-H", "h1", "-q", *flags, "-t", name, tmp_path)
    [material] = [each for each in statements(registry, "fetched")[V02]["materials"] if each["uri"] == url]
    body = tmp_path / "body"
    fleet.shoal("build", "-H", "h1", "-q", *flags[1:3], "-o", body, tmp_path)
    assert material["digest"]["sha256"] == hashlib.sha256((body / "tags").read_bytes()).hexdigest()
    fleet.shoal("rmi", "-H", "h1", name)


def test_min_tells_less_and_v1_in_other_words(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    name = f"{registry.address}/less:1"
    flags = [
        "--attest",
        "type=provenance,version=v1,builder-id=https://ci.example.com/7",
        "--build-arg",
        "TOKENISH=given",
    ]
    fleet.shoal("build", "-H", "h1", "-q", *flags, "--push", "-t", name, context)
    found = statements(registry, "less")
    assert set(found) == {V1}
    assert found[V1]["runDetails"]["builder"]["id"] == "https://ci.example.com/7"
    assert "given" not in json.dumps(found[V1])
    fleet.shoal("rmi", "-H", "h1", name)


def test_an_sbom_changes_nothing_and_goes_with_the_image(fleet: Fleet, context: Path) -> None:
    fleet.shoal("build", "-H", "h1", "-q", "-t", "plain", context)
    before = blobs(fleet.first)
    first = fleet.shoal("build", "-H", "h1", "-q", "--sbom=true", "-t", "listed", context).stdout
    again = fleet.shoal("build", "-H", "h1", "-q", "--sbom", "-t", "listed", context).stdout
    [plain], [listed] = fleet.json("inspect", "-H", "h1", "plain"), fleet.json("inspect", "-H", "h1", "listed")
    assert (first, plain["Id"]) == (again, listed["Id"])
    fleet.shoal("rmi", "-H", "h1", "listed", "plain")
    fleet.shoal("tag", "-H", "h1", plain["Id"], "plain", code=1)
    fleet.shoal("build", "-H", "h1", "-q", "-t", "plain", context)
    assert blobs(fleet.first) == before
    fleet.shoal("rmi", "-H", "h1", "plain")


def test_for_each_platform_and_in_archives(fleet: Fleet, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text('FROM scratch\nCOPY status /var/lib/dpkg/status\nCMD ["x"]\n')
    archive = tmp_path / "a.tar"
    flags = ["--platform", "linux/amd64,linux/arm64", "--sbom", "--provenance", "-o", f"type=oci,dest={archive}"]
    fleet.shoal("build", "-H", "h1", "-q", *flags, "-t", "each", context)
    document = index(fleet, "h1", "each")
    assert architectures(document) == ["amd64", "arm64", "unknown", "unknown"]
    fleet.shoal("load", "-H", "h2", "-i", archive)
    assert index(fleet, "h2", "each") == document
    assert "hello" in file_of(fleet, "h2", "each", "linux/arm64", "/var/lib/dpkg/status")
    run("skopeo", "copy", "--all", f"oci-archive:{archive}:latest", f"dir:{tmp_path / 'all'}")
    # Put together from images that have them, an index keeps them.
    fleet.shoal("manifest", "create", "-H", "h2", "again", "each")
    assert index(fleet, "h2", "again") == document
    fleet.shoal("rmi", "-H", "h2", "again")
    fleet.shoal("rmi", "each")


def test_wrong_flags(fleet: Fleet, context: Path) -> None:
    for flags in (["--attest", "type=x"], ["--provenance", "mode=some"], ["--sbom", "generator=x"]):
        assert fleet.shoal("build", *flags, context, code=2).stderr
