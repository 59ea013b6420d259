"""Exec: messages to the engine's terms and back."""

from __future__ import annotations

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoald.api.call import require
from shoald.api.checks import invalid, required
from shoald.engine.ports import ExecOrder, ExecOutput, ExecRequest, ExecStarted, ExitStatus

MAX_TERMINAL = 65535


def exec_order(request: pb.ContainerServiceExecRequest) -> ExecOrder:
    """The order of a request that its caller may make: the one way to it, also for ExecAttach.

    Raises InvalidArgument (INVALID_FIELD), PermissionDenied (ROLE_REQUIRED).
    """
    if request.privileged:
        require(Role.ADMIN, "a privileged exec")
    if request.detach and request.stdin_open:
        raise invalid("stdin_open", "has no use with detach: nobody will attach")
    for side in ("rows", "columns"):
        if getattr(request, side) > MAX_TERMINAL:
            raise invalid(side, "is no size of a terminal")
    asked = ExecRequest(
        args=tuple(request.command),
        env=tuple(request.env),
        working_dir=request.working_dir,
        user=request.user,
        tty=request.tty,
        stdin_open=request.stdin_open,
        privileged=request.privileged,
        detach=request.detach,
        rows=request.rows,
        columns=request.columns,
    )
    kill = request.on_disconnect != pb.ContainerServiceExecRequest.ON_DISCONNECT_DETACH
    return ExecOrder(required("name", request.name), asked, kill)


def exec_started(started: ExecStarted, stdin_taken: int) -> pb.ContainerServiceExecAttachResponse:
    """The first message of a stream."""
    message = pb.ContainerServiceExecAttachResponse.Started(
        exec_id=started.exec_id, pid=started.pid, stdin_taken=stdin_taken
    )
    return pb.ContainerServiceExecAttachResponse(started=message)


def exec_input(taken: int) -> pb.ContainerServiceExecAttachResponse:
    """Tells how much input has arrived."""
    return pb.ContainerServiceExecAttachResponse(input=pb.ContainerServiceExecAttachResponse.Input(taken=taken))


def exec_output(item: ExecOutput | ExitStatus) -> pb.ContainerServiceExecAttachResponse:
    """A piece of output, or the exit."""
    response = pb.ContainerServiceExecAttachResponse
    if isinstance(item, ExitStatus):
        return response(exit=response.Exit(exit_code=item.exit_code))
    stream = pb.LogRecord.STREAM_STDERR if item.stderr else pb.LogRecord.STREAM_STDOUT
    return response(output=response.Output(stream=stream, data=item.data, cursor=item.cursor))
