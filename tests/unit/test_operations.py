"""Operations that outlive their callers, and mutations that happen once."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import AlreadyExists, Cancelled, NotFound, OutOfRange, Unavailable
from shoald.engine import operations as module
from shoald.engine.operations import OUTPUT_DROPPED, Emit, Once, Operation, Operations
from shoald.model.build import StepFinished, StepLog, StepStarted
from shoald.model.image import Progress, ProgressPhase

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def log(data: bytes) -> tuple[datetime, StepLog]:
    return TIME, StepLog("s", False, data)


def started(number: int) -> tuple[datetime, StepStarted]:
    return TIME, StepStarted(f"s{number}", "", number, 9, "RUN", 1, 1)


def progress(id_: str, done: int) -> Progress:
    return Progress(id_, ProgressPhase.DOWNLOADING, done)


async def collected(operation: Operation[str], cursor: int = 0) -> list[tuple[int, object]]:
    return [pair async for pair in operation.follow(cursor)]


class Driven:
    """An operation whose work does what the test says."""

    def __init__(self, operations: Operations | None = None, kind: str = "build") -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.emit: Emit = lambda event: None
        self.cleaned = False
        self.operation, _ = (operations or Operations()).start("id", kind, "f", self._work)

    async def _work(self, emit: Emit) -> str:
        self.emit = emit
        try:
            return await asyncio.shield(self.end)
        finally:
            await asyncio.sleep(0)
            self.cleaned = True

    async def begin(self) -> Driven:
        await asyncio.sleep(0)
        return self


class TestFollow:
    async def test_every_cursor_gives_the_rest(self) -> None:
        work = await Driven().begin()
        for number in range(1, 6):
            work.emit(started(number))
        work.end.set_result("done")
        whole = await collected(work.operation)
        assert [number for number, _ in whole] == [1, 2, 3, 4, 5]
        for cursor in range(6):
            assert await collected(work.operation, cursor) == whole[cursor:]
        assert await work.operation.result() == "done"

    async def test_followers_that_come_and_go_miss_nothing(self) -> None:
        work = await Driven().begin()
        early = asyncio.create_task(collected(work.operation))
        seen: list[int] = []

        async def resuming() -> None:
            cursor = 0
            while not work.operation.done or cursor < 40:
                async for number, _ in work.operation.follow(cursor):
                    cursor = number
                    seen.append(number)
                    if number % 7 == 0:
                        break

        late = asyncio.create_task(resuming())
        for number in range(1, 41):
            work.emit(started(number))
            if number % 3 == 0:
                await asyncio.sleep(0)
        work.end.set_result("")
        await late
        assert seen == list(range(1, 41))
        assert [number for number, _ in await early] == seen

    async def test_progress_is_replaced_by_later_progress(self) -> None:
        work = await Driven(kind="pull").begin()
        for done in range(100):
            work.emit(progress("a", done))
            work.emit(progress("b", done))
        work.emit(progress("a", 100))
        work.end.set_result("")
        assert await collected(work.operation) == [(200, progress("b", 99)), (201, progress("a", 100))]

    async def test_a_live_follower_sees_progress_as_it_comes(self) -> None:
        work = await Driven(kind="pull").begin()
        follower = work.operation.follow()
        for done in range(3):
            work.emit(progress("a", done))
            assert await anext(follower) == (done + 1, progress("a", done))

    async def test_the_work_failed(self) -> None:
        work = await Driven().begin()
        work.emit(started(1))
        work.end.set_exception(Unavailable("away"))
        assert len(await collected(work.operation)) == 1
        for _ in range(2):
            with pytest.raises(Unavailable, match="away"):
                await work.operation.result()

    @pytest.mark.parametrize("cursor", [-1, 2, 1000])
    async def test_a_cursor_that_was_never_given(self, cursor: int) -> None:
        work = await Driven().begin()
        work.emit(started(1))
        with pytest.raises(OutOfRange) as caught:
            await collected(work.operation, cursor)
        assert caught.value.reason == "CURSOR_UNKNOWN"
        work.end.set_result("")
        await work.operation.settle()


class TestDroppedOutput:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_BUFFERED_BYTES", 100)

    async def test_a_late_follower_is_told(self) -> None:
        work = await Driven().begin()
        work.emit(started(1))
        for _ in range(5):
            work.emit(log(b"x" * 40))
        work.emit((TIME, StepFinished("s1", False)))
        work.end.set_result("")
        events = await collected(work.operation)
        assert [number for number, _ in events] == [1, 4, 5, 6, 7]
        assert events[0][1] == started(1)
        assert events[1][1][1] == OUTPUT_DROPPED  # type: ignore[index]
        assert await collected(work.operation, 4) == events[2:]
        assert [number for number, _ in await collected(work.operation, 3)] == [4, 5, 6, 7]

    async def test_a_slow_follower_is_told_each_time(self) -> None:
        work = await Driven().begin()
        follower = work.operation.follow()
        work.emit(log(b"a" * 60))
        assert (await anext(follower))[0] == 1
        for _ in range(2):
            for letter in b"bcde":
                work.emit(log(bytes([letter]) * 60))
            notice, rest = await anext(follower), await anext(follower)
            assert notice[1][1] == OUTPUT_DROPPED  # type: ignore[index]
            assert rest[1] == log(b"e" * 60)
        work.end.set_result("")
        assert [pair async for pair in follower] == []

    async def test_one_event_larger_than_all_room_is_kept(self) -> None:
        work = await Driven().begin()
        work.emit(log(b"x" * 500))
        work.end.set_result("")
        assert await collected(work.operation) == [(1, log(b"x" * 500))]

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.sampled_from("slp"), st.integers(0, 80)), max_size=30), st.data())
    def test_no_gap_without_a_notice(self, script: list[tuple[str, int]], data: st.DataObject) -> None:
        """Whatever is emitted, and wherever a follower resumes: output is there or its loss is told."""

        async def check() -> None:
            work = await Driven().begin()
            made: dict[int, object] = {}
            for number, (kind, size) in enumerate(script, 1):
                event = {"s": started(number), "l": log(b"x" * size), "p": progress("p", size)}[kind]
                made[number] = event
                work.emit(event)
            work.end.set_result("")
            cursor = data.draw(st.integers(0, len(script)))
            found = dict(await collected(work.operation, cursor))
            notices = [n for n, event in found.items() if isinstance(event, tuple) and event[1] == OUTPUT_DROPPED]
            assert list(found) == sorted(found)
            for number, event in made.items():
                if number > cursor and number not in found:
                    replaced = isinstance(event, Progress) and any(n > number for n in found)
                    assert replaced or any(notice >= number for notice in notices)
            assert all(made[n] == event for n, event in found.items() if n not in notices)
            assert len(notices) <= 1

        asyncio.run(check())


class TestCancel:
    async def test_a_caller_that_goes_leaves_the_work_alone(self) -> None:
        work = await Driven().begin()
        for waiting in (work.operation.result(), collected(work.operation)):
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not work.operation.done
        work.end.set_result("well")
        assert await work.operation.result() == "well"

    async def test_cancel_waits_for_the_clean_up(self) -> None:
        operations = Operations()
        work = await Driven(operations).begin()
        following = asyncio.create_task(collected(work.operation))
        assert await operations.cancel("id")
        assert work.cleaned
        assert await following == []
        with pytest.raises(Cancelled) as caught:
            await work.operation.result()
        assert caught.value.reason == "OPERATION_CANCELLED"
        assert not await operations.cancel("id")
        assert not await operations.cancel("unknown")

    async def test_work_that_has_just_begun_cleans_up_too(self) -> None:
        """What was prepared for it (a build's context) is its own to remove."""
        operations = Operations()
        work = Driven(operations)
        assert await operations.cancel("id")
        assert work.cleaned

    async def test_close_ends_everything(self) -> None:
        operations = Operations()
        work = await Driven(operations).begin()
        await operations.close()
        assert work.cleaned


class TestIds:
    async def test_the_same_request_joins(self) -> None:
        operations = Operations()
        work = await Driven(operations).begin()
        again, begun = operations.start("id", "build", "f", unexpected)
        assert (again, begun) == (work.operation, False)
        assert operations.get("id", "build") is work.operation
        work.end.set_result("")
        await again.result()
        assert operations.start("id", "build", "f", unexpected) == (again, False)

    @pytest.mark.parametrize(("kind", "fingerprint"), [("build", "other"), ("pull", "f")])
    async def test_an_id_stands_for_one_request(self, kind: str, fingerprint: str) -> None:
        operations = Operations()
        work = await Driven(operations).begin()
        with pytest.raises(AlreadyExists) as caught:
            operations.start("id", kind, fingerprint, unexpected)
        assert caught.value.reason == "REQUEST_ID_REUSED"
        await operations.close()
        assert work.operation.done

    async def test_without_an_id_each_is_its_own(self) -> None:
        operations = Operations()

        async def work(emit: Emit) -> int:
            return 1

        one, two = (operations.start("", "pull", "f", work)[0] for _ in range(2))
        assert one.request_id != two.request_id
        await asyncio.gather(one.result(), two.result())

    @pytest.mark.parametrize(("request_id", "kind"), [("id", "pull"), ("other", "build")])
    async def test_unknown(self, request_id: str, kind: str) -> None:
        operations = Operations()
        await Driven(operations).begin()
        with pytest.raises(NotFound) as caught:
            operations.get(request_id, kind)
        assert caught.value.reason == "OPERATION_NOT_FOUND"
        await operations.close()

    async def test_the_finished_are_forgotten_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        operations = Operations()
        work = await Driven(operations).begin()
        work.end.set_result("")
        await work.operation.settle()
        assert operations.get("id", "build")
        monkeypatch.setattr(module, "KEEP_FINISHED_S", -1.0)
        operations.start("new", "build", "f", nothing)
        with pytest.raises(NotFound):
            operations.get("id", "build")
        await operations.close()

    async def test_output_of_all_finished_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_FINISHED_BYTES", 250)
        operations = Operations()
        made = []
        for number in range(4):

            async def work(emit: Emit) -> None:
                emit(started(1))
                emit(log(b"x" * 100))

            made.append(operations.start(f"{number}", "build", "", work)[0])
            await made[-1].result()
            await asyncio.sleep(0)
        assert [operation.buffered_bytes for operation in made] == [0, 0, 100, 100]
        assert [number async for number, _ in made[0].follow()] == [1, 2]


async def unexpected(emit: Emit) -> str:
    raise AssertionError("this must not run")


async def nothing(emit: Emit) -> str:
    return ""


class TestOnce:
    async def test_a_retry_gets_the_first_outcome(self) -> None:
        once, calls = Once(), []

        async def work() -> int:
            calls.append(1)
            await asyncio.sleep(0)
            return len(calls)

        results = await asyncio.gather(*(once.run("id", "f", work) for _ in range(3)))
        assert [*results, await once.run("id", "f", work)] == [1] * 4
        assert [await once.run("", "f", work), await once.run("", "f", work)] == [2, 3]
        with pytest.raises(AlreadyExists):
            await once.run("id", "other", work)

    @pytest.mark.parametrize(("error", "calls"), [(Unavailable("x"), 2), (NotFound("x"), 1)])
    async def test_failures(self, error: Exception, calls: int) -> None:
        once, made = Once(), []

        async def work() -> None:
            made.append(1)
            raise error

        for _ in range(2):
            with pytest.raises(type(error)):
                await once.run("id", "f", work)
        assert len(made) == calls

    @pytest.mark.parametrize("request_id", ["", "id"])
    async def test_a_caller_that_goes_leaves_the_work_alone(self, request_id: str) -> None:
        once, ended = Once(), asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(0.01)
            ended.set()
            raise NotFound("nobody hears")

        call = asyncio.ensure_future(once.run(request_id, "f", work))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        del call
        gc.collect()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0)
        gc.collect()  # an exception that nobody saw would be complained about here
