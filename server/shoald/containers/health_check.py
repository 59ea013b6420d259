"""The health check that holds for a container: the request's, completed by the image's HEALTHCHECK; pure.

As moby's `daemon/commit.go` merge: what the request does not say is the image's, then Docker's default.
"""

from __future__ import annotations

from shoal.errors import InvalidArgument
from shoald.model.container import HealthCheck
from shoald.oci.config import Healthcheck

NONE, COMMAND, SHELL = "NONE", "CMD", "CMD-SHELL"
DEFAULTS = HealthCheck(interval_s=30.0, timeout_s=30.0, start_period_s=0.0, start_interval_s=5.0, retries=3)
LEAST_S = 0.001
_TIMES = ("interval_s", "timeout_s", "start_period_s", "start_interval_s")


def effective_health_check(asked: HealthCheck, image: Healthcheck | None) -> HealthCheck | None:
    """What to run, with all times filled in; None when there is no check, or it is switched off (NONE).

    An image can say anything: a kind of test that there is not means no check, and times below 0 are none."""
    test = asked.test or tuple((image.test if image else None) or ())
    if not test or test[0] not in (COMMAND, SHELL):
        return None
    times = {}
    for name in _TIMES:
        from_image = max(getattr(image, name.removesuffix("_s")), 0) / 1e9 if image else 0.0
        times[name] = getattr(asked, name) or from_image or getattr(DEFAULTS, name)
    retries = asked.retries or max(image.retries if image else 0, 0) or DEFAULTS.retries
    return HealthCheck(test=test, retries=retries, **times)


def check_health_check(asked: HealthCheck) -> None:
    """Raises InvalidArgument (INVALID_HEALTH_CHECK)."""
    wrong = ""
    kind = asked.test[0] if asked.test else COMMAND
    if kind not in (NONE, COMMAND, SHELL):
        wrong = f"the test begins with {kind!r}, not with NONE, CMD or CMD-SHELL"
    elif asked.test and kind in (COMMAND, SHELL) and not any(asked.test[1:]):
        wrong = "the test has no command"
    elif kind == SHELL and len(asked.test) != 2:
        wrong = "CMD-SHELL takes one line"
    elif kind == NONE and (len(asked.test) > 1 or asked != HealthCheck(test=asked.test)):
        wrong = "NONE goes with no other health option"
    elif any(0 < getattr(asked, name) < LEAST_S or getattr(asked, name) < 0 for name in _TIMES):
        wrong = "times must be at least 1 ms"
    elif asked.retries < 0:
        wrong = "retries can't be negative"
    elif any("\0" in word for word in asked.test):
        wrong = "the test contains a NUL byte"
    if wrong:
        raise InvalidArgument(f"invalid health check: {wrong}", reason="INVALID_HEALTH_CHECK")
