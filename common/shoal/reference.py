"""Image references as Docker reads them: `busybox` means `docker.io/library/busybox`.

The grammar is that of distribution/reference (the one docker, containerd and podman share), with its normalisation:

    reference := name [":" tag] ["@" digest]      name := [domain "/"] path      domain := host [":" port]

The first path element is a domain only if it holds a "." or ":", is `localhost`, or has an upper-case letter; otherwise
the domain is `docker.io`, and a single element gets the prefix `library/`. A path has at most 255 characters, a tag at
most 128. No component can be "." or ".." or empty, so a valid path is safe in a URL and in a file name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from shoal.digest import Digest
from shoal.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255
"""Characters of the path, `library/` included; as in distribution/reference 0.6 the domain does not count."""
MAX_TAG = 128

_LEGACY_DOMAIN = "index.docker.io"
_HUB_REGISTRY = "registry-1.docker.io"
_OFFICIAL = "library/"
# Longer than any valid reference (name, tag, sha512 digest), so that the patterns never see unbounded input.
_MAX_TEXT = 1024
_SHOWN = 160

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = re.compile(rf"{_HOST}(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:__|[._]|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A valid, normalised reference. `str()` is the canonical form; equal and hashable by value.

    Build one with `parse`; a direct construction is checked too. Raises InvalidArgument (reason INVALID_REFERENCE).
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if len(self.path) > MAX_NAME:
            raise _invalid(
                f"invalid reference format: repository name must not be more than {MAX_NAME} characters",
                f"this one has {len(self.path)}",
            )
        if not _DOMAIN.fullmatch(self.domain):
            raise _invalid(
                f"invalid reference format: {_shown(self.domain)} is not a registry host",
                "write host or host:port, without a scheme such as https://",
            )
        if not _PATH.fullmatch(self.path):
            raise _bad_path(self.path)
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise _bad_tag(self.tag)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as a person writes it. The tag is None when it is not given.

        Raises InvalidArgument (reason INVALID_REFERENCE).
        """
        if not text:
            raise _invalid(
                "invalid reference format: repository name must have at least one component", "name an image"
            )
        if len(text) > _MAX_TEXT:
            raise _invalid(
                f"invalid reference format: {len(text)} characters", f"a name has at most {MAX_NAME}, a tag {MAX_TAG}"
            )
        if _IDENTIFIER.fullmatch(text):
            raise _invalid(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
                f"an image id is written sha256:{text[:12]}…; a repository needs a name",
            )
        domain, remainder = _split_domain(text)
        rest, at, digest = remainder.partition("@")
        path, colon, tag = rest.partition(":")
        if path != path.lower():
            raise _invalid(
                f"invalid reference format: repository name ({_cut(path)}) must be lowercase",
                f"did you mean {_cut(text[: len(text) - len(remainder)] + path.lower() + rest[len(path) :])}?",
            )
        return cls(domain, path, tag if colon else None, _digest(digest) if at else None)

    @property
    def name(self) -> str:
        """Domain and path, the repository's canonical name: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: without `docker.io/` and, for official images, without `library/`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        official = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in official else official

    @property
    def registry_host(self) -> str:
        """The host (with port) to speak to; Docker Hub's registry lives under another name than its images."""
        return _HUB_REGISTRY if self.domain == DEFAULT_DOMAIN else self.domain

    @property
    def is_name_only(self) -> bool:
        """Whether neither a tag nor a digest is given."""
        return self.tag is None and self.digest is None

    @property
    def selector(self) -> str:
        """What goes after `/manifests/` in the registry's API: the digest if given, else the tag, else `latest`."""
        return str(self.digest) if self.digest is not None else self.tag or DEFAULT_TAG

    def familiar(self) -> str:
        """The short form for people: `busybox:1.36`."""
        return self.familiar_name + self._suffix()

    def with_default_tag(self) -> Reference:
        """The same, tagged `latest` if it has neither tag nor digest (Docker's TagNameOnly)."""
        return self.with_tag(DEFAULT_TAG) if self.is_name_only else self

    def docker_ref(self) -> Reference:
        """What containerd stores (ParseDockerRef): a digest drops the tag, and with neither it is `latest`."""
        return replace(self, tag=None) if self.digest is not None else self.with_default_tag()

    def with_tag(self, tag: str) -> Reference:
        """The same with this tag. Raises InvalidArgument (reason INVALID_REFERENCE)."""
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The same with this digest; a tag stays."""
        return replace(self, digest=digest)

    def without_tag(self) -> Reference:
        """The same without its tag."""
        return replace(self, tag=None)

    def without_digest(self) -> Reference:
        """The same without its digest."""
        return replace(self, digest=None)

    def _suffix(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"

    def __str__(self) -> str:
        return self.name + self._suffix()


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise _invalid(f"invalid reference format: {error.message}", error.hint or "") from error


def _bad_path(path: str) -> InvalidArgument:
    if path.startswith("//"):
        hint = "leave out the scheme: registry.example.com/name:tag"
    elif not path or path == _OFFICIAL:
        hint = "the repository name is missing"
    else:
        hint = "a name has lower-case letters and digits, separated by single . _ / or by - or __"
    return _invalid(f"invalid reference format: {_shown(path)} is not a repository name", hint)


def _bad_tag(tag: str) -> InvalidArgument:
    if len(tag) > MAX_TAG:
        return _invalid(f"invalid reference format: tag of {len(tag)} characters", f"a tag has at most {MAX_TAG}")
    return _invalid(
        f"invalid reference format: {_shown(tag)} is not a tag",
        "a tag has letters, digits, _ . and -, and does not begin with . or -",
    )


def _cut(text: str) -> str:
    # Hostile input reaches terminals through messages: nothing unprintable, nothing endless.
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return short if short.isprintable() else repr(short)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _invalid(message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, reason="INVALID_REFERENCE", hint=hint)
