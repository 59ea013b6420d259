"""What only an administrator may have is refused to everybody else, on every way that makes containers."""

from __future__ import annotations

import ast
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from msgspec.structs import replace

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoal.v1 import file_pb2, volume_pb2
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from shoal.v1.file_pb2_grpc import FileServiceStub
from shoal.v1.volume_pb2_grpc import VolumeServiceStub
from shoald.api.server import SERVICES
from shoald.engine.ports import ContainerDetails
from shoald.engine.volume_ports import VolumeFilter
from shoald.model.snapshot import Volume
from tests.support.api_server import Fleet, credentials, error_info, serving
from tests.support.fake_engine import CONTAINER, NOW, FakeEngine, FakeVolumes

API = Path(__file__).parents[2] / "server" / "shoald" / "api"

PRIVILEGED: dict[str, dict[str, Any]] = {
    "privileged": {"privileged": True},
    "userns": {"userns": "host"},
    "pid": {"pid_mode": "host"},
    "ipc": {"ipc_mode": "host"},
    "uts": {"uts_mode": "host"},
    "cgroupns": {"cgroupns_mode": "host"},
    "device": {"devices": [pb.Device(path_on_host="/dev/fuse")]},
    "device rule": {"device_cgroup_rules": ["a *:* rwm"]},
    "cdi": {"cdi_devices": ["nvidia.com/gpu=all"]},
    "capability": {"cap_add": ["sys_admin"]},
    "all capabilities": {"cap_add": ["CAP_ALL"]},
    "capability among others": {"cap_add": ["chown", "Net_Admin"]},
    "seccomp": {"security_options": ["seccomp=unconfined"]},
    "seccomp, old spelling": {"security_options": ["seccomp:unconfined"]},
    "a profile that allows all": {"security_options": [f"seccomp={json.dumps({'defaultAction': 'SCMP_ACT_ALLOW'})}"]},
    "the last one counts": {"security_options": ["seccomp=builtin", "seccomp=unconfined"]},
    "system paths": {"security_options": ["systempaths=unconfined"]},
}
INNOCENT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "default capabilities": {"cap_add": ["CHOWN", "cap_mknod"], "cap_drop": ["ALL"]},
    "options": {"security_options": ["no-new-privileges:false", "label=disable", "seccomp=builtin"]},
    "limits": {"resources": pb.Resources(memory_bytes=1 << 30, cpu_shares=5), "shm_size_bytes": 1 << 20},
    "names": {"dns": ["1.1.1.1"], "extra_hosts": ["a:1.2.3.4"], "sysctls": {"net.core.somaxconn": "5"}},
}


def _holds_a_spec(message: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    if message.full_name == pb.ContainerSpec.DESCRIPTOR.full_name:
        return True
    return message.full_name not in seen and any(
        _holds_a_spec(field.message_type, seen | {message.full_name})
        for field in message.fields
        if field.message_type is not None
    )


def _making() -> Iterator[str]:
    """Every method whose request can say what a container is to be."""
    for service in SERVICES:
        for method in Default().FindServiceByName(service).methods:
            if _holds_a_spec(method.input_type):
                yield f"/{service}/{method.name}"


def test_these_methods_make_containers() -> None:
    assert set(_making()) == {"/shoal.v1.ContainerService/Run", "/shoal.v1.ContainerService/Create"}


def test_nothing_else_turns_messages_into_specs() -> None:
    """`spec_of` is called where the role is checked, and nowhere else."""
    callers = {
        path.name
        for path in API.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "spec_of"
    }
    assert callers == {"privileges.py"}


async def _refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, str] | None:
    """Code, reason and the role that is required; None when it was allowed."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_info(error)
        return error.code(), info.reason, info.metadata["required"]
    return None


@pytest.mark.parametrize("method", sorted(_making()))
async def test_privileges_need_an_admin(tmp_path: Path, method: str) -> None:
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    service, name = method.removeprefix("/").split("/")
    request_type = GetMessageClass(Default().FindServiceByName(service).methods_by_name[name].input_type)
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        for role in (Role.OPERATOR, Role.ADMIN):
            trust = credentials(fleet.ca.cert_pem, fleet.user("someone", role))
            async with grpc.aio.secure_channel(running.address, trust) as channel:
                call = channel.unary_unary(method, request_type.SerializeToString, bytes)
                for what, fields in {**PRIVILEGED, **INNOCENT}.items():
                    engine.calls.clear()
                    request = request_type(spec=pb.ContainerSpec(image="busybox", **fields))
                    refusal = await _refusal(call(request))
                    refused = refusal is not None
                    assert refusal in (None, (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", "admin")), what
                    assert refused == (role is Role.OPERATOR and what in PRIVILEGED), what
                    assert bool(engine.calls) != refused, what


class Joined(FakeEngine):
    """Its containers have this user namespace, and this in their requests."""

    def __init__(self, base: int, spec: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._base = base
        self._spec = dict(spec or {})

    async def inspect_container(self, name: str) -> ContainerDetails:
        found = await super().inspect_container(name)
        spec = replace(found.container.spec, **self._spec)
        return replace(found, container=replace(found.container, userns_base=self._base, spec=spec))


@pytest.mark.parametrize(("base", "allowed"), [(0, False), (0x70000000, True)])
async def test_joining_the_hosts_user_namespace_by_way_of_another_container(
    tmp_path: Path, base: int, allowed: bool
) -> None:
    fleet, engine = Fleet.make(tmp_path), Joined(base)
    fields: list[dict[str, str]] = [
        {"network": "container:web"}, {"pid_mode": "container:web"}, {"ipc_mode": "container:web"},
    ]  # fmt: skip
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", Role.OPERATOR))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            for each in fields:
                request = pb.ContainerServiceRunRequest(spec=pb.ContainerSpec(image="busybox", **each))
                if allowed:
                    await ContainerServiceStub(channel).Run(request)
                    (field,) = each
                    assert getattr(engine.asked("run")[1], field) == f"container:{CONTAINER.id}"
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ContainerServiceStub(channel).Run(request)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


Way = Callable[[grpc.aio.Channel], Awaitable[object]]
INTO: dict[str, Way] = {
    "exec": lambda channel: ContainerServiceStub(channel).Exec(_order()),
    "exec attached": lambda channel: _first(ContainerServiceStub(channel).ExecAttach, {"exec": _order()}),
    "exec of another": lambda channel: _first(ContainerServiceStub(channel).ExecAttach, {"exec_id": "e" * 64}),
    "exec kill": lambda channel: ContainerServiceStub(channel).ExecKill(
        pb.ContainerServiceExecKillRequest(exec_id="e" * 64)
    ),
    "copy in": lambda channel: ContainerServiceStub(channel).CopyIn(
        iter([pb.ContainerServiceCopyInRequest(start={"name": "web", "path": "/"})])
    ),
    "copy out": lambda channel: (
        ContainerServiceStub(channel).CopyOut(pb.ContainerServiceCopyOutRequest(name="web", path="/")).read()
    ),
    "stat": lambda channel: ContainerServiceStub(channel).StatPath(
        pb.ContainerServiceStatPathRequest(name="web", path="/")
    ),
    "export": lambda channel: ContainerServiceStub(channel).Export(pb.ContainerServiceExportRequest(name="web")).read(),
    "commit": lambda channel: ContainerServiceStub(channel).Commit(pb.ContainerServiceCommitRequest(name="web")),
    "join of processes": lambda channel: ContainerServiceStub(channel).Run(
        pb.ContainerServiceRunRequest(spec=pb.ContainerSpec(image="busybox", pid_mode="container:web"))
    ),
    "join of memory": lambda channel: ContainerServiceStub(channel).Create(
        pb.ContainerServiceCreateRequest(spec=pb.ContainerSpec(image="busybox", ipc_mode="container:web"))
    ),
    "input": lambda channel: _first(ContainerServiceStub(channel).Attach, {"name": "web", "stdin": True}),
    "files": lambda channel: FileServiceStub(channel).Replace(
        file_pb2.FileServiceReplaceRequest(name="web", target="/c", digest="sha256:" + "0" * 64)
    ),
    "secret": lambda channel: FileServiceStub(channel).PutSecret(
        file_pb2.FileServicePutSecretRequest(value=b"x", container="web", target="/run/secrets/x")
    ),
}


def _order() -> pb.ContainerServiceExecRequest:
    return pb.ContainerServiceExecRequest(request_id="0123456789abcdef0123", name="web", command=["id"])


async def _first(method: Any, start: dict[str, object]) -> object:
    kind = pb.ContainerServiceAttachRequest if "stdin" in start else pb.ContainerServiceExecAttachRequest
    call = method()
    try:
        await call.write(kind(start=start))
        return await call.read()
    finally:
        call.cancel()


@pytest.mark.parametrize("way", INTO)
@pytest.mark.parametrize(
    ("base", "spec", "role", "allowed"),
    [
        (0x70000000, {}, Role.OPERATOR, True),
        (0, {}, Role.OPERATOR, False),
        (0x70000000, {"cap_add": ("SYS_ADMIN",)}, Role.OPERATOR, False),
        (0, {"privileged": True}, Role.OPERATOR, False),
        (0, {"privileged": True}, Role.ADMIN, True),
    ],
    ids=["plain", "userns-host", "capability", "privileged", "admin"],
)
async def test_a_container_of_an_admins_is_entered_only_by_one(
    tmp_path: Path, way: str, base: int, spec: dict[str, Any], role: Role, allowed: bool
) -> None:
    fleet, engine = Fleet.make(tmp_path), Joined(base, spec)
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", role))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            code, required = None, ""
            try:
                await INTO[way](channel)
            except grpc.aio.AioRpcError as error:
                code, required = error.code(), error_info(error).metadata.get("required", "")
    refused = code is grpc.StatusCode.PERMISSION_DENIED and required == "admin"
    assert refused == (not allowed), (code, required)
    assert allowed or not [name for name, _ in engine.calls if name not in ("inspect_container",)]


class HostVolumes(FakeVolumes):
    """`etc` is a path of the host."""

    def list(self, wanted: VolumeFilter) -> Sequence[Volume]:
        return [Volume("etc", NOW, options={"type": "none", "o": "bind", "device": "/etc"}), Volume("data", NOW)]


class WithHostVolume(FakeEngine):
    @property
    def volumes(self) -> FakeVolumes:
        return HostVolumes(self)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
async def test_a_volume_that_is_a_path_of_the_host_is_one(tmp_path: Path, role: Role) -> None:
    fleet, engine = Fleet.make(tmp_path), WithHostVolume()
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", role))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            for name in ("etc", "data"):
                mount = pb.Mount(kind=pb.Mount.KIND_VOLUME, source=name, target="/x")
                spec = pb.ContainerSpec(image="busybox", mounts=[mount])
                volumes = VolumeServiceStub(channel)
                for call in (
                    ContainerServiceStub(channel).Run(pb.ContainerServiceRunRequest(spec=spec)),
                    volumes.Export(volume_pb2.VolumeServiceExportRequest(name=name)).read(),
                    volumes.Import(iter([volume_pb2.VolumeServiceImportRequest(name=name)])),
                ):
                    refusal = await _refusal(call)
                    assert (refusal is not None) == (name == "etc" and role is Role.OPERATOR), refusal
