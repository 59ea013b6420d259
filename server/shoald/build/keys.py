"""Content keys of build steps; pure. A key says all that a step's result depends on, and nothing else.

The key of a stage's state is that of its base, then of each step that changes files, each one over the one before.
Times, names of stages and the order of unrelated steps do not enter.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from shoald.build.selection import CopyItem, Tree
from shoald.dockerfile.steps import DEFAULT_HOSTNAME, CopyStep, RunStep, WorkdirStep
from shoald.model.network import ABSTRACT, DEFAULT

_REMEMBERED = 5000
VERSION = 3
"""Raise it when a step's execution changes what it makes."""


class KnownKeys:
    """Content keys that were found out before, by what names all that they depend on: the state, the step, and the
    files that it reads, which never change (a context's digest, a snapshot)."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def get(self, state: str, step: str, source: str) -> str | None:
        """The key, or None."""
        key = (state, step, source)
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def note(self, state: str, step: str, source: str, key: str) -> None:
        """Remember a key, and forget those of least use."""
        self._known[state, step, source] = key
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def key_of(kind: str, parent: str, *parts: Any) -> str:
    """A key over plain JSON values. Names that are not UTF-8 count as what they are."""
    body = json.dumps([VERSION, kind, parent, *parts], separators=(",", ":"), sort_keys=True).encode()
    return "sha256:" + hashlib.sha256(body).hexdigest()


def base_key(chain_id: str) -> str:
    """The state that an image's layers make; "" for scratch."""
    return key_of("base", chain_id)


def run_key(
    parent: str, step: RunStep, platform: str, network: str, mounted: Sequence[str] = (), hosts: Sequence[str] = ()
) -> str:
    """A RUN: command, environment, user, directory, mounts; declared ARGs count even when unused. `mounted` says what
    the bind mounts hold (`tree_key`, or the id of a snapshot), `hosts` the names that the build adds. Which bridge
    network it is does not count."""
    network = step.network if step.network != "default" else network
    mounts = [
        [
            m.type.value,
            m.target,
            repr(m.base),
            m.source,
            m.read_only,
            m.id,
            m.sharing.value,
            m.size,
            m.mode,
            m.uid,
            m.gid,
            m.env,
        ]
        for m in step.mounts
    ]
    files = [[f.name, f.data] for f in step.files]
    return key_of(
        "run",
        parent,
        list(step.argv),
        sorted(step.env.items()),
        step.user,
        step.workdir,
        mounts,
        network if network in ABSTRACT else DEFAULT,
        step.security,
        files,
        list(step.build_args),
        platform,
        list(mounted),
        *([sorted(hosts)] if hosts else []),
        *(["devices", list(step.devices)] if step.devices else []),
        *(["hostname", step.hostname] if step.hostname != DEFAULT_HOSTNAME else []),
    )


def tree_key(tree: Tree, path: str) -> str:
    """What is at `path` and below it, by content, names and the metadata that a process sees; times do not count."""
    entries = [entry for entry in (tree.by_path.get(path),) if entry is not None]
    if entries and entries[0].kind == "d":
        entries += tree.below(path)
    prefix = path.rstrip("/")
    told = [
        [e.path.removeprefix(prefix), e.kind, e.mode, e.uid, e.gid, e.content, sorted(e.xattrs.items())]
        for e in entries
    ]
    return key_of("tree", "", told)


def workdir_key(parent: str, step: WorkdirStep) -> str:
    """A WORKDIR that makes a directory."""
    return key_of("workdir", parent, step.path, step.user)


def copy_key(parent: str, step: CopyStep, items: Iterable[CopyItem], archives: Sequence[str]) -> str:
    """A COPY or ADD: what it writes, by content and by the metadata that it sets; times do not count."""
    written = [
        [
            i.target,
            i.kind,
            i.mode,
            i.uid,
            i.gid,
            i.content,
            sorted(i.xattrs.items()),
            i.data,
            i.keep_existing,
            i.link_group,
        ]
        for i in items
    ]
    return key_of("copy", parent, step.dest, step.chown, step.chmod, step.unpack, step.link, written, list(archives))
