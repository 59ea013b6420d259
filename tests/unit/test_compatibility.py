"""docs/compatibility.md is true: of the client, and of the docker commands that are installed."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support import compatibility
from tests.support.compatibility import PAGE, command, docker_flags, docker_verbs, lies, page, spellings, verbs

DOCKERS = sorted({os.path.realpath(path) for path in ("/usr/bin/docker", shutil.which("docker") or "") if path})


@pytest.mark.parametrize("name", verbs())
def test_what_is_said_of_a_verb_is_true(name: str) -> None:
    assert not list(lies(verbs()[name]))


def test_the_page_is_what_is_generated() -> None:
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "SHOAL_UPDATE_GOLDEN=1 writes it"


def test_every_flag_of_the_client_is_on_the_page() -> None:
    sections = dict(part.partition("\n")[::2] for part in PAGE.read_text().split("\n### ")[1:])
    for name in verbs():
        found = command(name)
        for spelling in found.shown if found else ():
            rows = [row for row in sections[name].splitlines() if row.startswith("| `")]
            assert any(spelling in row.split("`")[1].split(", ") for row in rows), (name, spelling)


def test_lies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail, in each of its ways."""
    verb = compatibility.Verb
    cases = {
        "container rm": verb("container rm", "", {"--no-such": ""}),
        "container stop": verb("container stop", "", {"-t, --no-such": ""}),
        "container kill": verb("container kill", "", {"--signal": "out: x"}),
        "volume ls": verb("volume ls", "", {"--quick": "different: x"}),
        "volume rm": verb("volume rm", "out: x", {}),
        "volume fly": verb("volume fly", "", {}),
        "container run": verb("container run", "", {"--rm": "out"}),
    }
    assert {name for name, case in cases.items() if list(lies(case))} == set(cases)
    with pytest.raises(ValueError):
        compatibility.state("maybe: x")


@pytest.mark.peers
@pytest.mark.parametrize("program", [path for path in DOCKERS if os.access(path, os.X_OK)])
@pytest.mark.parametrize("group", ["container", "network", "volume"])
def test_every_flag_of_an_installed_docker_is_on_the_page(program: str, group: str) -> None:
    for word in docker_verbs(program, group):
        name = f"{group} {word}"
        assert name in verbs(), name
        if verbs()[name].state == "out":
            continue
        known = {tuple(spellings(flag)) for flag in verbs()[name].flags}
        flat = {spelling for flag in known for spelling in flag}
        for flag in docker_flags(program, group, word).values():
            assert set(spellings(flag)) <= flat, (name, flag)
