"""Overlay mounts over many, possibly idmapped, layers.

Layers are handed to the kernel as descriptors (or as /proc/self/fd/N where it wants paths), so that neither the length
nor the characters of a path matter. Three ways, the best that the kernel has: descriptors of detached mounts (Linux
6.15), `lowerdir+` strings (6.7), mount(2) with one page of options. Verified with xino at its default.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument
from shoald.host import mounts, syscall
from shoald.host.mounts import MountFlags, StrPath
from shoald.host.pid import process_start_time
from shoald.host.syscall import failure
from shoald.host.userns import IdMap

MAX_LOWERS = 128
"""Layers of one overlay: enough for every image in use, and all of them fit into one page of options."""

_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_SET_FD, _FSCONFIG_CMD_CREATE = 0, 1, 5, 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1

_SCRATCH_PARENT = Path("/run")
_SCRATCH = "shoal-layers-"

# A layer must mean the same on every host, and an xattr in an image must not name another path of it.
_OPTIONS = {"index": "off", "metacopy": "off", "redirect_dir": "nofollow"}


@dataclass(frozen=True, slots=True)
class LowerLayer:
    """One lower directory and how its ids on disk appear (None: as they are)."""

    path: Path
    idmap: IdMap | None = None


@dataclass(frozen=True, slots=True)
class _Stack:
    """Open descriptors of all directories of an overlay; lowers from the top down."""

    lowers: tuple[int, ...]
    clones: tuple[int, ...]
    upper: int | None
    work: int | None
    target: int
    flags: MountFlags
    volatile: bool


def overlay(
    target: StrPath,
    lowers: Sequence[LowerLayer],
    upper: StrPath | None = None,
    work: StrPath | None = None,
    *,
    userns: Mapping[IdMap, int] | None = None,
    flags: MountFlags = MountFlags.NONE,
    volatile: bool = False,
) -> None:
    """Mount an overlay of `lowers` (the topmost first) and a plain, writable `upper` at the directory `target`.

    `userns` holds a descriptor for each idmap of the lowers (`UserNamespaces.hold`). Without `upper` the mount is
    read-only. `volatile` skips all syncs: for throw-away uppers; such an upper can't be mounted a second time.
    Blocks for 0.3 to 3 ms. Raises InvalidArgument, and what `failure` makes of an errno.
    """
    if not 1 <= len(lowers) <= MAX_LOWERS:
        message = f"an overlay takes 1 to {MAX_LOWERS} lower layers, not {len(lowers)}"
        raise InvalidArgument(message, reason="TOO_MANY_LAYERS")
    if (upper is None) != (work is None):
        raise InvalidArgument("upper and work directories go together", reason="INVALID_OVERLAY")
    with contextlib.ExitStack() as stack:
        opened = [_open_lower(stack, layer, userns or {}) for layer in lowers]
        plan = _Stack(
            lowers=tuple(fd for fd, _ in opened),
            clones=tuple(fd for fd, cloned in opened if cloned),
            upper=_open_directory(stack, upper) if upper is not None else None,
            work=_open_directory(stack, work) if work is not None else None,
            target=_open_directory(stack, target),
            flags=flags | (MountFlags.READ_ONLY if upper is None else MountFlags.NONE),
            volatile=volatile,
        )
        if len(lowers) == 1 and upper is None:
            # Old kernels refuse an overlay of one layer.
            _attach_single(plan, target)
        else:
            _mount(plan, target)


def _open_directory(stack: contextlib.ExitStack, path: StrPath) -> int:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise failure("open directory of an overlay", error.errno or 0, path=path) from error
    stack.callback(os.close, fd)
    return fd


def _open_lower(stack: contextlib.ExitStack, layer: LowerLayer, userns: Mapping[IdMap, int]) -> tuple[int, bool]:
    directory = _open_directory(stack, layer.path)
    if layer.idmap is None or layer.idmap.identity:
        return directory, False
    try:
        clone = mounts.clone_tree(directory)
        stack.callback(os.close, clone)
        mounts.set_attributes(clone, userns=userns[layer.idmap], private=True)
    except OSError as error:
        raise failure("map ids of layer", error.errno or 0, path=layer.path) from error
    return clone, True


def _attach_single(plan: _Stack, target: StrPath) -> None:
    try:
        tree = plan.lowers[0]
        if not plan.clones:
            tree = mounts.clone_tree(tree)
        try:
            mounts.set_attributes(tree, plan.flags, private=True)
            mounts.attach(tree, plan.target)
        finally:
            if not plan.clones:
                os.close(tree)
    except OSError as error:
        raise failure("mount layer on", error.errno or 0, path=target) from error


class _Refused(OSError):
    """A kernel's refusal together with its own words, which only the new mount API gives."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(code, os.strerror(code))
        self.words = words


_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_ways: list[Callable[[_Stack], None]] = []
"""The ways still to be tried, best first; the first that ever succeeded stays alone."""


def _mount(plan: _Stack, target: StrPath) -> None:
    if not _ways:
        _ways.extend([_by_descriptors, _by_strings, _by_page])
    words, code = "", 0
    for way in tuple(_ways):
        try:
            way(plan)
        except OSError as error:
            words = words or getattr(error, "words", "")
            code = error.errno or 0
            if code not in _UNSUPPORTED:
                break
        else:
            _ways[:] = [way]
            return
    raise failure("mount overlay on", code, path=target, detail=words)


def _by_descriptors(plan: _Stack) -> None:
    _by_context(plan, lambda context, key, fd: _configure(context, _FSCONFIG_SET_FD, key, None, fd))


def _by_strings(plan: _Stack) -> None:
    with _attached(plan.clones):
        _by_context(plan, lambda context, key, fd: _configure(context, _FSCONFIG_SET_STRING, key, _fd_path(fd)))


def _by_context(plan: _Stack, give: Callable[[int, str, int], None]) -> None:
    context = syscall.syscall(syscall.FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        for key, value in _OPTIONS.items():
            _configure(context, _FSCONFIG_SET_STRING, key, value)
        if plan.volatile and plan.upper is not None:
            _configure(context, _FSCONFIG_SET_FLAG, "volatile", None)
        for fd in plan.lowers:
            give(context, "lowerdir+", fd)
        if plan.upper is not None and plan.work is not None:
            give(context, "upperdir", plan.upper)
            give(context, "workdir", plan.work)
        _configure(context, _FSCONFIG_CMD_CREATE, None, None)
        tree = syscall.syscall(syscall.FSMOUNT, context, _FSMOUNT_CLOEXEC, int(plan.flags))
        try:
            mounts.attach(tree, plan.target)
        finally:
            os.close(tree)
    finally:
        os.close(context)


def _configure(context: int, command: int, key: str | None, value: str | None, auxiliary: int = 0) -> None:
    name = key.encode() if key is not None else None
    data = value.encode() if value is not None else None
    try:
        syscall.syscall(syscall.FSCONFIG, context, command, name, data, auxiliary)
    except OSError as error:
        raise _Refused(error.errno or 0, _words(context)) from error


def _words(context: int) -> str:
    """What the kernel logged in the context: messages "e overlay: text", one a read, until ENODATA."""
    words = []
    with contextlib.suppress(OSError):
        while message := os.read(context, 4096):
            words.append(message[2:].decode(errors="replace").strip())
    return "; ".join(words)


def _by_page(plan: _Stack) -> None:
    options = [f"lowerdir={':'.join(_fd_path(fd) for fd in plan.lowers)}"]
    if plan.upper is not None and plan.work is not None:
        options += [f"upperdir={_fd_path(plan.upper)}", f"workdir={_fd_path(plan.work)}"]
        options += ["volatile"] if plan.volatile else []
    options += [f"{key}={value}" for key, value in _OPTIONS.items()]
    with _attached(plan.clones):
        target = _fd_path(plan.target).encode()
        syscall.mount(b"overlay", target, b"overlay", int(plan.flags), ",".join(options).encode())


def _fd_path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def remove_stale_scratch() -> list[Path]:
    """Unmount and remove what processes that were killed in the middle of `overlay` left; what it removed."""
    stale = [path for path in _SCRATCH_PARENT.glob(f"{_SCRATCH}*-*") if not _alive(path.name)]
    for path in stale:
        mounts.unmount_tree(path, detach=True)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
    return stale


def _alive(name: str) -> bool:
    pid = name.removeprefix(_SCRATCH).partition("-")[0]
    return pid.isdigit() and process_start_time(int(pid)) is not None


@contextlib.contextmanager
def _attached(clones: tuple[int, ...]) -> Iterator[None]:
    """Attach idmapped clones while the overlay is made: kernels before 6.15 take no detached mount as a layer.

    The overlay keeps private clones of its own, so the scratch mounts go at once.
    """
    if not clones:
        yield
        return
    with contextlib.ExitStack() as undo:
        scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=_SCRATCH_PARENT)
        undo.callback(os.rmdir, scratch)
        # One private tmpfs below all of them: its detachment takes them along and nothing propagates.
        mounts.mount("shoal-layers", scratch, "tmpfs", MountFlags.NODEV | MountFlags.NOSUID, "mode=0700")
        undo.callback(mounts.unmount, scratch, detach=True)
        mounts.make_private(scratch)
        for number, clone in enumerate(clones):
            place = os.path.join(scratch, str(number))
            os.mkdir(place)
            mounts.attach(clone, place)
        yield
