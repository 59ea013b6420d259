"""SPDX documents: a golden one, and the rules of SPDX 2.3 for all. SHOAL_UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.digest import Digest
from shoald.attest import spdx
from shoald.attest.licences import expression
from shoald.attest.package import Inventory, Package, PackageType
from shoald.attest.spdx import agent, spdx_document
from shoald.version import version

GOLDEN = Path(__file__).parents[2] / "golden" / "attest" / "spdx.json"
DIGEST = Digest.of(b"manifest")
CREATED = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
PURL = "pkg:docker/app@1?platform=linux%2Famd64"

INVENTORY = Inventory(
    packages=(
        Package(
            type=PackageType.APK,
            namespace="alpine",
            name="busybox",
            version="1.36.1-r15",
            qualifiers={"arch": "x86_64", "distro": "alpine-3.19.1"},
            architecture="x86_64",
            licence="GPL-2.0-only",
            supplier="Sören Tempel <soeren+alpine@soeren-tempel.net>",
            source="busybox",
            homepage="https://busybox.net/",
            location="/lib/apk/db/installed",
        ),
        Package(
            type=PackageType.NPM,
            namespace="@a",
            name="b",
            version="1",
            licence="SEE LICENSE IN x",
            homepage="javascript:alert(1)",
            location="/app/node_modules/@a/b/package.json",
        ),
        Package(
            type=PackageType.PYPI,
            name="six",
            version="1.16.0",
            licence="mit",
            supplier="Benjamin Peterson <benjamin@python.org>",
            location="/usr/lib/python3/six.egg-info",
        ),
    ),
    distribution="alpine 3.19.1",
    warnings=("/var/lib/dpkg/status: it is no regular file",),
)


def document(inventory: Inventory, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"name": "app:1", "digest": DIGEST, "created": CREATED, "purl": PURL, **changes}
    made = json.loads(spdx_document(inventory, **given))
    check(made)
    return made  # type: ignore[no-any-return]


# The rules, by their clauses in https://spdx.github.io/spdx-spec/v2.3/.


def check(made: dict[str, Any]) -> None:
    assert set(made) == {
        "spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo", "packages", "relationships"
    }  # fmt: skip
    assert (made["spdxVersion"], made["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")  # 6.1, 6.2
    assert made["SPDXID"] == "SPDXRef-DOCUMENT"  # 6.3
    assert one_line(made["name"])  # 6.4
    assert re.fullmatch(r"https://[A-Za-z0-9./-]+", made["documentNamespace"])  # 6.5: absolute, no "#"
    check_creation(made["creationInfo"])
    for package in made["packages"]:
        check_package(package)
    check_relationships(made)


def check_creation(made: dict[str, Any]) -> None:
    assert set(made) <= {"created", "creators", "comment"}
    assert made["creators"] == [f"Tool: shoal-{version()}"]  # 6.8
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["created"])  # 6.9


def check_package(made: dict[str, Any]) -> None:
    assert set(made) <= {
        "name", "SPDXID", "versionInfo", "supplier", "originator", "downloadLocation", "filesAnalyzed", "checksums",
        "homepage", "sourceInfo", "licenseConcluded", "licenseDeclared", "licenseComments", "copyrightText",
        "externalRefs", "primaryPackagePurpose",
    }  # fmt: skip
    assert one_line(made["name"])  # 7.1
    assert re.fullmatch(r"SPDXRef-[a-zA-Z0-9.-]+", made["SPDXID"])  # 7.2
    for key in {"supplier", "originator"} & set(made):  # 7.5, 7.6
        assert re.fullmatch(r"NOASSERTION|(Person|Organization): [^()]+( \([^()\s]+@[^()\s]+\))?", made[key])
    assert made["downloadLocation"] == "NOASSERTION"  # 7.7
    assert made["filesAnalyzed"] is False  # 7.8; then there is no verification code and no licence of files
    for checksum in made.get("checksums", []):  # 7.10
        assert checksum["algorithm"] == "SHA256"
        assert re.fullmatch("[0-9a-f]{64}", checksum["checksumValue"])
    if "homepage" in made:  # 7.11
        assert re.fullmatch(r"https?://\S+", made["homepage"])
    assert made["licenseConcluded"] == "NOASSERTION"  # 7.13
    declared = made["licenseDeclared"]  # 7.15
    assert declared == "NOASSERTION" or expression(declared) == declared
    assert made["copyrightText"] == "NOASSERTION"  # 7.17
    for reference in made.get("externalRefs", []):  # 7.21, annex F.3.5
        assert (reference["referenceCategory"], reference["referenceType"]) == ("PACKAGE-MANAGER", "purl")
        assert re.fullmatch(r"pkg:[a-z]+/[!-~]+", reference["referenceLocator"])
    assert made.get("primaryPackagePurpose", "CONTAINER") == "CONTAINER"  # 7.24


def check_relationships(made: dict[str, Any]) -> None:
    """Clause 11: both ends exist; the document describes the image, which has everything else."""
    identifiers = [package["SPDXID"] for package in made["packages"]]
    assert len(set(identifiers)) == len(identifiers)
    image, *others = identifiers
    assert made["relationships"] == [
        {"spdxElementId": element, "relatedSpdxElement": other, "relationshipType": kind}
        for element, kind, other in [
            ("SPDXRef-DOCUMENT", "DESCRIBES", image),
            *((image, "CONTAINS", other) for other in others),
        ]
    ]


def one_line(text: str) -> bool:
    return bool(text) and text.isprintable()


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdx, "version", lambda: "1.2.3")
    made = json.loads(spdx_document(INVENTORY, name="app:1", digest=DIGEST, created=CREATED, purl=PURL))
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "SHOAL_UPDATE_GOLDEN=1 writes it; read the difference"


def test_the_same_image_has_the_same_document() -> None:
    given: dict[str, Any] = {"name": "app:1", "digest": DIGEST, "purl": PURL}
    elsewhere = CREATED.astimezone(timezone(timedelta(hours=5)))
    one = spdx_document(INVENTORY, created=CREATED, **given)
    assert one == spdx_document(INVENTORY, created=elsewhere, **given)
    others = [{"digest": Digest.of(b"other")}, {"name": "b"}, {"created": CREATED + timedelta(days=1)}]
    namespaces = {document(INVENTORY, **{**given, **other})["documentNamespace"] for other in others}
    assert len(namespaces | {json.loads(one)["documentNamespace"]}) == 4


def test_an_image_without_packages_and_names() -> None:
    made = document(Inventory(), name="", purl="")
    assert made["name"] == str(DIGEST)
    (image,) = made["packages"]
    assert "externalRefs" not in image
    assert "comment" not in made["creationInfo"]


def check_agent(kind: PackageType, text: str) -> str:
    return agent(Package(type=kind, name="x", version="1", supplier=text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "NOASSERTION"),
        ("Ada Lovelace <ada@example.org>", "Person: Ada Lovelace (ada@example.org)"),
        ("Ada Lovelace", "Person: Ada Lovelace"),
        ("ada@example.org", "Person: ada@example.org"),
        ("<ada@example.org>", "Person: ada@example.org"),
        ('"Ada (x)" <ada@example.org>', "Person: Ada x (ada@example.org)"),
        (
            "Debian GCC Maintainers <gcc@lists.debian.org>",
            "Organization: Debian GCC Maintainers (gcc@lists.debian.org)",
        ),
        ("Example Inc.", "Organization: Example Inc."),
        ("()", "NOASSERTION"),
        ("A <not an address>", "Person: A <not an address>"),
        ("A <a@b.c>, B <b@c.d>", "Person: A (a@b.c)"),
    ],
)
def test_people(text: str, wanted: str) -> None:
    assert check_agent(PackageType.DEB, text) == wanted


def test_an_rpm_is_an_organization() -> None:
    assert check_agent(PackageType.RPM, "Red Hat") == "Organization: Red Hat"


ODD = st.text(max_size=20) | st.sampled_from(
    ["", "a", "é", "MIT", "GPLv2", "a <b@c>", "<(@)>", "http://x y", "\x1b[0m", "((("]
)


@given(
    st.lists(
        st.builds(
            Package,
            type=st.sampled_from(list(PackageType)),
            name=st.sampled_from(["a", "A", "ä", "a_b", "a/b", "x" * 200]),
            version=st.sampled_from(["1", "1:2~3+4", "…", "a b"]),
            namespace=st.sampled_from(["", "debian", "@a/b"]),
            licence=ODD.map(lambda text: " ".join(text.split())),
            supplier=st.sampled_from(["", "a <b@c>", "<(@)>", "((", "a (b) <c@d> (e)", "Team <", "é@é"]),
            homepage=ODD,
            location=st.sampled_from(["/a", "/b"]),
        ),
        max_size=8,
    )
)
def test_every_document_keeps_the_rules(packages: list[Package]) -> None:
    ordered = {package.order: package for package in packages}
    document(Inventory(packages=tuple(ordered[key] for key in sorted(ordered))))
