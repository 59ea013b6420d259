"""`--creds`, or what docker login has stored, as the message that goes to the hosts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shoalctl.flags.fault import UsageFault

if TYPE_CHECKING:
    from shoal.v1 import types_pb2


def given(creds: str) -> tuple[str, str] | None:
    """User and password of `--creds user[:password]`, the latter else of SHOAL_REGISTRY_PASSWORD. Raises UsageFault."""
    if not creds:
        return None
    user, colon, password = creds.partition(":")
    password = password if colon else os.environ.get("SHOAL_REGISTRY_PASSWORD", "")
    if not user or not password:
        raise UsageFault("--creds needs USER:PASSWORD", hint="or USER, with the password in SHOAL_REGISTRY_PASSWORD")
    try:
        password.encode()
    except UnicodeEncodeError as error:
        raise UsageFault("the registry's password is not UTF-8") from error
    return user, password


async def credentials(creds: tuple[str, str] | None, reference: str) -> types_pb2.RegistryCredentials | None:
    """The credentials for a reference's registry, or None. Raises FailedPrecondition (reason REGISTRY_LOGIN)."""
    import asyncio

    from shoal.v1 import types_pb2
    from shoalctl.fleet.registry_auth import login_for

    if creds is not None:
        return types_pb2.RegistryCredentials(username=creds[0], password=creds[1])
    path = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    if not os.path.exists(os.path.join(path, "config.json")):
        return None
    login = await asyncio.to_thread(login_for, reference)
    if login is None:
        return None
    return types_pb2.RegistryCredentials(
        username=login.username, password=login.password, identity_token=login.identity_token
    )
