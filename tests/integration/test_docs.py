"""The documentation names only what exists: files, headings, commands, flags, configuration keys, metrics."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(page for page in (ROOT / "examples").rglob("*.md") if "node_modules" not in page.parts),
    ]
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^(?:\$|#) (shoald?) (.+)$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """Anchors as forges make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in headings(file), target


@cache
def help_of(*words: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / words[0], *words[1:], "--help"], capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_examples_exist(page: Path) -> None:
    """Each `shoal VERB --flag` of a console example is one that the command knows."""
    for program, rest in _COMMAND.findall(page.read_text()):
        line = re.split(r"\s#|\||;|&&", rest)[0].split()
        verbs: list[str] = []
        known = help_of(program)
        skip = False
        for word in line:
            if skip or word in ("busybox", "..."):
                skip = False
                continue
            if word.startswith("-"):
                flag = word.partition("=")[0]
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known + help_of(program)) or _bundle(
                    flag, known
                ), f"{name(page)}: {program} {' '.join(line)}: no flag {flag}"
                skip = flag in ("-H", "-g", "-l", "--config", "--host") and "=" not in word
                continue
            if (deeper := help_of(program, *verbs, word)) and len(verbs) < 3 and deeper != known:
                verbs.append(word)
                known = deeper
                continue
            break
        assert verbs, f"{name(page)}: unknown command: {program} {rest}"


def _bundle(flag: str, known: str) -> bool:
    """Whether `-it` is `-i -t`."""
    letters = flag.removeprefix("-")
    return not letters.startswith("-") and all(re.search(rf"(?<![\w-])-{letter}\b", known) for letter in letters)


def test_configuration_keys() -> None:
    """The example has every key, and the default of each."""
    from shoald import config

    text = (ROOT / "deploy/config.example.toml").read_text()
    enabled = re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    enabled = re.sub(r"^(cert|key|ca|deny_list) = .*$", "", enabled, flags=re.MULTILINE)
    assert config.from_toml(enabled) == config.Config()


def test_metrics_in_the_page_exist() -> None:
    from shoald.metrics import Metrics

    described = {metric.name for metric in Metrics("0").registry.collect()}
    page = (ROOT / "docs/operations.md").read_text()
    for word in re.findall(r"`(shoald_[a-z_]+)", page):
        assert word.removesuffix("_total") in described, word
