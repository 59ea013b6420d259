"""Events of a build; mirrors shoal.v1.BuildEvent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from shoal.platform import Platform
from shoald.model.image import Image, IndexRecord, RegistryCredentials


class StepStarted(Struct, frozen=True):
    """A step begins to run or to look into the cache. `number` is 1-based; lines are 1-based and inclusive."""

    step_id: str
    stage: str
    number: int
    total: int
    text: str
    start_line: int
    end_line: int


class StepLog(Struct, frozen=True):
    """What a step wrote: one or more lines or parts of lines."""

    step_id: str
    stderr: bool
    data: bytes


class StepFinished(Struct, frozen=True):
    """A step ended; `error` is empty when it went well."""

    step_id: str
    cached: bool
    error: str = ""


class BuildWarning(Struct, frozen=True):
    """A build check's finding; `rule` may be empty, lines 0 when it has no place."""

    rule: str
    message: str
    start_line: int = 0
    end_line: int = 0


class CacheReady(Struct, frozen=True):
    """A cache that the request wants for its client is there, under the digest of its manifest."""

    all_steps: bool
    digest: str
    size: int


class BuildState(StrEnum):
    """How a build is doing."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BuildSummary(Struct, frozen=True):
    """A build that goes on or has ended; see shoal.v1.BuildSummary."""

    request_id: str
    state: BuildState
    tag: str
    started_at: datetime
    ended_at: datetime | None = None
    image_id: str = ""
    error: str = ""


class BuildEstimate(Struct, frozen=True):
    """How many steps of a build would come from the cache of a host, and whether it holds the contexts."""

    cached_steps: int
    context_held: bool
    platform: Platform


class BuildSecret(Struct, frozen=True):
    """A secret's value; lives for one build, is never stored or logged."""

    value: bytes

    def __repr__(self) -> str:
        return "BuildSecret(...)"


class CacheTarget(Struct, frozen=True):
    """Where a build's cache is written: `all_steps` of all stages (mode=max), or only what the result has."""

    reference: str
    all_steps: bool = False
    ignore_errors: bool = False


class Provenance(Struct, frozen=True):
    """What is told of a build: `all` of it (mode=max), in a version of SLSA's predicate."""

    all: bool = False
    version: str = "v0.2"
    builder_id: str = ""
    """A URI that says who built."""
    reproducible: bool = False
    """What the caller claims."""


class LentCache(Struct, frozen=True):
    """A cache on the client's disk: the handle of the call that lends it, its name for people, and its manifest or
    index."""

    handle: str
    name: str
    media_type: str
    digest: str
    size: int


class CacheExport(Struct, frozen=True):
    """A cache of the build that the client fetches, of steps as in CacheTarget."""

    all_steps: bool = False
    ignore_errors: bool = False


NETWORK_HOST, SECURITY_INSECURE, DEVICE = "network.host", "security.insecure", "device"
"""What a caller can allow the steps of a build; each needs the role admin."""


class BuildRequest(Struct, frozen=True):
    """What to build; the context comes as a directory that the engine unpacked beforehand."""

    dockerfile: bytes
    dockerfile_name: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    no_cache: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    pull: bool = False
    credentials: RegistryCredentials | None = None
    network: str = "bridge"
    secrets: Mapping[str, BuildSecret] = field(default_factory=dict)
    """By id."""
    extra_hosts: tuple[str, ...] = ()
    ssh: Mapping[str, str] = field(default_factory=dict)
    """Handles of forwarded agents by id."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts: the reference of an image, or "" for a directory."""
    cache_from: tuple[str, ...] = ()
    """References of caches in registries."""
    cache_to: tuple[CacheTarget, ...] = ()
    lent_caches: tuple[LentCache, ...] = ()
    cache_exports: tuple[CacheExport, ...] = ()
    latest_ns: int | None = None
    """No file that the build adds is later (rewrite_times): SOURCE_DATE_EPOCH, in ns."""
    allow: frozenset[str] = frozenset()
    inline_cache: bool = False
    """The image says itself which steps its layers are of."""
    cache_credentials: tuple[RegistryCredentials, ...] = ()
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Contexts by manifest: its digest by the name of the context ("" for the main one)."""
    sbom: bool = False
    """The result has a list of its packages beside it."""
    provenance: Provenance | None = None
    """The result has beside it how it was made."""
    platforms: tuple[Platform, ...] = ()
    """Several: the result is an index of an image for each. Then `platform` is that of the image at hand."""

    @property
    def targets(self) -> tuple[Platform, ...]:
        """The platforms that are built for."""
        return self.platforms or (self.platform or Platform.host(),)


class Built(Struct, frozen=True):
    """The result of a build: what it means on this host, and the index that it is part of, if it is."""

    image: Image
    index: IndexRecord | None = None
