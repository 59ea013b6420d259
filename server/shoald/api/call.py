"""The call that is being served: who makes it and under which id. Servicers ask here, the gate sets it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from shoal.errors import PermissionDenied
from shoal.pki import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `serial` is that of the certificate; empty on the unix socket."""

    name: str
    role: Role
    serial: str = ""


@dataclass(slots=True, eq=False)
class Call:
    """One RPC from its first to its last byte."""

    method: str
    trace_id: str
    """The client's x-request-id, or one that was made here: joins log lines, never decides anything."""
    streams: bool = False
    """Whether it answers with a stream, which may be without end."""
    caller: Caller | None = None
    operation_id: str = ""
    """The `request_id` of the message, when it has one."""
    target: str = ""
    """What it is about, for the audit log: a name or reference."""
    draining: bool = False
    """The daemon stops: the call ends with UNAVAILABLE."""


current: ContextVar[Call] = ContextVar("shoal_call")


def caller() -> Caller:
    """Who makes the present call."""
    who = current.get().caller
    assert who is not None, "the gate lets nobody in without a name"
    return who


def require(role: Role, what: str) -> None:
    """Raises PermissionDenied (ROLE_REQUIRED) unless the caller's role includes `role`; `what` is for the message."""
    have = caller().role
    if list(Role).index(have) > list(Role).index(role):
        raise role_required(what, have, role)


def role_required(what: str, have: Role, need: Role) -> PermissionDenied:
    """The refusal for want of a role."""
    return PermissionDenied(
        f"{what} needs the role {need}; your certificate has {have}",
        reason="ROLE_REQUIRED",
        hint=f"use a certificate with the role {need} (`shoal pki issue`)",
        metadata={"required": str(need), "role": str(have)},
    )
