"""Messages of runc 1.1 and crun 1.8 as errors."""

from __future__ import annotations

import pytest

from shoald.runtime.messages import errors_in, runtime_error

_RUNC = "runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("message", "reason", "code"),
    [
        (_RUNC + 'exec: "foo": executable file not found in $PATH', "COMMAND_NOT_FOUND", "127"),
        (_RUNC + 'exec: "/foo": stat /foo: no such file or directory', "COMMAND_NOT_FOUND", "127"),
        (_RUNC + 'exec: "/notexec": permission denied', "COMMAND_NOT_EXECUTABLE", "126"),
        (_RUNC + 'exec: "/bin": is a directory', "COMMAND_NOT_EXECUTABLE", "126"),
        (_RUNC + "error during container init: mkdir /a/b: not a directory", "INVALID_WORKDIR", "126"),
        (_RUNC + 'chdir to cwd ("/x") set in config.json failed: permission denied', "INVALID_WORKDIR", "126"),
        (_RUNC + 'error mounting "/x" to rootfs at "/y": stat /x: no such file or directory', "RUNTIME_FAILED", "125"),
        ("executable file `foo` not found in $PATH: No such file or directory", "COMMAND_NOT_FOUND", "127"),
        ("executable file `x\ny` not found in $PATH: No such file or directory", "COMMAND_NOT_FOUND", "127"),
        ("open executable: Permission denied", "COMMAND_NOT_EXECUTABLE", "126"),
        ("exec container process `/badfmt`: Exec format error", "COMMAND_NOT_EXECUTABLE", "126"),
        ("chdir `/notexec`: Not a directory", "INVALID_WORKDIR", "126"),
        ("cannot stat `/x`: No such file or directory", "RUNTIME_FAILED", "125"),
        ("", "RUNTIME_FAILED", "125"),
    ],
)
def test_reasons(message: str, reason: str, code: str) -> None:
    error = runtime_error(message + "\n", command="foo", working_dir="/w")
    assert (error.reason, error.metadata["exit_code"]) == (reason, code)
    assert str(error)


def test_an_empty_command_can_not_be_executed() -> None:
    error = runtime_error(_RUNC + 'exec: "": executable file not found in $PATH', command="", working_dir="/")
    assert error.reason == "COMMAND_NOT_EXECUTABLE"


def test_long_messages_are_cut() -> None:
    assert len(str(runtime_error("x" * 100_000, command="", working_dir="/"))) <= 4000


def test_errors_of_a_json_log() -> None:
    log = b'{"level":"warning","msg":"w"}\nnot json\n{"level":"error","msg":"a"}\n{"level":"error","msg":"a"}\n'
    assert errors_in(log) == "a"
    assert errors_in(b"") == ""
    assert errors_in(log + b'{"msg":"b","level":"error","time":"x"}') == "a; b"
