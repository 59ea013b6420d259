"""What COPY takes and where it goes, and the keys of build steps."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal.errors import InvalidArgument
from shoald.build.keys import base_key, copy_key, run_key, tree_key, workdir_key
from shoald.build.modes import ModeChange, mode_change
from shoald.build.selection import (
    CopyItem,
    Tree,
    TreeEntry,
    links_to_scan,
    scan_paths,
    select,
    split_pattern,
)
from shoald.dockerfile.errors import Span
from shoald.dockerfile.instructions import InlineFile
from shoald.dockerfile.steps import (
    ContextBase,
    CopyStep,
    MountType,
    PathSource,
    RunMount,
    RunStep,
    StageBase,
    WorkdirStep,
)


def entry(path: str, kind: str = "f", content: str = "", **fields: Any) -> TreeEntry:
    """A file with its name as content, a directory, or a link."""
    made = TreeEntry(path, kind, 0o755 if kind == "d" else 0o644, 1000, 1000, 0, 7, content or path, {}, 0)
    return replace(made, content=content if kind == "l" else "" if kind == "d" else made.content, **fields)


def tree_of(*entries: TreeEntry, roots: Sequence[str] = ()) -> Tree:
    """A whole tree; `roots` as they are, without links."""
    directories = {"/"}
    for each in entries:
        parent = posixpath.dirname(each.path)
        while parent not in directories:
            directories.add(parent)
            parent = posixpath.dirname(parent)
    missing = directories - {each.path for each in entries}
    made = Tree([*(entry(path, "d") for path in missing), *entries], {})
    return made.with_roots({path: made.followed(path) for path in roots})


def copy(*sources: str, dest: str = "/dest", **fields: Any) -> CopyStep:
    defaults: dict[str, Any] = {"base": StageBase(0), "files": (), "dest_is_dir": len(sources) > 1}
    return CopyStep(
        text="COPY",
        created_by="",
        span=Span(),
        sources=tuple(PathSource(source) for source in sources),
        dest=dest,
        **defaults | fields,
    )


def taken(
    step: CopyStep, tree: Tree, *, dest_is_directory: bool = False, mode: ModeChange | None = None
) -> list[CopyItem]:
    tree = tree.with_roots({path: tree.followed(path) for path in scan_paths(step)})
    return select(step, tree, dest_is_directory=dest_is_directory, mode=mode)


def pairs(items: Sequence[CopyItem]) -> list[tuple[str, str]]:
    return [(item.source, item.target) for item in items]


TREE = tree_of(
    entry("/a.txt"),
    entry("/b.txt"),
    entry("/[x].txt"),
    entry("/dir/one"),
    entry("/dir/sub/two"),
    entry("/link", "l", "a.txt"),
    entry("/dirlink", "l", "/dir"),
    entry("/dangling", "l", "nowhere"),
    entry("/circle", "l", "circle"),
    entry("/outside", "l", "../../../../a.txt"),
)
DIR = [("/dir", "/dest"), ("/dir/one", "/dest/one"), ("/dir/sub", "/dest/sub"), ("/dir/sub/two", "/dest/sub/two")]


@pytest.mark.parametrize(
    ("step", "exists", "wanted"),
    [
        (copy("/a.txt"), False, [("/a.txt", "/dest")]),
        (copy("/a.txt"), True, [("/a.txt", "/dest/a.txt")]),
        (copy("/a.txt", dest_is_dir=True), False, [("/a.txt", "/dest/a.txt")]),
        (copy("/a.txt", dest="/"), True, [("/a.txt", "/a.txt")]),
        (copy("/dir"), False, DIR),
        (copy("/dir"), True, DIR),
        (copy("/dir", dest_is_dir=True), False, DIR),
        (copy("/a.txt", "/dir"), False, [("/a.txt", "/dest/a.txt"), *DIR]),
        (copy("/*.txt", dest_is_dir=True), False, [(f"/{n}.txt", f"/dest/{n}.txt") for n in ("[x]", "a", "b")]),
        (copy("/[ab].txt", dest_is_dir=True), False, [("/a.txt", "/dest/a.txt"), ("/b.txt", "/dest/b.txt")]),
        (copy("/[[]x].txt"), False, [("/[x].txt", "/dest")]),
        (copy("/d*/o?e"), False, [("/dir/one", "/dest")]),
        (copy("/dir/*", dest_is_dir=True), False, [DIR[1], ("/dir/sub", "/dest"), ("/dir/sub/two", "/dest/two")]),
        (copy("/none*"), False, []),
        (copy("/none/*"), False, []),
        (copy("/a.txt", "/none*"), False, [("/a.txt", "/dest/a.txt")]),
        (copy("/link"), False, [("/a.txt", "/dest")]),
        (copy("/link"), True, [("/a.txt", "/dest/link")]),
        (copy("/lin*"), True, [("/a.txt", "/dest/link")]),
        (copy("/outside"), True, [("/a.txt", "/dest/outside")]),
        (copy("/dirlink"), True, DIR),
        (copy("/dirlink/o*"), True, [("/dir/one", "/dest/one")]),
        (copy("/dirlin*"), True, DIR),
        (copy("/dirlink/one"), True, [("/dir/one", "/dest/one")]),
    ],
)
def test_where_files_go(step: CopyStep, exists: bool, wanted: list[tuple[str, str]]) -> None:
    assert pairs(taken(step, TREE, dest_is_directory=exists)) == wanted


@pytest.mark.parametrize("source", ["/none", "/dangling", "/circle", "/dangl*", "/a.txt/x"])
def test_sources_that_are_not_there(source: str) -> None:
    with pytest.raises(InvalidArgument, match="not found") as caught:
        taken(copy(source), TREE)
    assert caught.value.reason == "COPY_SOURCE_MISSING"
    assert caught.value.hint


def test_the_whole_context() -> None:
    items = taken(copy("/", base=ContextBase()), TREE)
    assert items[0] == CopyItem("/", "/dest", "d", 0o755, 0, 0, 7, "", {}, 0, keep_existing=True)
    assert [item.target for item in items if item.kind == "l"] == [
        f"/dest/{name}" for name in ("circle", "dangling", "dirlink", "link", "outside")
    ]
    assert {(item.uid, item.gid) for item in items} == {(0, 0)}


def test_owners_of_another_stage_are_kept() -> None:
    (_, one, *_) = taken(copy("/dir"), TREE)
    assert (one.uid, one.gid, one.mode) == (1000, 1000, 0o644)


def test_a_mode_goes_to_everything_but_links_and_the_destination() -> None:
    items = taken(copy("/"), TREE, mode=mode_change("4711"))
    assert {item.mode for item in items if item.kind != "l" and not item.keep_existing} == {0o4711}
    assert {item.mode for item in items if item.kind == "l"} == {0o644}
    assert items[0].mode == 0o755


@pytest.mark.parametrize(("exclude", "taken_"), [("b.txt", ["/b.txt"]), ("a.txt", [])])
def test_an_exclude_is_about_the_name_of_the_source(exclude: str, taken_: list[str]) -> None:
    step = copy("/a.txt", dest="/b.txt", exclude=(exclude,))
    assert [item.target for item in taken(step, tree_of(entry("/a.txt")))] == taken_


@pytest.mark.parametrize(
    ("exclude", "sources", "wanted"),
    [
        (["*.txt"], ["/a.txt", "/dir"], ["/dest", "/dest/one", "/dest/sub", "/dest/sub/two"]),
        (["b*"], ["/*.txt"], ["/dest/[x].txt", "/dest/a.txt"]),
        (["sub"], ["/dir"], ["/dest", "/dest/one"]),
        (["**/two"], ["/dir"], ["/dest", "/dest/one", "/dest/sub"]),
        (["two"], ["/dir"], ["/dest", "/dest/one", "/dest/sub", "/dest/sub/two"]),
        (["*", "!sub/two"], ["/dir"], ["/dest", "/dest/sub", "/dest/sub/two"]),
    ],
)
def test_excludes(exclude: list[str], sources: list[str], wanted: list[str]) -> None:
    step = copy(*sources, exclude=tuple(exclude), dest_is_dir=True)
    assert [item.target for item in taken(step, TREE)] == wanted


def test_heredocs() -> None:
    files = (InlineFile("x", "a\udcff"), InlineFile("y", ""))
    items = taken(copy(files=files, dest_is_dir=True), TREE, mode=mode_change("755"))
    assert [(i.target, i.data, i.mode, i.kind, i.uid) for i in items] == [
        ("/dest/x", "61ff", 0o755, "f", 0),
        ("/dest/y", "", 0o755, "f", 0),
    ]
    (alone,) = taken(copy(files=files[:1]), TREE)
    assert (alone.target, alone.mode) == ("/dest", 0o644)


def test_hard_links_are_grouped() -> None:
    files = [entry(f"/h/{name}", inode=inode) for name, inode in (("a", 9), ("b", 9), ("c", 5), ("d", 5), ("e", 77))]
    items = taken(copy("/h"), tree_of(*files))[1:]
    assert [item.link_group for item in items] == [1, 1, 2, 2, 0]
    assert items[-1].inode == 0  # the other names of this file are not copied


def test_what_add_may_unpack_is_named_itself() -> None:
    named = [item.source for item in taken(copy("/a.txt", "/dir", "/b*", "/link"), TREE) if item.named]
    assert named == ["/a.txt", "/b.txt", "/a.txt"]


class TestPartlyScanned:
    """A stage is not scanned whole."""

    SCANNED = Tree(
        [
            entry("/usr/lib", "d"),
            entry("/usr/lib/libz.so", "l", "libz.so.1"),
            entry("/usr/lib/libz.so.1"),
            entry("/usr/lib/liby.so", "l", "/opt/liby.so"),
        ],
        {"/usr/lib": "/usr/lib"},
    )

    def test_a_wildcard_below_what_was_scanned(self) -> None:
        step = copy("/usr/lib/libz*", dest_is_dir=True)
        assert scan_paths(step) == ["/usr/lib"]
        assert links_to_scan(step, self.SCANNED) == []
        assert pairs(select(step, self.SCANNED, dest_is_directory=True, mode=None)) == [
            ("/usr/lib/libz.so.1", "/dest/libz.so"),
            ("/usr/lib/libz.so.1", "/dest/libz.so.1"),
        ]

    def test_a_link_out_of_what_was_scanned(self) -> None:
        step = copy("/usr/lib/lib*.so", dest_is_dir=True)
        assert links_to_scan(step, self.SCANNED) == ["/usr/lib/liby.so"]
        more = Tree([entry("/opt/liby.so")], {"/usr/lib/liby.so": "/opt/liby.so"})
        united = self.SCANNED.united(more)
        assert links_to_scan(step, united) == []
        assert pairs(select(step, united, dest_is_directory=True, mode=None))[0] == ("/opt/liby.so", "/dest/liby.so")
        gone = self.SCANNED.united(Tree([], {"/usr/lib/liby.so": None}))
        with pytest.raises(InvalidArgument, match="not found"):
            select(step, gone, dest_is_directory=True, mode=None)

    def test_the_fixed_part_is_a_link(self) -> None:
        tree = self.SCANNED.with_roots({"/lib": "/usr/lib"})
        assert tree.matching("/lib/*.1") == ["/usr/lib/libz.so.1"]


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [("/a/b*/c", ("/a", ["b*", "c"])), ("/*", ("/", ["*"])), ("/a/b", ("/a/b", [])), ("/a/\\*", ("/a", ["\\*"]))],
)
def test_split(pattern: str, parts: tuple[str, list[str]]) -> None:
    assert split_pattern(pattern) == parts


# --- keys -------------------------------------------------------------------------------------------------------------


def key_for(*entries: TreeEntry, **fields: Any) -> str:
    step = copy("/x", **fields)
    return copy_key("parent", step, taken(step, tree_of(*entries)), [])


class TestCopyKeys:
    def test_times_inodes_and_order_do_not_count(self) -> None:
        one, two = entry("/x/one", inode=3), entry("/x/two", inode=3)
        wanted = key_for(one, two)
        assert key_for(two, one) == wanted
        assert key_for(replace(one, mtime_ns=1, inode=8), replace(two, mtime_ns=2, inode=8)) == wanted

    @pytest.mark.parametrize(
        "fields",
        [
            {"content": "other"},
            {"mode": 0o600},
            {"uid": 1},
            {"gid": 1},
            {"path": "/x/two"},
            {"kind": "p"},
            {"xattrs": {"user.a": "00"}},
        ],
    )
    def test_everything_else_does(self, fields: dict[str, Any]) -> None:
        assert key_for(replace(entry("/x/one"), **fields)) != key_for(entry("/x/one"))

    def test_a_link_to_a_file_that_is_not_copied_does_not_count(self) -> None:
        assert key_for(entry("/x/one", inode=5)) == key_for(entry("/x/one"))
        linked = key_for(entry("/x/one", inode=5), entry("/x/two", content="/x/one", inode=5))
        assert linked != key_for(entry("/x/one"), entry("/x/two", content="/x/one"))

    def test_the_step_itself_counts(self) -> None:
        base = key_for(entry("/x/one"))
        assert key_for(entry("/x/one"), dest="/other") != base
        assert key_for(entry("/x/one"), chown="1:1") != base
        step = copy("/x")
        items = taken(step, tree_of(entry("/x/one")))
        assert copy_key("another parent", step, items, []) != base
        assert copy_key("parent", step, items, ["archive"]) != base

    def test_heredocs_count_by_content(self) -> None:
        def key(data: str) -> str:
            step = copy(files=(InlineFile("f", data),))
            return copy_key("", step, taken(step, TREE), [])

        assert len({key("a"), key("b"), key(""), key("\udcff")}) == 4

    def test_names_that_are_not_utf8(self) -> None:
        assert len({key_for(entry(f"/x/{name}", content="c")) for name in ("\udcff", "\udcfe", "ÿ")}) == 3

    @settings(max_examples=50)
    @given(st.permutations([entry(f"/x/{a}/{b}") for a in "abc" for b in "de"]))
    def test_a_key_is_a_function_of_the_tree(self, entries: list[TreeEntry]) -> None:
        assert key_for(*entries) == key_for(*sorted(entries, key=lambda e: e.path))


def run(**fields: Any) -> RunStep:
    defaults: dict[str, Any] = {"argv": ("sh", "-c", "x"), "env": {"A": "1", "B": "2"}, "user": "", "workdir": "/"}
    return RunStep(text="RUN", created_by="", span=Span(), **defaults | fields)


class TestOtherKeys:
    def test_run(self) -> None:
        base = run_key("p", run(), "linux/amd64", "bridge")
        assert run_key("p", run(env={"B": "2", "A": "1"}), "linux/amd64", "bridge") == base
        assert run_key("p", run(), "linux/amd64", "mine") == base
        assert run_key("p", run(network="none"), "linux/amd64", "mine") == run_key("p", run(), "linux/amd64", "none")
        assert run_key("p", run(proxy_env={"HTTP_PROXY": "x"}), "linux/amd64", "bridge") == base
        mount = RunMount(type=MountType.BIND, target="/m", base=StageBase(0))
        others = {
            run_key("q", run(), "linux/amd64", "bridge"),
            run_key("p", run(), "linux/arm64", "bridge"),
            run_key("p", run(), "linux/amd64", "none"),
            run_key("p", run(argv=("sh", "-c", "y")), "linux/amd64", "bridge"),
            run_key("p", run(env={"A": "2", "B": "2"}), "linux/amd64", "bridge"),
            run_key("p", run(user="1"), "linux/amd64", "bridge"),
            run_key("p", run(workdir="/w"), "linux/amd64", "bridge"),
            run_key("p", run(files=(InlineFile("f", "x"),)), "linux/amd64", "bridge"),
            run_key("p", run(build_args=(("A", "1"),)), "linux/amd64", "bridge"),
            run_key("p", run(mounts=(mount,)), "linux/amd64", "bridge", ["snapshot 1"]),
            run_key("p", run(mounts=(mount,)), "linux/amd64", "bridge", ["snapshot 2"]),
        }
        assert len(others | {base}) == 12

    def test_kinds_do_not_meet(self) -> None:
        workdir = WorkdirStep(text="", created_by="", span=Span(), path="/w", user="")
        assert len({base_key(""), base_key("x"), workdir_key("", workdir), workdir_key("x", workdir)}) == 4

    def test_a_tree_is_known_by_content(self) -> None:
        tree = tree_of(entry("/x/one"), entry("/y/one", content="/x/one"), entry("/z/one"))
        assert tree_key(tree, "/x") == tree_key(tree, "/y")
        assert tree_key(tree, "/x") != tree_key(tree, "/z")
        assert tree_key(tree, "/x/one") != tree_key(tree, "/x")
        assert tree_key(tree, "/none") == tree_key(tree_of(), "/none")
