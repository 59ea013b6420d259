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
    "/shoal.v1.ImageService/EstimateBuild": _FOLLOW,
    "/shoal.v1.ImageService/Save": _FOLLOW,
    "/shoal.v1.ImageService/Load": _WRITE,
    "/shoal.v1.ImageService/Export": _FOLLOW,
    "/shoal.v1.ImageService/ListBuilds": _FOLLOW,
    "/shoal.v1.ImageService/ForwardAgent": _WRITE,
    "/shoal.v1.ImageService/LendCache": _WRITE,
    "/shoal.v1.ImageService/ReadCacheBlob": _FOLLOW,
    "/shoal.v1.ImageService/ListBuildCache": _FOLLOW,
    "/shoal.v1.ImageService/PruneBuildCache": _WRITE,
    "/shoal.v1.ImageService/List": _READ,
    "/shoal.v1.ImageService/Inspect": _READ,
    "/shoal.v1.ImageService/CreateIndex": _WRITE,
    "/shoal.v1.ImageService/InspectIndex": _READ,
    "/shoal.v1.ImageService/Tag": _WRITE,
    "/shoal.v1.ImageService/Remove": _WRITE,
    "/shoal.v1.ImageService/Prune": _WRITE,
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
    "/shoal.v1.ContainerService/Create": _WRITE,
    "/shoal.v1.ContainerService/Restart": _WRITE,
    "/shoal.v1.ContainerService/Pause": _WRITE,
    "/shoal.v1.ContainerService/Unpause": _WRITE,
    "/shoal.v1.ContainerService/Rename": _WRITE,
    "/shoal.v1.ContainerService/Update": _WRITE,
    "/shoal.v1.ContainerService/Top": _FOLLOW,
    "/shoal.v1.ContainerService/Stats": _READ,
    "/shoal.v1.ContainerService/Changes": _READ,
    "/shoal.v1.ContainerService/Commit": _WRITE,
    "/shoal.v1.ContainerService/Export": _FOLLOW,
    "/shoal.v1.ContainerService/Prune": _WRITE,
    "/shoal.v1.ContainerService/Exec": _WRITE,
    "/shoal.v1.ContainerService/ExecAttach": _WRITE,
    "/shoal.v1.ContainerService/ExecKill": _WRITE,
    "/shoal.v1.ContainerService/CopyIn": _WRITE,
    "/shoal.v1.ContainerService/CopyOut": _FOLLOW,
    "/shoal.v1.ContainerService/StatPath": _FOLLOW,
    "/shoal.v1.NetworkService/Create": _WRITE,
    "/shoal.v1.NetworkService/List": _READ,
    "/shoal.v1.NetworkService/Inspect": _READ,
    "/shoal.v1.NetworkService/Remove": _WRITE,
    "/shoal.v1.NetworkService/Prune": _WRITE,
    "/shoal.v1.NetworkService/Connect": _WRITE,
    "/shoal.v1.NetworkService/Disconnect": _WRITE,
    "/shoal.v1.FileService/Missing": _FOLLOW,
    "/shoal.v1.FileService/Put": _WRITE,
    "/shoal.v1.FileService/Assemble": _WRITE,
    "/shoal.v1.FileService/PrepareContext": _FOLLOW,
    "/shoal.v1.FileService/Replace": _WRITE,
    "/shoal.v1.FileService/PutSecret": _WRITE,
    "/shoal.v1.VolumeService/Create": _WRITE,
    "/shoal.v1.VolumeService/Inspect": _READ,
    "/shoal.v1.VolumeService/Prune": _WRITE,
    "/shoal.v1.VolumeService/Export": _FOLLOW,
    "/shoal.v1.VolumeService/Import": _WRITE,
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
