"""Program: unpack a tar archive from standard input into the working directory, confined to it.

    python -I -m shoald.host.unpack --mode layer|context|archive|volume [--into PATH] [--id-base N]
        [--owner UID:GID] [--max-bytes N] [--max-entries N] [--max-ratio N]

`layer` is an OCI image layer (image-spec `layer.md`: whiteouts become overlayfs's), `context` a build context (all is
root's, neither devices nor xattrs), `archive` what ADD takes (also bzip2 and xz), `volume` the content of a volume (no
devices). `--into` is a path inside the working directory, which stays the root that symlinks are resolved in. The
compression is found by magic bytes.

Writes one line of JSON: {"diff_id", "tar_bytes", "content_bytes", "entries", "implicit", "opaque_root"}, or
{"error": reason, "message"} and exits with 1. What was unpacked of a bad archive is left for the caller to remove.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys

from shoald.host.confine import CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP, SYS_ADMIN, confine
from shoald.host.extract import ARCHIVE, CONTEXT, LAYER, VOLUME, Extractor, Rules, clean
from shoald.host.tarmembers import members
from shoald.host.tarsource import ARCHIVE_FORMATS, LAYER_FORMATS, Limits, Refused, TarSource, preload

MODES = {
    "layer": (LAYER, LAYER_FORMATS),
    "context": (CONTEXT, LAYER_FORMATS),
    "archive": (ARCHIVE, ARCHIVE_FORMATS),
    "volume": (VOLUME, LAYER_FORMATS),
}
_KEEP = frozenset({CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP})
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What only the archive's own names and numbers can bring about.
_OF_ARCHIVE = (
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.EMLINK,
    errno.EFBIG,
    errno.ERANGE,
)


def main() -> int:
    """Run; the exit status."""
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    rules, formats = MODES[options["--mode"]]
    rules = dataclasses.replace(rules, id_base=int(options.get("--id-base", "0")))
    if "--owner" in options:
        uid, _, gid = options["--owner"].partition(":")
        rules = dataclasses.replace(rules, owner=(int(uid), int(gid)))
    default = Limits()
    limits = Limits(
        total=int(options.get("--max-bytes", default.total)),
        entries=int(options.get("--max-entries", default.entries)),
        ratio=int(options.get("--max-ratio", default.ratio)),
    )
    into = os.fsencode(options.get("--into", ""))
    try:
        preload(formats)
        confine(keep=_KEEP, raised_later=frozenset({SYS_ADMIN}))
        os.umask(0)
        result = _unpack(rules, formats, limits, into)
    except Refused as error:
        result = {"error": error.reason, "message": str(error)}
    except OSError as error:
        result = {"error": _reason(error), "message": _message(error), "errno": error.errno}
    print(json.dumps(result), flush=True)  # noqa: T201 -- the program's output
    # The thread may still wait for input that nobody will read.
    os._exit(1 if "error" in result else 0)


def _unpack(rules: Rules, formats: tuple[str, ...], limits: Limits, into: bytes) -> dict[str, object]:
    source = TarSource(0, limits, formats)
    extractor = Extractor(source, rules, limits, clean(into))
    if into:
        extractor.make_directory(clean(into))
    for member in members(source):
        extractor.add(member)
    diff_id, size = source.finish()
    extractor.finish()
    return {
        "diff_id": diff_id,
        "tar_bytes": size,
        "content_bytes": extractor.content_bytes,
        "entries": extractor.entries,
        "implicit": [os.fsdecode(path) for path in extractor.implicit],
        "opaque_root": extractor.opaque_root,
    }


def _reason(error: OSError) -> str:
    if error.errno in _FULL:
        return "DISK_FULL"
    return "BAD_ARCHIVE" if error.errno in _OF_ARCHIVE else "SYSCALL_FAILED"


def _message(error: OSError) -> str:
    where = f" {os.fsdecode(error.filename)[:200]!a}" if isinstance(error.filename, str | bytes) else ""
    return f"unpack{where}: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
