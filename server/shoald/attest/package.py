"""What is installed in an image, as its package databases have it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

from shoald.attest.purl import package_url


class PackageType(StrEnum):
    """Kinds of packages, by the types of package URLs."""

    DEB = "deb"
    APK = "apk"
    RPM = "rpm"
    PYPI = "pypi"
    NPM = "npm"


class Package(Struct, frozen=True, kw_only=True):
    """One installed package. Texts are one line each, "" when the database does not say."""

    type: PackageType
    name: str
    version: str
    """As purls have it: of rpm without the epoch, which is a qualifier."""
    namespace: str = ""
    """Of the purl: the distribution, or the scope of an npm package."""
    qualifiers: Mapping[str, str] = field(default_factory=dict)
    """Of the purl."""
    architecture: str = ""
    licence: str = ""
    """As it is declared, which need not be an SPDX expression."""
    supplier: str = ""
    """Who packaged or maintains it: "name <email>", or one of the two."""
    source: str = ""
    """The source package that it was built from, with its version if that is another one."""
    homepage: str = ""
    location: str = ""
    """The file of the image that names it."""

    @property
    def purl(self) -> str:
        """https://github.com/package-url/purl-spec"""
        return package_url(self.type, self.namespace, self.name, self.version, self.qualifiers)

    @property
    def order(self) -> tuple[str, ...]:
        """What packages are sorted by: the same image gives the same document."""
        return (self.type, self.name, self.version, self.architecture, self.location, self.purl)


class Inventory(Struct, frozen=True, kw_only=True):
    """All packages of an image, sorted, each once; `warnings` say what could not be read, for people."""

    packages: tuple[Package, ...] = ()
    distribution: str = ""
    """Name and version as the image has them, or "" when it does not say."""
    warnings: tuple[str, ...] = ()


class Damaged(Exception):
    """A database that is not what it should be; the message says how."""
