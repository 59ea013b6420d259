"""What follows from a container's exit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoald.containers.transitions import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    STEADY_AFTER_S,
    Decision,
    Next,
    after_exit,
    starts_with_daemon,
    wants_restart,
)
from shoald.model.container import Container, RestartPolicy, RestartPolicyName
from tests.support.records import container

NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED = (
    RestartPolicyName.NO,
    RestartPolicyName.ON_FAILURE,
    RestartPolicyName.ALWAYS,
    RestartPolicyName.UNLESS_STOPPED,
)


def made(
    policy: RestartPolicyName, *, retries: int = 0, count: int = 0, stopped: bool = False, rm: bool = False
) -> Container:
    record = container(restart_count=count, stopped_by_user=stopped)
    return replace(record, spec=replace(record.spec, restart_policy=RestartPolicy(policy, retries), auto_remove=rm))


@pytest.mark.parametrize(
    ("record", "code", "wanted"),
    [
        (made(NO), 0, False),
        (made(NO), 1, False),
        (made(ALWAYS), 0, True),
        (made(ALWAYS), 137, True),
        (made(ALWAYS, stopped=True), 1, False),
        (made(UNLESS_STOPPED), 0, True),
        (made(UNLESS_STOPPED, stopped=True), 0, False),
        (made(ON_FAILURE), 0, False),
        (made(ON_FAILURE), 1, True),
        (made(ON_FAILURE, count=10**6), 1, True),
        (made(ON_FAILURE, retries=3, count=2), 1, True),
        (made(ON_FAILURE, retries=3, count=3), 1, False),
        (made(ON_FAILURE, stopped=True), 1, False),
    ],
)
def test_policies(record: Container, code: int, wanted: bool) -> None:
    assert wants_restart(record, code) is wanted
    assert (after_exit(record, code, 1.0, 0.0).next is Next.RESTART) is wanted


def test_without_a_restart() -> None:
    assert after_exit(made(NO), 1, 0, 0) == Decision(Next.STAY)
    assert after_exit(made(NO, rm=True), 0, 0, 0) == Decision(Next.REMOVE)
    assert after_exit(made(ALWAYS, stopped=True), 0, 0, 0) == Decision(Next.STAY)


@given(st.lists(st.floats(0, 3600, allow_nan=False), max_size=40))
def test_the_back_off_grows_within_bounds(runs: list[float]) -> None:
    delay, quick = 0.0, 0
    for ran in runs:
        decision = after_exit(made(ALWAYS), 1, ran, delay)
        assert decision.next is Next.RESTART
        steady = delay == 0 or ran >= STEADY_AFTER_S
        quick = 0 if steady else quick + 1
        assert decision.delay_s == min(FIRST_DELAY_S * 2**quick, MAX_DELAY_S)
        delay = decision.delay_s


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (made(NO), False),
        (made(ON_FAILURE), False),
        (made(ALWAYS), True),
        (made(ALWAYS, stopped=True), True),
        (made(UNLESS_STOPPED), True),
        (made(UNLESS_STOPPED, stopped=True), False),
    ],
)
def test_after_a_reboot(record: Container, wanted: bool) -> None:
    assert starts_with_daemon(record) is wanted
