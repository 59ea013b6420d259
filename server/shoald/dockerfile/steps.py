"""What a stage has to do, after expansion: steps that change the file system and steps that change the config only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from shoald.dockerfile.errors import Span
from shoald.dockerfile.instructions import InlineFile

DEFAULT_HOSTNAME = "buildkitsandbox"
"""What a RUN step finds as its host's name; some packages write it into files."""


@dataclass(frozen=True, slots=True)
class ScratchBase:
    """The empty file system."""


@dataclass(frozen=True, slots=True)
class ImageBase:
    """An image by reference, as written (after expansion); it is a valid reference."""

    reference: str


@dataclass(frozen=True, slots=True)
class StageBase:
    """Another stage of the same Dockerfile, by index."""

    index: int


@dataclass(frozen=True, slots=True)
class ContextBase:
    """A build context: "" is the main one, else a named one (`--build-context`)."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class DirectoryBase:
    """A directory of the host that the builder made, in place of a source that had to be fetched."""

    path: Path


Base = ScratchBase | ImageBase | StageBase | ContextBase | DirectoryBase
"""Where a stage starts from, or where COPY and mounts take their files from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What all have: `text` to show, `created_by` for the history ("" for none) and the lines that it comes from."""

    text: str
    created_by: str
    span: Span
    onbuild: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MetaStep(Step):
    """Only the configuration changed."""


class MountType(Enum):
    """Types of `RUN --mount`."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Sharing(Enum):
    """What builds at the same time do with one cache mount: share it, get another, or wait."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMount:
    """One mount of a RUN.

    `target` is absolute; "" only for a secret that is given by environment variable alone, and for ssh without a
    target. `source` is a clean absolute path inside `base` (BIND: a file or directory that must exist and may be a
    symbolic link, to be resolved inside; CACHE: where the cache starts from). `id` names a cache, secret or agent.
    `size` in bytes, 0 for no limit. `mode`, `uid` and `gid` None: the type's default (cache 0755, secret 0400).
    """

    type: MountType
    target: str
    base: Base = ContextBase()
    source: str = "/"
    read_only: bool = True
    id: str = ""
    sharing: Sharing = Sharing.SHARED
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStep(Step):
    """Run `argv` in the stage's file system.

    `env` is the whole environment but for `proxy_env`, which must not enter the cache key and which `env` overrides.
    `user` is as in the config ("" is root). `files` (from a heredoc with `#!`) appear read-only and executable in
    /dev/pipes/. `build_args` are the declared ARGs, which are part of the cache key even when unused.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    workdir: str
    mounts: tuple[RunMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()
    files: tuple[InlineFile, ...] = ()
    proxy_env: Mapping[str, str] = field(default_factory=dict)
    build_args: tuple[tuple[str, str], ...] = ()
    hostname: str = DEFAULT_HOSTNAME


@dataclass(frozen=True, slots=True)
class PathSource:
    """Files of `CopyStep.base`: a clean absolute path, maybe with wildcards (Go's filepath.Match, `**` not special).

    `pattern` (only with --parents): what below `path` to take, keeping its directories.
    """

    path: str
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file to fetch over http or https; `name` is the file's name when the destination is a directory."""

    url: str
    name: str


@dataclass(frozen=True, slots=True)
class GitSource:
    """A git repository, as written: url[#ref[:subdir]]."""

    url: str


CopySource = PathSource | UrlSource | GitSource


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyStep(Step):
    """Copy files into the stage.

    `dest` is absolute and clean; `dest_is_dir` when it was written with a final slash (or more than one file goes
    there). Directories given as sources give their contents. `chown` is "" (0:0) or user[:group]; `chmod` "", octal or
    symbolic. `unpack`: local archives are unpacked. `exclude` are .dockerignore patterns relative to the source's root.
    """

    base: Base
    sources: tuple[CopySource, ...]
    files: tuple[InlineFile, ...]
    dest: str
    dest_is_dir: bool
    add: bool = False
    unpack: bool = False
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkdirStep(Step):
    """Make the directory `path` with its parents, mode 0755, owned by `user` ("" is root), unless it is there."""

    path: str
    user: str
