"""The packages of an image, from the package databases in its file system. Reads files; nothing of the image is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from shoald.attest import apk, distribution, dpkg, node, pydist, rpm
from shoald.attest.copyright import copyright_path, parse_copyright
from shoald.attest.distribution import Distribution
from shoald.attest.package import Damaged, Inventory, Package
from shoald.attest.plain import plain
from shoald.host.imagefiles import MAX_DEPTH, Directory, ImageFiles, OpenFile, Unreadable, UsedUp

MAX_PACKAGES = 20_000
MAX_WARNINGS = 100
MAX_DATABASE = 32 << 20
"""Bytes of a database of a distribution."""
MAX_METADATA = 1 << 20
"""Bytes of a file that describes one package."""
MAX_COPYRIGHT = 4 << 20
MAX_OS_RELEASE = 64 << 10

_PYTHON = frozenset({"site-packages", "dist-packages"})


def packages_of_image(root: Path) -> Inventory:
    """What is installed in the file system at `root`: the whole of an image, mounted read-only.

    Blocking, for 0.1 to a few seconds (every directory is looked into): to be called in a thread. No process of the
    image runs meanwhile and nobody else writes there: what `Snapshotter.mounted(snapshot_id)` gives, or the `root` of a
    stage. Not one layer's own directory: that has no more than the changes of the layer, with whiteouts.

        async with snapshots.mounted(snapshot_id) as root:
            inventory = await in_thread(lambda: packages_of_image(root))

    What the image holds never makes this raise: a database that is broken, too large or no file at all is left out
    from where it breaks, and a warning says so. Raises OSError only when `root` itself is no directory.
    """
    with ImageFiles(root) as files:
        return _Search(files).inventory()


class _Enough(Exception):
    pass


class _Search:
    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._packages: dict[tuple[str, ...], Package] = {}
        self._read: set[tuple[int, int]] = set()
        self._warnings: list[str] = []
        self._distribution = Distribution()

    def inventory(self) -> Inventory:
        try:
            self._distribution = self._find_distribution()
            self._databases()
            self._languages()
        except _Enough as enough:
            self._warn(str(enough))
        except (Unreadable, RecursionError) as error:
            self._warn(f"not all files were looked at: {error}")
        return Inventory(
            packages=tuple(self._packages[order] for order in sorted(self._packages)),
            distribution=str(self._distribution),
            warnings=tuple(self._warnings),
        )

    def _find_distribution(self) -> Distribution:
        for path in distribution.PATHS:
            try:
                body = self._files.read(path, MAX_OS_RELEASE)
            except Unreadable as error:
                self._warn(f"/{path}: {error}")
                continue
            if body is not None:
                return distribution.parse_os_release(body)
        return Distribution()

    def _databases(self) -> None:
        for path in (dpkg.STATUS, *self._status_files()):
            self._parsed(path, self._debian, MAX_DATABASE)
        for path in apk.PATHS:
            self._parsed(path, lambda body, where: apk.parse_apk(body, where, self._distribution), MAX_DATABASE)
        for path in rpm.PATHS:
            self._rpm(path)
        for path in rpm.OLD_PATHS:
            if self._is_there(path):
                self._warn(f"/{path}: only rpm's databases in SQLite are read; those of older versions are not")

    def _debian(self, body: bytes, where: str) -> Iterator[Package]:
        for package in dpkg.parse_dpkg(body, where, self._distribution):
            yield replace(package, licence=self._debian_licence(package.name))

    def _debian_licence(self, package: str) -> str:
        """dpkg's database has none: what the package's copyright file says, if it is there."""
        path = copyright_path(package)
        try:
            body = self._files.read(path, MAX_COPYRIGHT) if path else None
        except UsedUp:
            raise
        except Unreadable as error:
            self._warn(f"licence of {package}: {error}")
            return ""
        return plain(parse_copyright(body)) if body is not None else ""

    def _status_files(self) -> list[str]:
        names = self._names(dpkg.STATUS_DIRECTORY)
        return [f"{dpkg.STATUS_DIRECTORY}/{name}" for name in names if not name.endswith(".md5sums")]

    def _is_there(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return name in self._names(directory)

    def _names(self, path: str) -> list[str]:
        try:
            return self._files.names(path)
        except UsedUp:
            raise
        except Unreadable as error:
            self._warn(f"/{path}: {error}")
            return []

    def _rpm(self, path: str) -> None:
        def check(log: OpenFile, where: str) -> Iterable[Package]:
            if log.size:
                raise Damaged("the changes in it, which the database itself does not have, are not read")
            return ()

        self._with_file(path, lambda file, where: rpm.parse_rpm(file.at, where, self._distribution))
        self._with_file(f"{path}-wal", check)

    def _languages(self) -> None:
        """Packages of Python and Node, wherever they lie."""
        for here in self._files.walk():
            if here.path.count("/") >= MAX_DEPTH - 2 and here.directories:
                self._warn(f"what is below {MAX_DEPTH} directories is not looked at: /{here.path}")
            name = here.path.rpartition("/")[2]
            if name.endswith(".dist-info"):
                self._described(here, "METADATA", pydist.parse_metadata)
            elif name.endswith(".egg-info"):
                self._described(here, "PKG-INFO", pydist.parse_metadata)
            elif name in _PYTHON:
                for each in here.others:
                    if each.endswith(".egg-info"):
                        self._described(here, each, pydist.parse_metadata)
            elif _is_node_package(here.path):
                self._described(here, "package.json", node.parse_package_json)

    def _described(self, here: Directory, name: str, parse: Callable[[bytes, str], Package]) -> None:
        if name in here.others:
            self._parsed(f"{here.path}/{name}", lambda body, where: [parse(body, where)], MAX_METADATA)

    def _parsed(self, path: str, parse: Callable[[bytes, str], Iterable[Package]], most: int) -> None:
        self._with_file(path, lambda file, where: parse(file.whole(most), where))

    def _with_file(self, path: str, read: Callable[[OpenFile, str], Iterable[Package]]) -> None:
        """Take the packages of one file, up to where it breaks; once, if two paths lead to it."""
        where = "/" + plain(path)
        try:
            with self._files.opened(path) as file:
                if file is not None and file.identity not in self._read:
                    self._read.add(file.identity)
                    self._add(read(file, where))
        except UsedUp:
            raise
        except (Unreadable, Damaged) as error:
            self._warn(f"{where}: {error}")

    def _add(self, packages: Iterable[Package]) -> None:
        for package in packages:
            if len(self._packages) >= MAX_PACKAGES:
                raise _Enough(f"there are more than {MAX_PACKAGES} packages; the others are left out")
            self._packages[package.order] = package

    def _warn(self, text: str) -> None:
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(plain(text))


def _is_node_package(path: str) -> bool:
    """node_modules/NAME or node_modules/@SCOPE/NAME."""
    parts = path.split("/")[-3:]
    if len(parts) >= 2 and parts[-2] == "node_modules":
        return not parts[-1].startswith((".", "@"))
    return len(parts) == 3 and parts[0] == "node_modules" and parts[1].startswith("@")
