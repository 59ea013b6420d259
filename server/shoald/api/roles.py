"""Who may call what: one table for every method that the server has. A method without an entry is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shoal.pki import Role


class Access(NamedTuple):
    """The roles that may call a method, and whether it changes anything (then each call is in the audit log)."""

    roles: frozenset[Role]
    mutates: bool


_READ = Access(frozenset(Role), mutates=False)
_WRITE = Access(frozenset({Role.ADMIN, Role.OPERATOR}), mutates=True)
_FOLLOW = Access(frozenset({Role.ADMIN, Role.OPERATOR}), mutates=False)

METHODS: Mapping[str, Access] = {
    "/shoal.v1.ImageService/Pull": _WRITE,
    "/shoal.v1.ImageService/Push": _WRITE,
    "/shoal.v1.ImageService/Build": _WRITE,
    "/shoal.v1.ImageService/FollowBuild": _FOLLOW,
    "/shoal.v1.ImageService/List": _READ,
    "/shoal.v1.ImageService/Inspect": _READ,
    "/shoal.v1.ImageService/Tag": _WRITE,
    "/shoal.v1.ImageService/Remove": _WRITE,
    "/shoal.v1.ContainerService/Run": _WRITE,
    "/shoal.v1.ContainerService/Start": _WRITE,
    "/shoal.v1.ContainerService/Stop": _WRITE,
    "/shoal.v1.ContainerService/Kill": _WRITE,
    "/shoal.v1.ContainerService/Wait": _READ,
    "/shoal.v1.ContainerService/Remove": _WRITE,
    "/shoal.v1.ContainerService/List": _READ,
    "/shoal.v1.ContainerService/Inspect": _READ,
    "/shoal.v1.ContainerService/Logs": _READ,
    "/shoal.v1.ContainerService/Attach": _WRITE,
    "/shoal.v1.VolumeService/List": _READ,
    "/shoal.v1.VolumeService/Remove": _WRITE,
    "/shoal.v1.SystemService/Ping": _READ,
    "/shoal.v1.SystemService/Version": _READ,
    "/shoal.v1.SystemService/Info": _READ,
    "/shoal.v1.SystemService/Events": _READ,
    "/shoal.v1.SystemService/Cancel": _WRITE,
    "/grpc.health.v1.Health/Check": _READ,
    "/grpc.health.v1.Health/List": _READ,
    "/grpc.health.v1.Health/Watch": _READ,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _READ,
}
