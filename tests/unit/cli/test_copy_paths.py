"""`shoal cp`: which argument is where, and docker's rules of what goes where."""

from __future__ import annotations

import pytest

from shoalctl.flags.copy_paths import CopyPath, Target, parse_copy_path, target
from shoalctl.flags.fault import UsageFault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:/etc/hosts", CopyPath("web", "/etc/hosts")),
        ("w:/x", CopyPath("w", "/x")),
        ("web:etc", CopyPath("web", "etc")),
        ("web:a:b", CopyPath("web", "a:b")),
        ("/a:b", CopyPath("", "/a:b")),
        ("./a:b", CopyPath("", "./a:b")),
        ("../a", CopyPath("", "../a")),
        ("file", CopyPath("", "file")),
    ],
)
def test_arguments(text: str, expected: CopyPath) -> None:
    assert parse_copy_path(text, windows=False) == expected


def test_a_drive_is_local_on_windows_only() -> None:
    assert parse_copy_path("C:\\x", windows=True) == CopyPath("", "C:\\x")
    assert parse_copy_path("c:/x", windows=True) == CopyPath("", "c:/x")
    assert parse_copy_path("c:/x", windows=False) == CopyPath("c", "/x")


@pytest.mark.parametrize("text", ["", ":x", "web:"])
def test_bad_arguments(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_copy_path(text)


# Columns of docker's table: source is a directory, its name; the destination, whether it exists, is a directory.
@pytest.mark.parametrize(
    ("directory", "name", "path", "exists", "is_directory", "expected"),
    [
        (False, "f", "/d", True, True, Target("/d", "f")),
        (False, "f", "/d/", True, True, Target("/d/", "f")),
        (False, "f", "/d/g", True, False, Target("/d", "g")),
        (False, "f", "/d/g", False, False, Target("/d", "g")),
        (False, "f", "g", False, False, Target(".", "g")),
        (True, "s", "/d", True, True, Target("/d", "s")),
        (True, ".", "/d", True, True, Target("/d", ".")),
        (True, "s", "/d/n", False, False, Target("/d", "n")),
        (True, "s", "/d/n/", False, False, Target("/d", "n")),
        (True, ".", "/d/n/.", False, False, Target("/d", "n")),
        (True, ".", "/n", False, False, Target("/", "n")),
        (False, "f", "/d/g/", False, False, None),
        (False, "f", "/d/g/.", False, False, None),
        (False, "f", "/d/g/", True, False, None),
        (True, "s", "/d/g", True, False, None),
    ],
)
def test_where_it_goes(
    directory: bool, name: str, path: str, exists: bool, is_directory: bool, expected: Target | None
) -> None:
    def decide() -> Target:
        return target(name, source_is_directory=directory, path=path, exists=exists, is_directory=is_directory)

    if expected is None:
        with pytest.raises(UsageFault):
            decide()
    else:
        assert decide() == expected
