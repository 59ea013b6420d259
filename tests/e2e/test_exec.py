"""`shoal exec` on real daemons, with crun and with runc."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.pki import Role
from tests.support.daemon import Fleet, alive, running_fleet, until

RUNTIMES = ("crun", "runc")


@pytest.fixture(scope="module", params=RUNTIMES)
def box(request: pytest.FixtureRequest, busybox: str) -> Iterator[Fleet]:
    """One host with a container `c` that sleeps."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param}")
    with running_fleet(1, runtime={"name": request.param}) as fleet:
        fleet.shoal("pull", busybox)
        fleet.shoal("run", "-d", "--name", "c", busybox, "sleep", "100000")
        yield fleet


def inside(box: Fleet, what: str, name: str = "c") -> list[str]:
    """Command lines of the container's processes that hold `what`."""
    return [line for line in box.shoal("exec", name, "ps", "-o", "args").stdout.splitlines() if what in line]


def test_streams_environment_and_exit_codes_are_the_commands(box: Fleet) -> None:
    done = box.shoal("exec", "-e", "A=b c", "c", "sh", "-c", 'echo "$A"; echo err >&2; exit 7', code=7)
    assert (done.stdout, done.stderr) == ("b c\n", "err\n")
    assert box.shoal("exec", "-i", "c", "cat", stdin="text").stdout == "text"
    assert box.shoal("exec", "c", "cat", stdin="text").stdout == ""
    assert box.shoal("exec", "-w", "/etc", "c", "pwd").stdout == "/etc\n"
    box.shoal("exec", "c", "sh", "-c", "kill -9 $$", code=137)


def test_what_can_not_be_started_has_dockers_codes(box: Fleet) -> None:
    assert "not found" in box.shoal("exec", "c", "nosuch", code=127).stderr
    assert "executed" in box.shoal("exec", "c", "/etc/passwd", code=126).stderr
    assert "nope" in box.shoal("exec", "nope", "true", code=1).stderr
    assert "working directory" in box.shoal("exec", "-w", "/nonexistent", "c", "true", code=1).stderr


def test_much_output_and_much_input_arrive_whole(box: Fleet, tmp_path: Path) -> None:
    size = 20 << 20
    data = os.urandom(1 << 20) * 20
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as source:
        done = subprocess.run(
            box.command("exec", "-i", "c", "cat"), stdin=source, capture_output=True, env=box.environment(), timeout=100
        )
    assert len(done.stdout) == size
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


# --- security ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", "0:0"),
        ("0", "0:0"),
        ("1000", "1000:0"),
        ("1000:2000", "1000:2000"),
        ("root", "0:0"),
        ("65535", "65535:0"),
        ("2147483648", None),
        ("4294967296", None),
        ("4294967295", None),
        ("-1", None),
        ("0x0", None),
        (" 1000", None),
        ("1000:", None),
        (":0", None),
        ("nosuchuser", None),
        ("0:nosuchgroup", None),
        ("00000000000", None),
    ],
)
def test_the_user_is_the_right_one_or_refused(box: Fleet, user: str, ids: str | None) -> None:
    done = box.shoal("exec", f"--user={user}", "c", "sh", "-c", "echo $(id -u):$(id -g)", code=None)
    if ids is None:
        assert (done.returncode, done.stdout) == (1, "")
        assert "user" in done.stderr
    else:
        assert done.stdout.strip() == ids


def test_a_user_has_no_capabilities_and_can_reopen_its_streams(box: Fleet) -> None:
    script = "grep -E 'Cap(Eff|Prm|Amb)|NoNewPrivs' /proc/self/status; echo again > /dev/stdout; cat /dev/stdin"
    out = box.shoal("exec", "-i", "-u", "1000", "c", "sh", "-c", script, stdin="x").stdout
    fields = dict(line.split(":\t") for line in out.splitlines() if "\t" in line)
    assert {int(fields[key], 16) for key in ("CapEff", "CapPrm", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    assert out.endswith("again\nx")


def test_privileged_has_all_capabilities_and_needs_an_admin(box: Fleet) -> None:
    script = "grep CapEff /proc/self/status"
    plain = box.shoal("exec", "c", "sh", "-c", script).stdout
    full = box.shoal("exec", "--privileged", "c", "sh", "-c", script).stdout
    assert int(full.split()[1], 16) > int(plain.split()[1], 16)
    certificate, key = box.user("op", Role.OPERATOR)
    box.add_host("asop", box.first.address, cert=str(certificate), key=str(key))
    try:
        assert box.shoal("exec", "-H", "asop", "c", "true").returncode == 0
        for mode in ([], ["-d"]):
            refused = box.shoal("exec", "-H", "asop", "--privileged", *mode, "c", "true", code=1)
            assert "admin" in refused.stderr
    finally:
        box.remove_host("asop")


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 20, 100, 1023])
def test_no_working_directory_is_an_open_file(box: Fleet, number: int) -> None:
    for path in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/..", f"/dev/fd/{number}"):
        refused = box.shoal("exec", "-w", path, "c", "sh", "-c", "ls; pwd", code=1)
        assert "working directory" in refused.stderr
        assert refused.stdout == ""


def test_no_symlink_leads_a_working_directory_to_an_open_file(box: Fleet) -> None:
    box.shoal("exec", "c", "sh", "-c", "mkdir -p /l; for n in 3 5 7 8; do ln -sfn /proc/self/fd/$n /l/$n; done")
    for number in (3, 5, 7, 8):
        refused = box.shoal("exec", "-w", f"/l/{number}", "c", "sh", "-c", "ls", code=1)
        assert "working directory" in refused.stderr


def test_the_process_has_its_three_streams_and_no_other_file(box: Fleet) -> None:
    for flags in ([], ["-t"], ["-d"]):
        name = f"/fds{''.join(flags)}"
        # The shell lists its own descriptors, so that no program's own are among them.
        box.shoal("exec", *flags, "c", "sh", "-c", f"echo /proc/$$/fd/* > {name}.new; mv {name}.new {name}")
        text = until(lambda name=name: box.shoal("exec", "c", "cat", name, code=None).stdout.strip())
        numbers = {int(path.rpartition("/")[2]) for path in text.split()}
        # 3: the directory that the shell is listing; 10 and up: ash's own copy of its terminal.
        assert {n for n in numbers if n < 10} - {3} == {0, 1, 2}


def test_the_runtime_can_not_be_overwritten_from_inside(box: Fleet) -> None:
    programs = {Path(shutil.which(name) or "").resolve() for name in RUNTIMES if shutil.which(name)}
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in programs}
    # A command that is the runtime itself, and somebody who waits for it to be open.
    script = (
        "cp /bin/sh /evil; printf '#!/proc/self/exe\\n' > /bad; chmod +x /bad /evil;"
        "end=$(($(date +%s)+6)); while [ $(date +%s) -lt $end ]; do for p in /proc/[0-9]*; do"
        " [ -e $p/exe ] && (echo hacked > $p/exe) 2>/dev/null; done; done"
    )
    box.shoal("exec", "-d", "--privileged", "c", "sh", "-c", script)
    for _ in range(15):
        box.shoal("exec", "c", "/bad", code=None)
        box.shoal("exec", "c", "/proc/self/exe", code=None)
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in programs} == before


def test_the_hosts_null_device_stays_roots(box: Fleet) -> None:
    box.shoal("exec", "-u", "1000", "c", "true")
    box.shoal("exec", "-d", "c", "true")
    found = os.stat("/dev/null")
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 0, 0o666)


# --- life -------------------------------------------------------------------------------------------------------------


def test_detached_ones_go_on_and_end_with_the_container(box: Fleet, busybox: str) -> None:
    box.shoal("run", "-d", "--name", "d", busybox, "sleep", "1000")
    box.shoal("exec", "-d", "d", "sleep", "7777")
    assert inside(box, "sleep 7777", "d")
    pids = [pid for pid in _host_pids("sleep\x007777") if alive(pid)]
    assert pids
    box.shoal("rm", "-f", "d")
    until(lambda: not [pid for pid in pids if alive(pid)], what="the exec ended with its container")
    box.shoal("run", "-d", "--name", "d", busybox, "true")
    until(lambda: "Exited" in box.shoal("ps", "-a").stdout)
    refused = box.shoal("exec", "d", "true", code=1)
    assert "not running" in refused.stderr
    box.shoal("rm", "d")


def test_events_tell_of_it(box: Fleet) -> None:
    """Of this exec; those of other tests may end in between."""
    box.shoal("exec", "c", "sh", "-c", "exit 3 # told", code=3)

    def told() -> list[Any]:
        events = box.json("events", "--since", "10m", "--until", "0s")
        ids = [event["Actor"]["Attributes"]["execID"] for event in events if event.get("Action") == "exec_create"]
        return [event for event in events if event.get("Actor", {}).get("Attributes", {}).get("execID") == ids[-1]]

    until(lambda: [event["Action"] for event in told()] == ["exec_create", "exec_start", "exec_die"])
    assert "'3'" in str(told()[-1]) or '"3"' in str(told()[-1])


def test_a_client_that_is_cut_off_leaves_nothing_behind(box: Fleet) -> None:
    cut = _client(box, "exec", "c", "sh", "-c", "sleep 4242 & sleep 4243")
    kept = _client(box, "exec", "--on-disconnect", "detach", "c", "sleep", "4244")
    until(lambda: inside(box, "sleep 4243") and inside(box, "sleep 4244"))
    for client in (cut, kept):
        client.kill()
        client.wait()
    until(lambda: not inside(box, "sleep 4243"), 30, "the process of the lost client is killed")
    assert not inside(box, "sleep 4242")
    assert inside(box, "sleep 4244")
    for pid in _host_pids("sleep\x004244"):
        os.kill(pid, signal.SIGKILL)


def test_an_interrupt_goes_to_the_process(box: Fleet) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    with _client(box, "exec", "c", "sh", "-c", script, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(20) == 9
        assert client.stdout.read() == b"caught\n"


def test_a_daemon_that_was_killed_leaves_no_exec_behind(box: Fleet) -> None:
    client = _client(box, "exec", "c", "sleep", "5151")
    until(lambda: inside(box, "sleep 5151"))
    box.first.kill()
    box.first.start()
    until(lambda: not inside(box, "sleep 5151"), what="what nobody can follow any more is gone")
    assert client.wait(90) != 0
    assert inside(box, "sleep 100000")


def test_a_terminal_without_a_size(box: Fleet, busybox: str) -> None:
    """As `script` and many build machines make them: 0 by 0."""
    for command in (("exec", "-it", "c", "tty"), ("run", "-it", "--rm", busybox, "tty")):
        master, slave = pty.openpty()
        with subprocess.Popen(
            box.command(*command), stdin=slave, stdout=slave, stderr=slave, env=box.environment(), close_fds=True
        ) as client:
            os.close(slave)
            assert client.wait(30) == 0
            said = os.read(master, 4096)
        os.close(master)
        assert b"/dev/" in said, said


def test_a_terminal_has_a_size_and_keys_that_detach(box: Fleet) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.environ.update(box.environment())
        command = box.command("exec", "-it", "c", "sh")
        os.execv(command[0], command)
    try:
        _set_size(master, 24, 80)
        _expect(master, b"# ")
        os.write(master, b"stty size; sleep 6161 &\n")
        _expect(master, b"24 80")
        _set_size(master, 33, 99)
        os.kill(pid, signal.SIGWINCH)
        time.sleep(0.3)
        os.write(master, b"stty size\n")
        _expect(master, b"33 99")
        os.write(master, b"echo $TERM; tty\n")
        _expect(master, b"/dev/pts/")
        os.write(master, b"\x10\x11")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        time.sleep(0.5)
        assert inside(box, "sleep 6161")
    finally:
        os.close(master)
        for left in _host_pids("sleep\x006161"):
            os.kill(left, signal.SIGKILL)


def test_many_that_are_opened_and_cut_leave_the_daemon_as_it_was(box: Fleet) -> None:
    cycles = 40
    _cut(box, 3)
    until(lambda: not inside(box, "sleep 99"), 40)
    before = len(os.listdir(f"/proc/{box.first.pid}/fd"))
    places = len(list(box.first.run_dir.glob("*/exec-*")))
    memory = _resident(box.first.pid)
    _cut(box, cycles)
    until(lambda: not inside(box, "sleep 99"), 60)
    until(lambda: len(os.listdir(f"/proc/{box.first.pid}/fd")) <= before + 3, 60, "descriptors")
    assert _resident(box.first.pid) < memory + (16 << 20)
    until(lambda: len(list(box.first.run_dir.glob("*/exec-*"))) <= places, 30)


def _cut(box: Fleet, count: int) -> None:
    clients = []
    for _ in range(count):
        clients.append(_client(box, "exec", "c", "sleep", "99"))
        if len(clients) == 5:
            time.sleep(0.7)
            for client in clients:
                client.kill()
                client.wait()
            clients.clear()
    for client in clients:
        client.kill()
        client.wait()


def _client(box: Fleet, *arguments: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        box.command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=box.environment(),
    )


def _host_pids(command_line: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().rstrip(b"\0") == command_line.encode():
                found.append(int(path.parts[2]))
    return found


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _set_size(terminal: int, rows: int, columns: int) -> None:
    import termios

    termios.tcsetwinsize(terminal, (rows, columns))


def _expect(terminal: int, text: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 20
    while text not in seen:
        assert time.monotonic() < deadline, f"{text!r} did not come: {seen!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096)
    return seen
