"""Platforms as image indexes name them (OCI image-spec image-index.md), normalised and ranked as containerd does.

`arm64` hosts also take 32-bit `arm`, `amd64` hosts take `386`, and a variant takes the lower ones: what containerd
calls `platforms.Only`. Nothing here looks at emulators.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.errors import InvalidArgument

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
# Go's GOOS and GOARCH values: what tells `arm64` (an architecture) from `linux` (a system) when only one part is given.
_SYSTEMS = frozenset(
    {"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos", "aix"}
)
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "ppc64", "ppc64le", "riscv64", "s390x"}
    | {"mips", "mipsle", "mips64", "mips64le", "sparc64", "wasm"}
)
_ALIASES = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "loongarch64": ("loong64", None),
}
# What uname calls 32-bit arm machines.
_MACHINES = {"armv5": "v5", "armv6": "v6", "armv7": "v7", "armv8": "v8"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and an optional variant, always in normal form.

    x86_64 is amd64, arm is arm/v7, arm64/v8 is arm64; `str()` gives `linux/arm/v7`. Equal and hashable by value.
    Raises InvalidArgument (reason INVALID_PLATFORM).
    """

    os: str
    architecture: str
    variant: str = ""

    def __post_init__(self) -> None:
        for part in (self.os, self.architecture, self.variant or "none"):
            if not _PART.fullmatch(part):
                raise _invalid(part)
        system = self.os.lower()
        architecture, variant = _normalise(self.architecture.lower(), self.variant.lower())
        object.__setattr__(self, "os", "darwin" if system == "macos" else system)
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "variant", variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`, or one of the first two alone.

        A system alone gets this machine's architecture, an architecture alone means Linux.
        Raises InvalidArgument (reason INVALID_PLATFORM).
        """
        parts = text.split("/")
        if len(parts) == 1:
            return cls._parse_one(text)
        if len(parts) > 3 or not all(parts):
            raise _invalid(text)
        return cls(*parts)

    @classmethod
    def _parse_one(cls, text: str) -> Platform:
        if not _PART.fullmatch(text):
            raise _invalid(text)
        if text.lower() == "macos" or text.lower() in _SYSTEMS:
            host = cls.host()
            return cls(text, host.architecture, host.variant)
        platform = cls("linux", text)
        if platform.architecture not in _ARCHITECTURES:
            raise _invalid(text)
        return platform

    @classmethod
    def host(cls) -> Platform:
        """The platform of Linux images for this machine, also where the machine itself is a Mac or runs Windows.

        amd64 has no variant, as containerd and Docker have it: an image for amd64/v3 is only taken when asked for.
        """
        machine = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "amd64")
        variant = _MACHINES.get(machine[:5].lower(), "")
        return cls("linux", "arm", variant) if variant else cls("linux", machine)

    def rank(self, candidate: Platform) -> int | None:
        """How well an image for `candidate` suits this platform: 0 is exact, more is worse, None does not run."""
        try:
            return self._compatible().index(candidate)
        except ValueError:
            return None

    def matches(self, candidate: Platform) -> bool:
        """Whether an image for `candidate` runs on this platform."""
        return self.rank(candidate) is not None

    def best(self, candidates: Iterable[Platform]) -> int | None:
        """The position of the best candidate (the first of equals), or None when none runs."""
        ranked = [(rank, at) for at, each in enumerate(candidates) if (rank := self.rank(each)) is not None]
        return min(ranked)[1] if ranked else None

    def _compatible(self) -> list[Platform]:
        pairs = [(self.architecture, self.variant)]
        match self.architecture:
            case "amd64":
                pairs += [("amd64", f"v{n}") for n in range(_number(self.variant) - 1, 0, -1)] + [("386", "")]
            case "arm":
                pairs += [("arm", f"v{n}") for n in range(_number(self.variant) - 1, 4, -1)]
            case "arm64":
                pairs += [("arm64", v) for v in _lower_arm64(self.variant or "v8")]
                pairs += [("arm", f"v{n}") for n in range(8, 4, -1)]
        return [Platform(self.os, architecture, variant) for architecture, variant in pairs]

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def _normalise(architecture: str, variant: str) -> tuple[str, str]:
    if alias := _ALIASES.get(architecture):
        architecture, fixed = alias
        variant = variant if fixed is None else fixed
    if architecture == "arm":
        variant = f"v{variant}" if variant in {"5", "6", "7", "8"} else variant or "v7"
    if (architecture, variant) in {("amd64", "v1"), ("arm64", "v8"), ("arm64", "8"), ("arm64", "v8.0")}:
        variant = ""
    return architecture, variant


def _number(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if re.fullmatch("[1-9]", digits) else 0


def _lower_arm64(variant: str) -> list[str]:
    """The variants below v8.x or v9.x, best first; Armv9.x contains Armv8.(x+5)."""
    found = re.fullmatch(r"v([89])(?:\.([0-9]))?", variant)
    if found is None:
        return []
    major, minor = int(found[1]), int(found[2] or 0)
    if major == 8:
        return [_arm64(8, n) for n in range(minor - 1, -1, -1)]
    return [_arm64(9, n) for n in range(minor - 1, -1, -1)] + [_arm64(8, n) for n in range(minor + 5, -1, -1)]


def _arm64(major: int, minor: int) -> str:
    return f"v{major}.{minor}" if minor else f"v{major}"


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"invalid platform {text[:160]!r}",
        reason="INVALID_PLATFORM",
        hint="write os/architecture or os/architecture/variant, for example linux/arm64 or linux/arm/v7",
    )
