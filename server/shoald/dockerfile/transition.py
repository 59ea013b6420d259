"""One step of the state machine: what each instruction does to the config and the environment.

Histories, defaults and messages are Docker's, so that an image built here is told apart only by its times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from shoald.dockerfile import checks
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.checks import Finding
from shoald.dockerfile.config import DEFAULT_SHELL, StageConfig, with_env
from shoald.dockerfile.copying import copy_step
from shoald.dockerfile.errors import DockerfileError, Span, nearest
from shoald.dockerfile.expand import Expansion, expand
from shoald.dockerfile.gotext import format_duration, plain_all, quote_all
from shoald.dockerfile.graph import BuildPlan
from shoald.dockerfile.paths import clean
from shoald.dockerfile.ports import expose
from shoald.dockerfile.running import run_step
from shoald.dockerfile.signals import check_signal
from shoald.dockerfile.steps import MetaStep, Step, WorkdirStep

MAX_SPENT = 64 * 1024 * 1024
"""Characters that one stage may expand to, and steps that its patterns may take, in sum."""
_NOT_IN_ENV = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_BAD_NAME = re.compile("[=\0]")


class Transition:
    """A working copy of a state's parts for one instruction. `run` changes it and says what is to be done."""

    def __init__(
        self,
        plan: BuildPlan,
        index: int,
        instruction: ins.Instruction,
        config: StageConfig,
        env: Mapping[str, str],
        build_args: tuple[tuple[str, str | None], ...],
        workdir_set: bool,
        last: Mapping[str, Span],
    ) -> None:
        self.plan, self.index, self.instruction = plan, index, instruction
        self.config, self.env, self.build_args = config, env, build_args
        self.workdir_set, self.last = workdir_set, last
        self.findings: list[Finding] = []
        self.spent = 0

    def run(self) -> tuple[Step, bool]:
        """Do it: the step, and whether its layer is empty. Raises DockerfileError and ValueError."""
        match self.instruction:
            case ins.Run() as run:
                return run_step(self, run), False
            case ins.Copy() | ins.Add() as transfer:
                return copy_step(self, transfer), False
            case ins.Workdir() as workdir:
                return self._workdir(workdir)
            case _:
                created_by = self._configure(self.instruction)
                return self.meta(created_by), True

    def meta(self, created_by: str) -> MetaStep:
        """A step that changes nothing but the config."""
        each = self.instruction
        return MetaStep(text=each.text, created_by=created_by, span=each.span, onbuild=each.onbuild)

    def expand(self, word: str) -> str:
        """Expand a word with the environment so far."""
        return self.expansion(word).text

    def expansion(self, word: str, *, raw: bool = False) -> Expansion:
        """The same with all that was found; `raw` leaves quotes alone (heredocs)."""
        escape = "\\" if raw else self.plan.escape
        found = expand(word, self.env, escape=escape, quotes=not raw)
        self.spend(found.cost)
        if found.unmatched:
            self._report(found.unmatched)
        return found

    def _report(self, unmatched: frozenset[str]) -> None:
        declared = {name for name, _ in self.build_args}
        for name in sorted(unmatched - declared - _NOT_IN_ENV):
            suggestion = nearest(name, self.env)
            self.findings.append(checks.undefined_variable(name, suggestion, self.instruction.span))

    def shown(self, text: str, *, raw_quotes: bool = False, hidden: frozenset[str] = frozenset()) -> str:
        """The instruction's text for people, its variables replaced where that is possible."""
        env = {k: v for k, v in self.env.items() if k not in hidden} if hidden else self.env
        try:
            found = expand(text, env, escape=self.plan.escape, raw_quotes=raw_quotes, keep_unset=raw_quotes)
        except DockerfileError:
            shown = text
        else:
            self.spend(found.cost)
            shown = found.text
        keyword, blank, rest = shown.partition(" ")
        return keyword.upper() + blank + rest

    def spend(self, cost: int) -> None:
        """Count towards the stage's limit. Raises DockerfileError (DOCKERFILE_TOO_LARGE)."""
        self.spent += cost
        if self.spent > MAX_SPENT:
            raise DockerfileError("the stage expands to too much text", reason="DOCKERFILE_TOO_LARGE")

    def in_shell(self, command: ins.CommandLine) -> tuple[str, ...]:
        """The words to run: in shell form, the shell and one word."""
        if command.exec_form:
            return command.words
        return (*(self.config.shell or DEFAULT_SHELL), " ".join(command.words))

    def _workdir(self, each: ins.Workdir) -> tuple[Step, bool]:
        path = self.expand(each.path)
        if not self.workdir_set and not path.startswith("/"):
            message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
            self.findings.append(checks.finding("WorkdirRelativePath", message, each.span))
        self.workdir_set = True
        absolute = clean(path, self.config.working_dir or "/")
        self.config = replace(self.config, working_dir=absolute)
        created_by = f"WORKDIR {absolute}"
        if absolute == "/":
            return self.meta(created_by), True
        step = WorkdirStep(
            text=self.shown(each.text),
            created_by=created_by,
            span=each.span,
            onbuild=each.onbuild,
            path=absolute,
            user=self.config.user,
        )
        return step, False

    def _configure(self, instruction: ins.Instruction) -> str:
        """Change the config; the `created_by` of the history, "" for no entry."""
        match instruction:
            case ins.Env() as each:
                return self._set_env(each)
            case ins.Arg() as each:
                return self._set_args(each)
            case ins.Label() as each:
                return self._set_labels(each)
            case ins.User() as each:
                user = self.expand(each.user)
                self.config = replace(self.config, user=user)
                return f"USER {user}"
            case ins.Cmd() as each:
                return self._set_cmd(each)
            case ins.Entrypoint() as each:
                return self._set_entrypoint(each)
            case ins.Healthcheck() as each:
                return self._set_healthcheck(each)
            case ins.Expose() as each:
                words = [word for port in each.ports for word in self.expansion(port).words]
                ports = expose(words)
                for word in words:
                    self.findings += checks.port_findings(word, each.span)
                self.config = replace(self.config, exposed_ports=_union(self.config.exposed_ports, ports))
                return f"EXPOSE {plain_all(ports)}"
            case ins.Volume() as each:
                paths = tuple(self.expand(path) for path in each.paths)
                if not all(paths):
                    raise ValueError("VOLUME specified can not be an empty string")
                self.config = replace(self.config, volumes=_union(self.config.volumes, paths))
                return f"VOLUME {plain_all(paths)}"
            case ins.Shell() as each:
                self.config = replace(self.config, shell=each.shell)
                return f"SHELL {plain_all(each.shell)}"
            case ins.StopSignal() as each:
                signal = self.expand(each.signal)
                check_signal(signal)
                self.config = replace(self.config, stop_signal=signal)
                return f"STOPSIGNAL {signal}"
            case ins.Onbuild() as each:
                self.config = replace(self.config, on_build=(*self.config.on_build, each.trigger))
                return ""
            case ins.Maintainer() as each:
                self.config = replace(self.config, author=each.name)
                return f"MAINTAINER {each.name}"
            case _:
                raise ValueError(f"{instruction.keyword} is not allowed here")

    def _pairs(self, each: ins.Env | ins.Label) -> list[tuple[str, str]]:
        pairs = [(self.expand(pair.key), self.expand(pair.value)) for pair in each.pairs]
        if any(pair.legacy for pair in each.pairs):
            self.findings.append(checks.legacy_key_value(each.keyword, each.span))
        if any(not key for key, _ in pairs):
            raise ValueError(f"{each.keyword} names can not be blank")
        return pairs

    def _set_env(self, each: ins.Env) -> str:
        pairs = self._pairs(each)
        for name, _ in pairs:
            if _BAD_NAME.search(name):
                raise ValueError(f"invalid environment variable name {name[:200]!r}")
            if checks.looks_secret(name):
                self.findings.append(checks.secret_in("ENV", name, each.span))
        changes = dict(pairs)
        self.env = {**self.env, **changes}
        self.config = replace(self.config, env=with_env(self.config.env, changes))
        return "ENV " + " ".join(f"{name}={value}" for name, value in pairs)

    def _set_args(self, each: ins.Arg) -> str:
        shown: list[str] = []
        declared: list[tuple[str, str | None]] = []
        env = self.env = dict(self.env)  # a default may use the arguments before it
        for name, default in each.args:
            if checks.looks_secret(name):
                self.findings.append(checks.secret_in("ARG", name, each.span))
            value: str | None
            if name in self.plan.build_args:
                value = self.plan.build_args[name]
            elif default is not None:
                value = self.expand(default)
            else:
                value = self.plan.global_args.get(name)
            if value is not None and name not in _NOT_IN_ENV:
                env[name] = value
            declared.append((name, value))
            shown.append(name if value is None else f"{name}={value}")
        self.build_args = (*self.build_args, *declared)
        return "ARG " + " ".join(shown)

    def _set_labels(self, each: ins.Label) -> str:
        pairs = self._pairs(each)
        self.config = replace(self.config, labels={**self.config.labels, **dict(pairs)})
        return "LABEL " + " ".join(f"{key}={value}" for key, value in pairs)

    def _used_once(self, each: ins.Instruction) -> None:
        earlier = self.last.get(each.keyword)
        if earlier is not None:
            self.findings.append(checks.repeated(each.keyword, earlier))
        self.last = {**self.last, each.keyword: each.span}

    def _recommend_json(self, each: ins.Cmd | ins.Entrypoint) -> None:
        if not each.command.exec_form and not self.config.shell:
            self.findings.append(checks.json_recommended(each.keyword, each.span))

    def _set_cmd(self, each: ins.Cmd) -> str:
        self._used_once(each)
        self._recommend_json(each)
        words = self.in_shell(each.command)
        self.config = replace(self.config, cmd=words, args_escaped=True)
        return f"CMD {quote_all(words)}"

    def _set_entrypoint(self, each: ins.Entrypoint) -> str:
        self._used_once(each)
        self._recommend_json(each)
        words = self.in_shell(each.command)
        kept = self.config.cmd if "CMD" in self.last else None
        self.config = replace(self.config, entrypoint=words or None, cmd=kept)
        return f"ENTRYPOINT {quote_all(words)}"

    def _set_healthcheck(self, each: ins.Healthcheck) -> str:
        self._used_once(each)
        self.config = replace(self.config, healthcheck=each.health)
        health = each.health
        times = {
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
        }
        shown = " ".join(f"{name}:{format_duration(value)}" for name, value in times.items())
        return f"HEALTHCHECK {{Test:{plain_all(health.test)} {shown} Retries:{health.retries}}}"


def _union(have: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*have, *more)))
