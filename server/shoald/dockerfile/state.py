"""The pure state machine of one stage: a state and an instruction give the next state and, maybe, a step.

Expansion is lazy, because ENV and ONBUILD of the base image are known only when it is: the solver starts a stage with
its base's config, then applies `state.instructions` one by one and carries out the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.platform import Platform
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.checks import Finding, finding
from shoald.dockerfile.config import DEFAULT_PATH, HistoryEntry, StageConfig, env_pairs, with_env
from shoald.dockerfile.errors import DockerfileError, Span
from shoald.dockerfile.graph import BuildPlan
from shoald.dockerfile.parse import trigger
from shoald.dockerfile.paths import clean
from shoald.dockerfile.steps import Base, ImageBase, Step
from shoald.dockerfile.transition import Transition

MAX_WARNINGS = 1000
"""A stage says no more than this."""


@dataclass(frozen=True, slots=True)
class StageState:
    """Where a stage is. Make one with `start`; `apply` gives the next one and changes nothing here."""

    plan: BuildPlan
    index: int
    instructions: tuple[ins.Instruction, ...]
    """What is to be applied: the triggers of the base, then the stage's own instructions."""
    config: StageConfig
    env: Mapping[str, str]
    """ENV and ARG together, as RUN sees them."""
    build_args: tuple[tuple[str, str | None], ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    """What was added to the history of the image that the chain of stages starts from."""
    warnings: tuple[Finding, ...] = ()
    workdir_set: bool = False
    last: Mapping[str, Span] = field(default_factory=dict)
    """Where the last CMD, ENTRYPOINT and HEALTHCHECK of this stage are."""
    spent: int = 0

    @classmethod
    def start(
        cls,
        plan: BuildPlan,
        index: int,
        config: Mapping[str, Any] | None = None,
        author: str = "",
        platform: Platform | None = None,
    ) -> StageState:
        """Begin a stage on scratch (no config), or on an image or context with this OCI `config` object.

        `platform` is what the image says of itself; another one than expected gives a warning. Raises DockerfileError
        for bad ONBUILD triggers of the image.
        """
        base = StageConfig.from_oci(config, author)
        warnings = plan.checks.select(_platform_findings(plan, index, platform))
        return _begin(cls(plan, index, (), base, {}, warnings=warnings), base.on_build)

    @classmethod
    def start_from(cls, plan: BuildPlan, index: int, parent: StageState) -> StageState:
        """Begin a stage whose base is another stage, from that one's last state; its ARGs stay set."""
        triggers = tuple(i.trigger for i in plan.stages[parent.index].instructions if isinstance(i, ins.Onbuild))
        begun = replace(parent, plan=plan, index=index, instructions=(), warnings=(), last={})
        return _begin(begun, triggers)

    def apply(self, instruction: ins.Instruction) -> tuple[StageState, Step]:
        """The next state, and what to do for it: a MetaStep when only the config changed.

        Raises DockerfileError with the instruction's lines.
        """
        work = Transition(
            self.plan, self.index, instruction, self.config, self.env, self.build_args, self.workdir_set, self.last
        )
        work.spent = self.spent
        try:
            step, empty_layer = work.run()
            work.spend(len(step.created_by))
        except DockerfileError as e:
            raise e.place(instruction.span, self.plan.filename) from None
        except ValueError as e:
            raise DockerfileError(str(e), span=instruction.span, file=self.plan.filename) from None
        history = self.history
        if step.created_by:
            history = (*history, HistoryEntry(step.created_by, empty_layer))
        after = replace(
            self,
            config=work.config,
            env=work.env,
            build_args=work.build_args,
            history=history,
            warnings=(*self.warnings, *self.plan.checks.select(work.findings))[:MAX_WARNINGS],
            workdir_set=work.workdir_set,
            last=work.last,
            spent=work.spent,
        )
        return after, step

    def bases(self) -> tuple[Base, ...]:
        """Where COPY and mounts of `instructions` take files from; triggers may add stages to what the plan needs."""
        return tuple(dict.fromkeys(base for _, base in self.plan.origins(self.instructions)))

    def image_config(self) -> StageConfig:
        """The config of the image: this state's, with the labels of the request."""
        if not self.plan.labels:
            return self.config
        return replace(self.config, labels={**self.config.labels, **self.plan.labels})


def _platform_findings(plan: BuildPlan, index: int, actual: Platform | None) -> list[Finding]:
    stage, expected = plan.stages[index], plan.platform_of(index)
    if actual is None or (actual.os, actual.architecture) == (expected.os, expected.architecture):
        return []
    name = stage.base.reference if isinstance(stage.base, ImageBase) else stage.label
    message = f'Base image {name} was pulled with platform "{actual}", expected "{expected}" for current build'
    return [finding("InvalidBaseImagePlatform", message, stage.span)]


def _begin(state: StageState, triggers: tuple[str, ...]) -> StageState:
    plan, stage = state.plan, state.plan.stages[state.index]
    config = replace(state.config, on_build=())
    if "PATH" not in env_pairs(config.env):
        config = replace(config, env=with_env(config.env, {"PATH": DEFAULT_PATH}))
    if config.working_dir:
        config = replace(config, working_dir=clean(config.working_dir))
    try:
        instructions = (*(trigger(text, stage.span) for text in triggers), *stage.instructions)
        plan.check_order(state.index, instructions)
    except DockerfileError as e:
        raise e.place(stage.span, plan.filename) from None
    env = {**state.env, **env_pairs(config.env)}  # what the parent's ARG hid of its ENV shows again
    return replace(state, config=config, env=env, instructions=instructions)
