"""What a RUN may be given beyond a sandbox, if the caller allows it: the host's network, all rights, devices.

A Dockerfile must not take what its caller did not give, and may not have (BuildKit calls these entitlements).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shoal.errors import InvalidArgument, PermissionDenied
from shoald.containers.cdi_files import cdi_library
from shoald.dockerfile.steps import RunStep
from shoald.model.build import DEVICE, NETWORK_HOST, SECURITY_INSECURE, BuildRequest
from shoald.runtime.cdi import edits_of

INSECURE = "insecure"


def check_rights(step: RunStep, request: BuildRequest) -> None:
    """Raises PermissionDenied (NETWORK_HOST_REFUSED, SECURITY_INSECURE_REFUSED, DEVICE_REFUSED)."""
    if step.network == "host" and request.network != "host" and NETWORK_HOST not in request.allow:
        raise _refused("--network=host", "NETWORK_HOST_REFUSED", NETWORK_HOST)
    if step.security == INSECURE and SECURITY_INSECURE not in request.allow:
        raise _refused("--security=insecure", "SECURITY_INSECURE_REFUSED", SECURITY_INSECURE)
    if step.devices and DEVICE not in request.allow:
        raise _refused("--device", "DEVICE_REFUSED", DEVICE)


def cdi_devices(wanted: Sequence[str], directories: Sequence[Path]) -> tuple[str, ...]:
    """Names of CDI devices (`vendor/class=name[,required]`, also with name= before) that this host has. Blocking.

    Raises InvalidArgument (UNKNOWN_CDI_DEVICE) for one that is required and that it does not have.
    """
    if not wanted:
        return ()
    known = cdi_library(directories)
    found = []
    for text in wanted:
        first, *flags = text.split(",")
        name = first.removeprefix("name=")
        try:
            edits_of((name,), known)
        except InvalidArgument:
            if "required" in flags or "required=true" in flags:
                raise
            continue
        found.append(name)
    return tuple(found)


def _refused(flag: str, reason: str, right: str) -> PermissionDenied:
    return PermissionDenied(
        f"RUN {flag} is not allowed", reason=reason, hint=f"an admin can allow it for the build: --allow {right}"
    )
