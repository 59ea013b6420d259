"""USER strings: the right id or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoald.runtime.spec import ResolvedUser
from shoald.runtime.user import MAX_ID, lookup, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
broken line
app:x:1000:1001:App:/home/app:/bin/sh
7:x:1007:1007::/home/seven:
big:x:4294967296:0::/:
minus:x:-1:0::/:
twin:x:1000:1:::
short:x:1234
nohome:x:1100:1100
"""
GROUP = b"""root:x:0:
app:x:1001:
web:x:80:app,root
log:x:90:other,app
evil:x:4294967296:app
500:x:1500:app
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", ResolvedUser(0, 0, (0, 80), "/root")),
        ("0", ResolvedUser(0, 0, (0, 80), "/root")),
        ("root", ResolvedUser(0, 0, (0, 80), "/root")),
        ("app", ResolvedUser(1000, 1001, (1001, 80, 90, 1500), "/home/app")),
        ("1000", ResolvedUser(1000, 1001, (1001, 80, 90, 1500), "/home/app")),
        ("app:web", ResolvedUser(1000, 80, (), "/home/app")),
        ("1000:90", ResolvedUser(1000, 90, (), "/home/app")),
        ("2000", ResolvedUser(2000, 0, (0,), "/")),
        ("2000:3000", ResolvedUser(2000, 3000, (), "/")),
        ("2000:app", ResolvedUser(2000, 1001, (), "/")),
        ("7", ResolvedUser(1007, 1007, (1007,), "/home/seven")),
        ("1:500", ResolvedUser(1, 1500, (), "/")),
        ("nohome", ResolvedUser(1100, 1100, (1100,), "/")),
        ("0000000001", ResolvedUser(1, 0, (0,), "/")),
        (str(MAX_ID), ResolvedUser(MAX_ID, 0, (0,), "/")),
    ],
)
def test_right_id(user: str, expected: ResolvedUser) -> None:
    assert lookup(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    "user",
    [
        "2147483648", "4294967295", "4294967296", "18446744073709551616", "-1", "0x0", "0x3e8", " 1000", "1000 ", "1e3",
        "+5", "nobody", "app:nobody", "app:", ":app", ":", "app:web:x", "1000:-1", "1000:2147483648", "app:4294967296",
        "big", "minus", "short", "a\nb", "root\0", "1_000", "١٠٠٠", "\t0", "app:0x0", "00000000000", "#", "broken line",
    ],
)  # fmt: skip
def test_refused(user: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        lookup(user, PASSWD, GROUP)
    assert caught.value.reason == "INVALID_USER"


@given(st.text(max_size=30), st.binary(max_size=200), st.binary(max_size=200))
def test_any_input_gives_ids_in_range_or_a_refusal(user: str, passwd: bytes, group: bytes) -> None:
    try:
        found = lookup(user, passwd, group)
    except InvalidArgument:
        return
    assert all(0 <= number <= MAX_ID for number in (found.uid, found.gid, *found.additional_gids))
    if user in ("", "0", "root"):
        return
    assert found.uid != 0 or user.partition(":")[0].strip("0") == "" or b":0:" in passwd.replace(b"00", b"0")


def test_without_any_database() -> None:
    assert lookup("", b"", b"") == ResolvedUser(0, 0, (0,), "/")


def test_files_are_read_inside_the_root(tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("evil:x:0:0::/:\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to(outside)
    with pytest.raises(InvalidArgument):
        resolve_user("evil", root)
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../../../../passwd")
    with pytest.raises(InvalidArgument):
        resolve_user("evil", root)
    (root / "passwd").write_text("inner:x:5:6::/h:\n")
    assert resolve_user("inner", root).uid == 5
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").mkdir()
    assert resolve_user("9", root).uid == 9


def test_a_pipe_or_a_loop_is_no_database(tmp_path: Path) -> None:
    import os

    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    (tmp_path / "etc/group").symlink_to("group")
    assert resolve_user("9", tmp_path).uid == 9


def test_a_huge_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(9 << 20)
    with pytest.raises(InvalidArgument) as caught:
        resolve_user("9", tmp_path)
    assert caught.value.reason == "FILE_TOO_LARGE"
