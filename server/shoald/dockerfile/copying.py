"""COPY and ADD: where the files come from, where they go, and the line of the history."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.paths import clean, is_directory_form
from shoald.dockerfile.steps import Base, ContextBase, CopySource, CopyStep, GitSource, PathSource, UrlSource

if TYPE_CHECKING:
    from shoald.dockerfile.transition import Transition

_SYMBOLIC = re.compile(r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*")
_GIT_URL = re.compile(r"https?://[^#?]+\.git(?:[#?].*)?", re.DOTALL)
_GIT_SCHEME = re.compile(r"(?:git|ssh)://|git@[^/\s]+:|github\.com/")


def copy_step(work: Transition, each: ins.Copy | ins.Add) -> CopyStep:
    """The step of a COPY or ADD. Raises ValueError and DockerfileError."""
    base: Base = work.plan.copy_base(each) if isinstance(each, ins.Copy) else ContextBase()
    parents = isinstance(each, ins.Copy) and each.parents
    chown, chmod = work.expand(each.chown), work.expand(each.chmod)
    _check_mode(chmod)
    written = [work.expand(source) for source in each.sources]
    dest = work.expand(each.dest)
    sources = tuple(_source(each, source, parents) for source in written)
    files = tuple(
        ins.InlineFile(f.name, work.expansion(f.data, raw=True).text if f.expand else f.data) for f in each.files
    )
    checksum = work.expand(each.checksum) if isinstance(each, ins.Add) else ""
    if checksum:
        _check_checksum(checksum, sources)
    return CopyStep(
        text=work.shown(each.text),
        created_by=_created_by(each, written, files, parents, chown, chmod, dest),
        span=each.span,
        onbuild=each.onbuild,
        base=base,
        sources=sources,
        files=files,
        dest=clean(dest, work.config.working_dir or "/"),
        dest_is_dir=is_directory_form(dest) or len(sources) + len(files) > 1,
        add=isinstance(each, ins.Add),
        unpack=_unpacks(each, sources),
        chown=chown,
        chmod=chmod,
        link=each.link,
        parents=parents,
        exclude=tuple(work.expand(pattern) for pattern in each.exclude),
        checksum=checksum,
        keep_git_dir=isinstance(each, ins.Add) and bool(each.keep_git_dir),
    )


def _created_by(
    each: ins.Copy | ins.Add,
    written: list[str],
    files: tuple[ins.InlineFile, ...],
    parents: bool,
    chown: str,
    chmod: str,
    dest: str,
) -> str:
    words = ["ADD" if isinstance(each, ins.Add) else "COPY"]
    words += ["--parents"] if parents else []
    words += [f"--chown={chown}"] if chown else []
    words += [f"--chmod={chmod}"] if chmod else []
    return " ".join([*words, *written, *(f"<<{file.name}" for file in files), dest, "# buildkit"])


def _source(each: ins.Copy | ins.Add, text: str, parents: bool) -> CopySource:
    is_add = isinstance(each, ins.Add)
    if _GIT_SCHEME.match(text) or _GIT_URL.fullmatch(text):
        if is_add:
            return GitSource(text)
        if not text.startswith("github.com/"):
            raise ValueError("source can't be a git ref for COPY")
    if text.startswith(("http://", "https://")):
        if not is_add:
            raise ValueError("source can't be a URL for COPY")
        return UrlSource(text, _url_name(text))
    if not parents:
        return PathSource(clean(text))
    pivot, found, pattern = text.partition("/./")
    path, rest = (clean(pivot), pattern) if found else ("/", text)
    return PathSource(path, clean(rest).removeprefix("/"))


def _url_name(url: str) -> str:
    try:
        name = posixpath.basename(unquote(urlsplit(url).path).rstrip("/"))
    except ValueError as e:
        raise ValueError(f"invalid URL {url[:200]!r}: {e}") from None
    return name if name not in {"", ".", ".."} and "\0" not in name else "__unnamed__"


def _unpacks(each: ins.Copy | ins.Add, sources: tuple[CopySource, ...]) -> bool:
    """ADD unpacks local archives unless told otherwise, and remote ones only when told to."""
    if not isinstance(each, ins.Add):
        return False
    if each.unpack is not None:
        return each.unpack
    return any(isinstance(source, PathSource) for source in sources)


def _check_mode(chmod: str) -> None:
    if not chmod or _SYMBOLIC.fullmatch(chmod):
        return
    if not re.fullmatch("[0-7]{1,8}", chmod) or int(chmod, 8) > 0o7777:
        shown = chmod[:200]
        raise ValueError(f"invalid chmod parameter: '{shown}'. it should be octal string and between 0 and 07777")


def _check_checksum(checksum: str, sources: tuple[CopySource, ...]) -> None:
    if len(sources) != 1:
        raise ValueError("checksum can't be specified for multiple sources")
    if isinstance(sources[0], PathSource):
        raise ValueError("checksum requires HTTP(S) or Git sources")
    if isinstance(sources[0], GitSource):
        return  # a commit
    try:
        algorithm = Digest.parse(checksum).algorithm
    except InvalidArgument as e:
        raise ValueError(f"invalid checksum {checksum[:200]!r}: {e.message}") from None
    if algorithm != "sha256":
        raise ValueError(f"unsupported checksum algorithm {algorithm}: only sha256 is supported")
