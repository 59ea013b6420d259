"""The packages of an image as an SPDX 2.3 document in JSON (https://spdx.github.io/spdx-spec/v2.3/)."""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from shoal.digest import Digest
from shoald.attest.licences import expression
from shoald.attest.package import Inventory, Package, PackageType
from shoald.attest.plain import plain
from shoald.version import version

PREDICATE_TYPE = "https://spdx.dev/Document"

_DOCUMENT, _IMAGE = "SPDXRef-DOCUMENT", "SPDXRef-Image"
_NAMESPACE = "https://spdx.org/spdxdocs/shoal-image-"
"""Clause 6.5: the place for documents of creators without a web site of their own."""
_NO_ASSERTION = "NOASSERTION"
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9.-]+")
_BY_AUTHORS = frozenset({PackageType.PYPI, PackageType.NPM})
"""Whose databases name the authors, not who packaged it."""
_URL = re.compile(r"https?://[\w.-]+(?::\d+)?(?:[/?#](?:[\w.~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?", re.ASCII)
_ADDRESS = re.compile(r"(.*?)\s*<([^<>()@\s]+@[^<>()@\s]+)>")
_GROUP = re.compile(
    r"\b(team|group|maintainers|developers|project|foundation|inc|ltd|gmbh|llc|corporation|authors|contributors|packagers)\b"
    r"|@lists\.|@packages\.|@tracker\.",
    re.IGNORECASE,
)


class _Element(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class CreationInfo(_Element, frozen=True, kw_only=True):
    """Clause 6.8, 6.9."""

    created: str
    creators: list[str]
    comment: str = ""


class Checksum(_Element, frozen=True, kw_only=True):
    """Clause 7.10."""

    algorithm: str
    checksum_value: str


class ExternalRef(_Element, frozen=True, kw_only=True):
    """Clause 7.21."""

    reference_category: str
    reference_type: str
    reference_locator: str


class SpdxPackage(_Element, frozen=True, kw_only=True):
    """Clause 7."""

    name: str
    spdx_id: str = msgspec.field(name="SPDXID")
    version_info: str = ""
    supplier: str = ""
    originator: str = ""
    download_location: str
    files_analyzed: bool
    checksums: list[Checksum] = []
    homepage: str = ""
    source_info: str = ""
    license_concluded: str
    license_declared: str
    license_comments: str = ""
    copyright_text: str
    external_refs: list[ExternalRef] = []
    primary_package_purpose: str = ""


class Relationship(_Element, frozen=True, kw_only=True):
    """Clause 11."""

    spdx_element_id: str
    related_spdx_element: str
    relationship_type: str


class Document(_Element, frozen=True, kw_only=True):
    """Clause 6."""

    spdx_version: str
    data_license: str
    spdx_id: str = msgspec.field(name="SPDXID")
    name: str
    document_namespace: str
    creation_info: CreationInfo
    packages: list[SpdxPackage]
    relationships: list[Relationship]


def spdx_document(inventory: Inventory, *, name: str, digest: Digest, created: datetime, purl: str = "") -> bytes:
    """The document of the image whose manifest has this digest, as the predicate of a statement.

    `name` is the image's, for people; `purl` its package URL (`purl.image_url`). The same arguments give the same
    bytes: pass the image's own time as `created`, and an unchanged image always has the same document. The namespace
    follows from the digest and from all that the document says, as two documents must not share one (clause 6.5).
    """
    packages = {_identifier(package): package for package in inventory.packages}
    title = plain(name) or str(digest)
    document = Document(
        spdx_version="SPDX-2.3",
        data_license="CC0-1.0",
        spdx_id=_DOCUMENT,
        name=title,
        document_namespace="",
        creation_info=CreationInfo(
            created=created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            creators=[f"Tool: shoal-{version()}"],
            comment="\n".join(inventory.warnings),
        ),
        packages=[_image(title, digest, purl), *(_package(key, each) for key, each in packages.items())],
        relationships=[
            _related(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_related(_IMAGE, "CONTAINS", identifier) for identifier in packages),
        ],
    )
    said = hashlib.sha256(msgspec.json.encode(document)).hexdigest()
    namespace = _NAMESPACE + str(uuid.uuid5(uuid.NAMESPACE_URL, f"{digest} {said}"))
    return msgspec.json.encode(replace(document, document_namespace=namespace))


def _related(element: str, kind: str, other: str) -> Relationship:
    return Relationship(spdx_element_id=element, relationship_type=kind, related_spdx_element=other)


def _image(name: str, digest: Digest, purl: str) -> SpdxPackage:
    return SpdxPackage(
        name=name,
        spdx_id=_IMAGE,
        version_info=str(digest),
        download_location=_NO_ASSERTION,
        files_analyzed=False,
        checksums=[Checksum(algorithm=digest.algorithm.upper(), checksum_value=digest.hex)],
        license_concluded=_NO_ASSERTION,
        license_declared=_NO_ASSERTION,
        copyright_text=_NO_ASSERTION,
        external_refs=[_purl(purl)] if purl else [],
        primary_package_purpose="CONTAINER",
    )


def _package(identifier: str, package: Package) -> SpdxPackage:
    licence = expression(package.licence)
    source = f"built from {package.source}; " if package.source else ""
    return SpdxPackage(
        name=package.name,
        spdx_id=identifier,
        version_info=package.version,
        supplier="" if package.type in _BY_AUTHORS else agent(package),
        originator=agent(package) if package.type in _BY_AUTHORS else "",
        download_location=_NO_ASSERTION,
        files_analyzed=False,
        homepage=package.homepage if _is_url(package.homepage) else "",
        source_info=f"{source}found in {package.location}",
        license_concluded=_NO_ASSERTION,
        license_declared=licence or _NO_ASSERTION,
        license_comments=f"declared as: {package.licence}" if package.licence and not licence else "",
        copyright_text=_NO_ASSERTION,
        external_refs=[_purl(package.purl)],
    )


def _purl(purl: str) -> ExternalRef:
    return ExternalRef(reference_category="PACKAGE-MANAGER", reference_type="purl", reference_locator=purl)


def _identifier(package: Package) -> str:
    """SPDXRef-...: letters, digits, "." and "-" (clause 7.2); different packages differ."""
    name = _NOT_IN_ID.sub("-", f"{package.type}-{package.name}-{package.version}")[:120]
    return f"SPDXRef-{name}-{hashlib.sha256(repr(package.order).encode()).hexdigest()[:16]}"


def agent(package: Package) -> str:
    """`Person: name (email)` or `Organization: ...` (clauses 7.5, 7.6). Which one is not said, and guessed."""
    text = package.supplier
    matched = _ADDRESS.match(text)
    name, email = (matched[1], matched[2]) if matched is not None else (text, "")
    name = plain(name.strip("\"' ").replace("(", " ").replace(")", " ")) or email
    if not name:
        return _NO_ASSERTION
    if email == name:
        email = ""
    group = package.type is PackageType.RPM or _GROUP.search(text)
    kind = "Organization" if group else "Person"
    return f"{kind}: {name} ({email})" if email else f"{kind}: {name}"


def _is_url(text: str) -> bool:
    return _URL.fullmatch(text) is not None
