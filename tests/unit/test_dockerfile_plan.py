"""Plans and states: order and reach of stages, laziness, limits, and no unexpected error for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.platform import Platform
from shoald.dockerfile.config import StageConfig
from shoald.dockerfile.errors import DockerfileError, did_you_mean
from shoald.dockerfile.gotext import format_duration, parse_duration, parse_size, quote
from shoald.dockerfile.graph import BuildPlan, plan
from shoald.dockerfile.source import MAX_BYTES, MAX_INSTRUCTIONS, read
from shoald.dockerfile.state import StageState
from shoald.dockerfile.steps import CopyStep, ImageBase, RunStep, StageBase

AMD64 = Platform("linux", "amd64")


def make(text: str | bytes, **request: object) -> BuildPlan:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return plan(data, target_platform=AMD64, build_platform=AMD64, **request)  # type: ignore[arg-type]


def walk(made: BuildPlan) -> StageState:
    """Apply everything that the target needs."""
    states: dict[int, StageState] = {}
    for index in made.needed:
        base = made.stages[index].base
        if isinstance(base, StageBase):
            state = StageState.start_from(made, index, states[base.index])
        else:
            state = StageState.start(made, index)
        for instruction in state.instructions:
            state, _ = state.apply(instruction)
        states[index] = state
    return states[made.target]


def test_only_what_the_target_needs_in_order() -> None:
    made = make(
        "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one / /\n"
        "FROM two AS four\nRUN --mount=from=three,target=/m x\nFROM d AS five\n",
        target="four",
    )
    assert made.needed == (0, 1, 2, 3)
    assert made.dependencies(3) == (1, 2)
    assert [image for image, _ in made.images()] == ["a", "b", "c"]
    assert make("FROM a\nFROM b").needed == (1,)


def test_a_stage_named_like_an_image_comes_after_it() -> None:
    made = make("FROM busybox AS busybox\nFROM busybox\n")
    assert made.stages[0].base == ImageBase("busybox")
    assert made.stages[1].base == StageBase(0)


def test_apply_changes_nothing_in_the_old_state() -> None:
    made = make("FROM x\nENV A=1\nRUN a\n")
    start = StageState.start(made, 0, {"Env": ["PATH=/bin"]})
    after, _ = start.apply(start.instructions[0])
    again, _ = start.apply(start.instructions[0])
    assert after == again
    assert "A" not in start.env
    assert start.history == ()


def test_a_stage_has_the_env_of_its_parent_not_what_an_arg_hid_of_it() -> None:
    state = walk(make("FROM a AS x\nENV V=1\nARG V=2\nARG W=3\nRUN a\nFROM x\nENV R=$V$W\n"))
    assert (state.env["R"], state.env["V"], state.env["W"]) == ("13", "1", "3")


@pytest.mark.parametrize(
    "checksum", ["x", "sha256:xyz", "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha512:" + "a" * 128]
)
def test_a_malformed_checksum_has_its_line(checksum: str) -> None:
    with pytest.raises(DockerfileError, match="checksum") as caught:
        walk(make(f"FROM a\nARG SUM={checksum}\nADD --checksum=$SUM https://e.test/f /f\n"))
    assert caught.value.metadata["start_line"] == "3"


def test_a_checksum_of_a_git_source_is_a_commit() -> None:
    walk(make("FROM a\nADD --checksum=0123abcd https://e.test/f.git /f\n"))


def test_environment_of_the_base_is_expanded_lazily() -> None:
    made = make("FROM x\nENV PATH=/a:$PATH\nRUN x\nCOPY $DIR/f .\n")
    state = StageState.start(made, 0, {"Env": ["PATH=/bin", "DIR=/d"], "WorkingDir": "/w"})
    steps = []
    for instruction in state.instructions:
        state, step = state.apply(instruction)
        steps.append(step)
    assert isinstance(steps[1], RunStep)
    assert steps[1].env["PATH"] == "/a:/bin"
    assert steps[1].workdir == "/w"
    assert isinstance(steps[2], CopyStep)
    assert (steps[2].dest, steps[2].dest_is_dir) == ("/w", True)


def test_triggers_of_an_image_may_need_more_stages() -> None:
    made = make("FROM a AS tools\nFROM parent\n")
    assert made.needed == (1,)
    state = StageState.start(made, 1, {"OnBuild": ["COPY --from=tools /t /t"]})
    assert state.bases() == (StageBase(0),)
    with pytest.raises(DockerfileError, match="needs to be defined before"):
        StageState.start(
            make("FROM parent AS a\nFROM b AS tools\n", target="a"), 0, {"OnBuild": ["COPY --from=tools / /"]}
        )


def test_onbuild_takes_heredocs_and_gives_them_to_the_trigger() -> None:
    made = make(
        "FROM x AS a\nONBUILD RUN <<E <<-'F'\none $X\nONBUILD RUN y\nE\n\ttwo\n\tF\nonbuild\tCOPY <<G /g\n$A\nG\n"
        'RUN cat <<E\nONBUILD ADD z\nE\nONBUILD RUN ["<<x"]\nFROM a\n'
    )
    first = StageState.start(made, 0)
    for instruction in first.instructions:
        first, step = first.apply(instruction)
        if isinstance(step, RunStep):
            assert step.argv[-1] == "cat <<E\nONBUILD ADD z\nE"
    assert first.config.on_build == (
        "RUN <<E <<-'F'\none $X\nONBUILD RUN y\nE\n\ttwo\nF",
        "COPY <<G /g\n$A\nG",
        'RUN ["<<x"]',
    )
    second = StageState.start_from(made, 1, first)
    assert [i.keyword for i in second.instructions] == ["RUN", "COPY", "RUN"]
    assert {i.span for i in second.instructions} == {made.stages[1].span}


def test_a_base_for_another_platform_is_said() -> None:
    made = make("FROM x")
    assert StageState.start(made, 0, {}, platform=AMD64).warnings == ()
    (found,) = StageState.start(made, 0, {}, platform=Platform("linux", "arm64")).warnings
    assert found.rule == "InvalidBaseImagePlatform"
    assert 'platform "linux/arm64", expected "linux/amd64"' in found.message


def test_proxies_are_apart_from_the_environment() -> None:
    state = walk(make("FROM x\nRUN a", build_args={"https_proxy": "p"}))
    assert state.plan.proxy_env == {"HTTPS_PROXY": "p", "https_proxy": "p"}
    assert "https_proxy" not in state.env
    assert state.plan.warnings == ()


def test_config_survives_a_round_trip() -> None:
    text = "FROM scratch\nLABEL a=b\nEXPOSE 80\nHEALTHCHECK CMD x\nVOLUME /v\nCMD []\nUSER u\n"
    config = walk(make(text + 'SHELL ["s"]\nONBUILD RUN x\n')).config
    assert StageConfig.from_oci(config.to_oci()).to_oci() == config.to_oci()
    assert StageConfig.from_oci({"Env": None, "Labels": None, "Cmd": None}).to_oci() == {}


def test_errors_name_the_file() -> None:
    with pytest.raises(DockerfileError) as caught:
        make("FROM x\n\nCOPY a\\\n\n", filename="dir/Dockerfile.dev")
    assert caught.value.metadata == {"file": "dir/Dockerfile.dev", "start_line": "3", "end_line": "4"}
    state = StageState.start(make("FROM x\nENV A=${B\n", filename="f"), 0)
    with pytest.raises(DockerfileError) as caught:
        state.apply(state.instructions[0])
    assert caught.value.metadata["file"] == "f"
    assert caught.value.span.start == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"FROM x\n" + b"#" * MAX_BYTES, "DOCKERFILE_TOO_LARGE"),
        (b"FROM x\n" + b"USER a\n" * MAX_INSTRUCTIONS, "DOCKERFILE_TOO_LARGE"),
        (b"F\0R\0O\0M\0", "DOCKERFILE_SYNTAX"),
        (b"FROM x\nCMD " + b"[" * 200_000, "DOCKERFILE_SYNTAX"),
        (b"FROM x\nENV A=0123456789\n" + b"ENV A=$A$A$A$A$A$A$A$A\n" * 30, "DOCKERFILE_EXPANSION"),
        (b"FROM x\nENV A=" + b"a" * 500_000 + b"\n" + b"LABEL a=$A\n" * 500, "DOCKERFILE_TOO_LARGE"),
        (b"FROM x\nENV A=" + b"${A:-" * 2000 + b"}" * 2000, "DOCKERFILE_EXPANSION"),
        (b'FROM x\nCMD ["a\\u0000b"]', "DOCKERFILE_SYNTAX"),
        (b"FROM x\nRUN 9" + b"9" * 5000 + b"<<EOF\nEOF\n", "DOCKERFILE_SYNTAX"),
    ],
)
def test_hostile_texts_are_refused(text: bytes, reason: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        walk(make(text))
    assert caught.value.reason == reason


def test_long_comments_and_lines_take_linear_time() -> None:
    assert len(read(b"# a=x" + b" " * 900_000 + b"y\nFROM x\n").nodes) == 1
    assert len(read(b"FROM x\nRUN a " + b"\\ " * 400_000 + b"\n").nodes) == 2


@pytest.mark.parametrize(
    "text",
    [
        "FROM x AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\nCOPY --from=s{n // 2} a b\n" for n in range(1000)),
        "FROM x\nENV" + "".join(f" v{n}=$w{n}" for n in range(20_000)),
        "FROM x\nARG" + "".join(f" v{n}=$v{n - 1}" for n in range(20_000)) + "\nRUN x",
        "ARG" + "".join(f" v{n}" for n in range(20_000)) + "\nFROM x$w\n" * 1000,
        "FROM x\nCOPY" + " --exclude=a" * 20_000 + " a b",
        "FROM x\n" + "ENV a=1 b=2\nLABEL a=$a\n" * 2000,
        "FROM x\n" + "".join(f"ENV v{n}=1\n" for n in range(2000)),
    ],
)
def test_many_of_anything_take_no_square_time(text: str) -> None:
    walk(make(text))


def test_too_many_ports_are_refused() -> None:
    with pytest.raises(DockerfileError, match="more than"):
        walk(make("FROM x\nEXPOSE" + " 1-65535" * 50_000))


def test_invalid_utf8_and_lone_surrogates_are_replaced() -> None:
    state = walk(make(b'FROM x\n# caf\xe9\nLABEL a=caf\xe9\nCMD ["\\ud800"]\n'))
    assert state.config.labels == {"a": "caf\ufffd"}
    assert state.config.cmd == ("\ufffd",)


_SNIPPETS = r"""
FROM x|FROM a AS b|FROM $A|ARG A=1|ARG A|ENV A=$A${B:-x}|ENV a b|RUN <<E|E|\|COPY --from=b <<E a /b|COPY ["a", "b"]
RUN --mount=type=cache,target=$A x|ONBUILD RUN <<E|ONBUILD COPY <<E /x|HEALTHCHECK --interval=1s CMD x|EXPOSE $A 1-3/udp
SHELL ["a"]|CMD [|# escape=`|VOLUME [""]|ADD --checksum=$A https://[x /a|LABEL "a=b|STOPSIGNAL $A|WORKDIR $A|USER
ENTRYPOINT []|  ONBUILD add a b|RUN a << "E" <<-'F'|F|COPY --parents --exclude=$A a/./b c
"""
_LINES = st.lists(
    st.one_of(
        st.sampled_from(_SNIPPETS.strip().replace("\n", "|").split("|")),
        st.text(max_size=30),
        st.from_regex(r"(RUN|COPY|ADD|ENV|FROM|LABEL|ONBUILD|HEALTHCHECK) (--[a-z]+=?)?[ -~]{0,20}", fullmatch=True),
    ),
    max_size=8,
)


def _problem(text: str | bytes, **request: object) -> DockerfileError | None:
    """Plan and walk a text: the error that it gives. Any other exception fails the test."""
    try:
        walk(make(text, **request))
    except DockerfileError as e:
        return e
    return None


@settings(max_examples=600, deadline=None)
@given(_LINES, st.dictionaries(st.sampled_from(["A", "B"]), st.text(max_size=5), max_size=2))
def test_any_text_gives_a_plan_or_a_dockerfile_error(lines: list[str], build_args: dict[str, str]) -> None:
    problem = _problem("\n".join(["FROM x", *lines]), build_args=build_args)
    assert problem is None or (problem.message and problem.metadata["file"] == "Dockerfile")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_plan_or_a_dockerfile_error(data: bytes) -> None:
    problem = _problem(data)
    assert problem is None or problem.reason.startswith("DOCKERFILE_")


@pytest.mark.parametrize(
    ("text", "nanoseconds", "shown"),
    [
        ("0", 0, "0s"),
        ("1.5s", 1_500_000_000, "1.5s"),
        ("90m", 5_400_000_000_000, "1h30m0s"),
        ("2us", 2_000, "2\u00b5s"),
        ("1h2m3s4ms", 3_723_004_000_000, "1h2m3.004s"),
        ("-5ns", -5, "-5ns"),
        (".5s", 500_000_000, "500ms"),
    ],
)
def test_durations(text: str, nanoseconds: int, shown: str) -> None:
    assert parse_duration(text) == nanoseconds
    assert format_duration(nanoseconds) == shown


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s2", "--1s", ".s", "9999999999h", "1\u0661s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_small_texts() -> None:
    assert [parse_size(s) for s in ("10", "1k", "1.5MiB", "2GB")] == [10, 1024, 1572864, 2 << 30]
    assert quote('a"\\\n\x01\u00e9\u200b\U000e0001') == '"a\\"\\\\\\n\\x01\u00e9\\u200b\\U000e0001"'
    assert did_you_mean("chwon", ["chmod", "chown"]) == " (did you mean chown?)"
    assert did_you_mean("copi", ["COPY"]) == " (did you mean copy?)"
    assert did_you_mean("Path", ["PATH", "PAT"]) == " (did you mean PATH?)"
    assert did_you_mean("COPY", ["COPY"]) == did_you_mean("U", ["A"]) == ""
