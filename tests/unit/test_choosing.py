"""Who builds what of a fleet."""

from __future__ import annotations

from shoalctl.commands.choosing import Builder, Candidate, Triple, assigned, builders

AMD, ARM, ARM7, S390 = (("linux", each, "") for each in ("amd64", "arm64", "arm", "s390x"))


def _candidate(host: str, platform: Triple) -> Candidate:
    return Candidate(host, platform, (0, False, 0))


def test_each_platform_has_a_builder() -> None:
    found = [_candidate("a", AMD), _candidate("b", ARM), _candidate("c", AMD)]
    assert builders(found) == [Builder("a", ["c"]), Builder("b", [])]


def test_who_runs_it_without_an_emulator_builds() -> None:
    found = [_candidate("a", AMD), _candidate("b", ARM), _candidate("c", AMD)]
    assert assigned(found, [ARM, AMD]) == [Builder("b", ["a", "c"], [ARM]), Builder("a", (), [AMD])]


def test_the_best_builds_what_nobody_runs() -> None:
    found = [_candidate("a", AMD), _candidate("b", ARM)]
    assert assigned(found, [AMD, S390]) == [Builder("a", ["b"], [AMD, S390])]


def test_an_arm64_host_runs_arm() -> None:
    found = [_candidate("a", AMD), _candidate("b", ARM)]
    assert assigned(found, [("linux", "arm", "v7")]) == [Builder("b", ["a"], [("linux", "arm", "v7")])]


def test_nobody_answers() -> None:
    assert assigned([], [AMD, ARM]) == []
    assert builders([]) == []
