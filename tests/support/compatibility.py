"""docs/compatibility.md, made of docs/compatibility.toml and of the commands that the client really has."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import typer

from shoalctl.app import VERBS, app
from shoalctl.commands.command import _target_params
from shoalctl.commands.out_flags import OUT

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "compatibility.md", DOCS / "compatibility.toml"
STATES = ("supported", "different", "out")
SHORT = {"container ls": "ps", "container prune": "", "container inspect": "inspect"}
"""Docker's name of a container verb at the top level where it is not the verb's own; "" for none."""
NAMES = {
    "container ls": ("container list", "container ps"),
    "container rm": ("container remove",),
    "network ls": ("network list",),
    "network rm": ("network remove",),
    "volume ls": ("volume list",),
    "volume rm": ("volume remove",),
}
"""Docker's other names of a verb."""

INTRO = """\
# Compatibility with Docker

Every verb and flag of `docker run`, `docker container`, `docker network` and `docker volume` ({versions}):
**supported**, **different** (and why), or **out** (and why). This page is generated from the client itself, and a test
fails when it is not true; another one reads the flags of the docker commands that are installed.

What is different everywhere:

- Every command takes the flags of targets: `-H`, `-g`, `--all`, `--host-label` and `--timeout`
  ([the command](cli.md#targets)). `--all` means all hosts.
- Templates of `--format` have fields and a few functions, no pipes ([formats](cli.md#formats)).
- A wrong value is refused before anything is made, with exit code 2; Docker's is 125.
- A flag of `run` and `create` that is out is refused with its reason.
- What gives rights on the host needs the role admin ([security](security.md)).

"""


@dataclass(frozen=True)
class Verb:
    """A verb of docker's, such as `container rm`: its own state, and that of its flags by their spellings."""

    name: str
    note: str
    flags: Mapping[str, str]

    @property
    def state(self) -> str:
        """Of the verb."""
        return state(self.note)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that docker has for it."""
        group, _, word = self.name.partition(" ")
        short = SHORT.get(self.name, word) if group == "container" else ""
        return (self.name, *NAMES.get(self.name, ()), *([short] if short else []))


@dataclass(frozen=True)
class Command:
    """A command of the client: help texts of the flags that are its own by spelling, and what it refuses."""

    shown: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    groups: tuple[tuple[str, ...], ...] = ()
    """Spellings of each shown flag."""

    @property
    def taken(self) -> set[str]:
        """All spellings that work."""
        return {*self.shown, *self.hidden}


def state(note: str) -> str:
    """supported, different or out. Raises ValueError."""
    found = note.partition(":")[0] or "supported"
    if found not in STATES or (found == "different" and ": " not in note):
        raise ValueError(f"{note!r} is none of {', '.join(STATES)}")
    return found


@cache
def verbs() -> dict[str, Verb]:
    """Docker's, from the data."""
    document = tomllib.loads(DATA.read_text())
    found = {}
    for name, table in document.items():
        without = table.pop("without", [])
        other = document[table.pop("as")] if "as" in table else {}
        note = table.pop("verb", "")
        flags = {key: value for key, value in {**other, **table}.items() if key not in (*without, "verb")}
        found[name] = Verb(name, note, dict(sorted(flags.items(), key=lambda item: item[0].partition("--")[2])))
    return found


@cache
def command(name: str) -> Command | None:
    """The client's command of this name, such as `container rm`; None when there is none."""
    found: Any = typer.main.get_command(app)
    for word in name.split():
        found = found.get_command(typer.Context(found), word) if hasattr(found, "get_command") else None
        if found is None:
            return None
    targets = {spelling for param in _target_params() for spelling in param.opts}
    shown: dict[str, str] = {}
    hidden, groups = set(), []
    for param in found.params:
        # With a flag of its own, `-l` is not the targets'.
        spellings = [*param.opts, *param.secondary_opts]
        if param.param_type_name != "option" or set(param.opts) & targets & {"--help", "--host", "--group", "--all"}:
            continue
        if set(param.opts) <= targets | {"--help"}:
            continue
        if param.hidden:
            hidden.update(spellings)
            continue
        groups.append(tuple(spellings))
        shown.update(dict.fromkeys(spellings, param.help or ""))
    refused = frozenset(hidden & set(OUT))
    return Command(shown, frozenset(hidden - refused), refused, tuple(groups))


def spellings(flag: str) -> list[str]:
    """Of a key of the data: `-a, --attach`."""
    return flag.split(", ")


def lies(verb: Verb) -> Iterator[str]:
    """What the data says of a verb that the client contradicts."""
    commands = {name: command(name) for name in verb.names}
    if verb.state == "out":
        yield from (f"{name} is called out and there" for name, found in commands.items() if found)
        return
    yield from (f"{name} is missing" for name, found in commands.items() if found is None)
    for name, found in commands.items():
        if found is None:
            continue
        for flag, note in verb.flags.items():
            there = [spelling for spelling in spellings(flag) if spelling in found.taken]
            if state(note) == "supported" and len(there) < len(spellings(flag)):
                yield f"{name} {flag} is called supported and missing"
            elif state(note) == "different" and not there:
                yield f"{name} {flag} is called different and missing"
            elif state(note) == "out" and there:
                yield f"{name} {flag} is called out and there"
            elif note == "out" and not set(spellings(flag)) & found.refused:
                yield f"{name} {flag} is out without a reason"
        if (main := commands[verb.name]) and found.taken != main.taken:
            yield f"{name} and {verb.name} differ in {', '.join(sorted(found.taken ^ main.taken))}"


def page() -> str:
    """docs/compatibility.md."""
    counts: dict[str, int] = dict.fromkeys(STATES, 0)
    body = []
    for group in ("container", "network", "volume"):
        body.append(f"## {group}\n\n{_verb_table(group)}")
        for verb in verbs().values():
            if verb.name.startswith(f"{group} ") and verb.state != "out":
                body.append(_section(verb))
                for note in verb.flags.values():
                    counts[state(note)] += 1
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    text = INTRO.format(versions="20.10 to 28.2")
    return f"{text}Of {sum(counts.values())} flags: {summary}.\n\n" + "\n\n".join(body) + "\n"


def _verb_table(group: str) -> str:
    lines = ["| verb | | |", "|---|---|---|"]
    for verb in verbs().values():
        if verb.name.startswith(f"{group} "):
            names = ", ".join(f"`{name}`" for name in verb.names)
            lines.append(f"| {names} | {_mark(verb.note, command(verb.name) is not None)} | {_why(verb.note)} |")
    dockers = {name for verb in verbs().values() for name in verb.names}
    own = [name for name in _own_verbs(group) if f"{group} {name}" not in dockers]
    lines += [f"| `{group} {name}` | shoal's own | |" for name in own]
    return "\n".join(lines)


def _own_verbs(group: str) -> list[str]:
    if group not in VERBS:
        return []
    found: Any = typer.main.get_command(app).get_command(typer.Context(typer.main.get_command(app)), group)  # type: ignore[attr-defined]
    return sorted(found.list_commands(typer.Context(found)))


def _section(verb: Verb) -> str:
    found = command(verb.name) or Command()
    lines = [f"### {verb.name}", ""]
    rows = [_row(flag, note, found) for flag, note in verb.flags.items()]
    known = {spelling for flag in verb.flags for spelling in spellings(flag)}
    rows += [
        f"| `{', '.join(group)}` | shoal's own | {_cell(found.shown[group[0]])} |"
        for group in sorted(found.groups, key=lambda each: each[-1].lstrip("-"))
        if not set(group) & known
    ]
    lines += ["| flag | | |", "|---|---|---|", *rows] if rows else ["It has no flags."]
    return "\n".join(lines)


def _row(flag: str, note: str, found: Command) -> str:
    there = [spelling for spelling in spellings(flag) if spelling in found.taken]
    complete = len(there) == len(spellings(flag)) if state(note) == "supported" else bool(there)
    why = _why(note) or (OUT.get(spellings(flag)[-1], "") if note == "out" else "")
    more = [
        other for group in found.groups if set(group) & set(there) for other in group if other not in spellings(flag)
    ]
    return f"| `{', '.join([flag, *more])}` | {_mark(note, complete)} | {_cell(why)} |"


def _mark(note: str, there: bool) -> str:
    return state(note) if there or state(note) == "out" else "**missing**"


def _why(note: str) -> str:
    return note.partition(": ")[2]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def docker_flags(program: str, *words: str) -> dict[str, str]:
    """Spellings of the flags that an installed docker has for a verb, by long name."""
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=True)
    found = re.finditer(r"^ {2,6}((?:-[a-zA-Z], )?(--[a-z0-9-]+))", done.stdout, re.MULTILINE)
    return {match[2]: match[1] for match in found if match[2] != "--help"}


def docker_verbs(program: str, group: str) -> list[str]:
    """Those of a group."""
    done = subprocess.run([program, group, "--help"], capture_output=True, text=True, check=True)
    return re.findall(r"^  ([a-z]+) ", done.stdout.partition("Commands:")[2], re.MULTILINE)
