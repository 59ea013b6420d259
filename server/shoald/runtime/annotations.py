"""Annotations are passed on to the OCI runtime, and some of them tell it what to do: those are not the caller's."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.errors import InvalidArgument

_RESERVED = (
    "run.oci.",  # crun: seccomp filters, hooks' files, handlers, cgroups (crun(1))
    "krun.",
    "module.wasm.",
    "org.systemd.property.",  # crun and runc: properties of the cgroup's unit
    "org.criu.",
    "io.katacontainers.",
    "org.opencontainers.runc.",
)


def check_annotations(annotations: Mapping[str, str]) -> None:
    """Raises InvalidArgument (INVALID_ANNOTATION)."""
    for key in annotations:
        if not key.strip():
            raise InvalidArgument("an annotation has no key", reason="INVALID_ANNOTATION", hint="write KEY=VALUE")
        if key.lower().startswith(_RESERVED):
            raise InvalidArgument(
                f"annotation {key!r} is an instruction for the OCI runtime and can't be set",
                reason="INVALID_ANNOTATION",
            )
