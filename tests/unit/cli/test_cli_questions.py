"""Questions before something is removed: standard output is for the answer alone."""

from __future__ import annotations

import io

import pytest

from shoalctl.render import terminal
from tests.support.cli import Shoal

pytestmark = pytest.mark.usefixtures("config")


@pytest.mark.parametrize("verb", [("volume", "prune"), ("network", "prune"), ("prune",)])
def test_questions_go_to_standard_error(verb: tuple[str, ...], shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "input_is_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = shoal(*verb)
    assert (code, out.strip()) == (1, "")
    assert "This removes all" in err
