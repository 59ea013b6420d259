"""What follows from a container's exit; pure. Restart policies and back-off as in moby `restartmanager`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shoald.model.container import Container, RestartPolicyName

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 60.0
STEADY_AFTER_S = 10.0
"""A run of this length resets the back-off."""


class Next(Enum):
    """What happens to an exited container."""

    STAY = "stay"
    REMOVE = "remove"
    RESTART = "restart"


@dataclass(frozen=True)
class Decision:
    """`delay_s` counts only with RESTART."""

    next: Next
    delay_s: float = 0.0


def wants_restart(container: Container, exit_code: int) -> bool:
    """Whether the policy asks for another run after this exit."""
    policy = container.spec.restart_policy
    if container.stopped_by_user:
        return False
    match policy.name:
        case RestartPolicyName.ALWAYS | RestartPolicyName.UNLESS_STOPPED:
            return True
        case RestartPolicyName.ON_FAILURE:
            return exit_code != 0 and (policy.max_retries == 0 or container.restart_count < policy.max_retries)
        case _:
            return False


def after_exit(container: Container, exit_code: int, ran_s: float, previous_delay_s: float) -> Decision:
    """Decide; `previous_delay_s` is the last back-off (0: none yet), `ran_s` how long this run was."""
    if wants_restart(container, exit_code):
        if previous_delay_s == 0 or ran_s >= STEADY_AFTER_S:
            return Decision(Next.RESTART, FIRST_DELAY_S)
        return Decision(Next.RESTART, min(previous_delay_s * 2, MAX_DELAY_S))
    if container.spec.auto_remove:
        return Decision(Next.REMOVE)
    return Decision(Next.STAY)


def starts_with_daemon(container: Container) -> bool:
    """Whether a container found dead at the daemon's start (a reboot) is to run again. `always` runs even if a user had
    stopped it, `unless-stopped` and `on-failure` do not (Docker's documentation of restart policies)."""
    match container.spec.restart_policy.name:
        case RestartPolicyName.ALWAYS:
            return True
        case RestartPolicyName.UNLESS_STOPPED:
            return not container.stopped_by_user
        case _:
            return False
