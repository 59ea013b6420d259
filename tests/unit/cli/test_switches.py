"""Switches with a value."""

from __future__ import annotations

import pytest

from shoalctl.flags.fault import UsageFault
from shoalctl.flags.switches import Option, with_plain_switches

OPTIONS = {
    "--rm": Option(False),
    "--sig-proxy": Option(False, "--no-sig-proxy"),
    "--no-sig-proxy": Option(False),
    "-i": Option(False),
    "-t": Option(False),
    "-e": Option(True),
    "-m": Option(True),
    "-v": Option(True),
    "--env": Option(True),
    "--name": Option(True),
}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--rm=true", "img"], ["--rm", "img"]),
        (["--rm=false", "img"], ["img"]),
        (["--rm", "img"], ["--rm", "img"]),
        (["--sig-proxy=false", "img"], ["--no-sig-proxy", "img"]),
        (["--sig-proxy=1", "img"], ["--sig-proxy", "img"]),
        (["-it", "--rm=true", "img", "cmd", "--rm=true"], ["-it", "--rm", "img", "cmd", "--rm=true"]),
        (["-e", "--rm=true", "img"], ["-e", "--rm=true", "img"]),
        (["-ite", "--rm=true", "img"], ["-ite", "--rm=true", "img"]),
        (["-m512m", "redis", "--init=false", "--rm=true"], ["-m512m", "redis", "--init=false", "--rm=true"]),
        (["-v/srv:/srv", "--rm=1", "img"], ["-v/srv:/srv", "--rm", "img"]),
        (["-eNAME_v", "img", "--rm=true"], ["-eNAME_v", "img", "--rm=true"]),
        (["-eA=m", "img", "--rm=true"], ["-eA=m", "img", "--rm=true"]),
        (["-itm512m", "img", "--rm=true"], ["-itm512m", "img", "--rm=true"]),
        (["-im", "--rm=true", "img"], ["-im", "--rm=true", "img"]),
        (["-", "--rm=true"], ["-", "--rm=true"]),
        (["--env", "--rm=true", "img"], ["--env", "--rm=true", "img"]),
        (["--env=--rm=true", "img"], ["--env=--rm=true", "img"]),
        (["--name=x", "--rm=t", "--", "--rm=true"], ["--name=x", "--rm", "--", "--rm=true"]),
        (["--what=true", "img"], ["--what=true", "img"]),
    ],
)
def test_before_the_command(given: list[str], wanted: list[str]) -> None:
    assert with_plain_switches(given, OPTIONS, interspersed=False) == wanted


def test_among_arguments_where_they_may_stand() -> None:
    assert with_plain_switches(["a", "--rm=true", "b"], OPTIONS, interspersed=True) == ["a", "--rm", "b"]


def test_neither_true_nor_false() -> None:
    with pytest.raises(UsageFault, match="true or false"):
        with_plain_switches(["--rm=maybe"], OPTIONS, interspersed=False)
