"""Every call passes the gate: in (who, may they, is the message sane) and out (errors, audit log, metrics)."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.message import Message

from shoal.errors import ResourceExhausted, ShoalError, Unavailable
from shoald.api.authz import Authorizer, auth_context
from shoald.api.call import Call, current
from shoald.api.checks import check_message
from shoald.api.errors import DETAILS_KEY, code_of, to_status, translate

TRACE_KEY = "x-request-id"

_TRACE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_REFUSALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})

log = structlog.get_logger("shoald.api")
audit = structlog.get_logger("shoald.audit")

Context = grpc.aio.ServicerContext[Any, Any]


class Observer(Protocol):
    """Counts calls."""

    def started(self, method: str) -> None:
        """A call begins."""

    def finished(self, method: str, code: str, seconds: float) -> None:
        """It ended with this status code's name."""


class Gate(grpc.aio.ServerInterceptor):
    """The only interceptor. Wraps each method's handler once."""

    def __init__(self, authorizer: Authorizer, observer: Observer, max_calls: int) -> None:
        self._authorizer = authorizer
        self._observer = observer
        self._max_calls = max_calls
        self._calls: dict[Call, asyncio.Task[Any]] = {}
        self._handlers: dict[str, Any] = {}
        self._draining = False

    @property
    def active(self) -> int:
        """Calls that are being served."""
        return len(self._calls)

    def drain(self, *, streams_only: bool = False) -> None:
        """End calls with UNAVAILABLE (reason SHUTTING_DOWN), and refuse new ones."""
        self._draining = True
        for call, task in self._calls.items():
            if not call.draining and (call.streams or not streams_only):
                call.draining = True
                task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """gRPC's hook: the handler that serves a call; None for an unknown method, which gRPC answers."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            inner = await continuation(handler_call_details)
            if inner is None:
                return None
            handler = self._handlers[method] = self._wrap(method, inner)
        return handler

    def _wrap(self, method: str, inner: Any) -> Any:
        codec = {"request_deserializer": inner.request_deserializer, "response_serializer": inner.response_serializer}
        if not inner.request_streaming and not inner.response_streaming:

            async def unary(request: Message, context: Context) -> Any:
                return await self._serve(
                    method, context, lambda: inner.unary_unary(request, context), request, streams=False
                )

            return grpc.unary_unary_rpc_method_handler(unary, **codec)
        if not inner.request_streaming:

            async def stream(request: Message, context: Context) -> None:
                await self._serve(method, context, lambda: _write_all(inner.unary_stream, request, context), request)

            return grpc.unary_stream_rpc_method_handler(stream, **codec)
        if not inner.response_streaming:

            async def taking(requests: AsyncIterator[Message], context: Context) -> Any:
                checked = _checked(requests)
                return await self._serve(method, context, lambda: inner.stream_unary(checked, context))

            return grpc.stream_unary_rpc_method_handler(taking, **codec)

        async def both(requests: AsyncIterator[Message], context: Context) -> None:
            checked = _checked(requests)
            await self._serve(method, context, lambda: _write_all(inner.stream_stream, checked, context))

        return grpc.stream_stream_rpc_method_handler(both, **codec)

    async def _serve(
        self,
        method: str,
        context: Context,
        body: Callable[[], Awaitable[Any]],
        request: Message | None = None,
        *,
        streams: bool = True,
    ) -> Any:
        call = Call(method, _trace_id(context), streams)
        current.set(call)
        structlog.contextvars.bind_contextvars(request_id=call.trace_id)
        with self._accounted(call) as outcome:
            try:
                self._admit(call, context)
                if request is not None:
                    note(request)
                    check_message(request)
                context.set_trailing_metadata(((TRACE_KEY, call.trace_id),))
                return await body()
            except asyncio.CancelledError:
                if not call.draining or _withdraw_cancellation() or context.cancelled():
                    outcome["code"] = "CANCELLED"
                    raise
                error: ShoalError = _shutting_down()
            except grpc.aio.AbortError:
                outcome["code"] = _name(context.code())
                raise
            except Exception as unexpected:  # noqa: BLE001 -- the last place that can still answer
                error = self._translate(unexpected, context)
            outcome["code"] = error.code
            await _abort(context, error, call.trace_id)
            return None

    def _admit(self, call: Call, context: Context) -> None:
        if self._draining:
            raise _shutting_down()
        call.caller = self._authorizer.identify(context.peer(), auth_context(context))
        self._authorizer.authorize(call.caller, call.method)
        structlog.contextvars.bind_contextvars(who=call.caller.name)
        if call.caller.serial and len(self._calls) > self._max_calls:
            raise ResourceExhausted(
                f"the daemon serves {self._max_calls} calls already", reason="TOO_MANY_CALLS", hint="try again later"
            )

    def _translate(self, unexpected: Exception, context: Context) -> ShoalError:
        error = translate(unexpected)
        if error is not unexpected:
            if context.cancelled() or context.done():
                log.debug("the client went away", error=repr(unexpected))
            else:
                log.error(error.message, reason=error.reason, exc_info=unexpected)
        return error

    @contextmanager
    def _accounted(self, call: Call) -> Any:
        started = time.perf_counter()
        outcome = {"code": "OK"}
        task = asyncio.current_task()
        assert task is not None
        self._calls[call] = task
        self._observer.started(call.method)
        try:
            yield outcome
        finally:
            del self._calls[call]
            seconds = time.perf_counter() - started
            self._observer.finished(call.method, outcome["code"], seconds)
            self._log(call, outcome["code"], seconds)

    def _log(self, call: Call, code: str, seconds: float) -> None:
        access = self._authorizer.access(call.method)
        mutates = access is None or access.mutates
        if not mutates and code not in _REFUSALS:
            log.debug("call", method=call.method, code=code, ms=round(seconds * 1000, 1))
            return
        fields = {"operation_id": call.operation_id, "target": call.target}
        if call.caller is not None:
            fields |= {"who": call.caller.name, "role": str(call.caller.role), "serial": call.caller.serial}
        shown = {key: value for key, value in fields.items() if value}
        audit.info("audit", method=call.method, code=code, ms=round(seconds * 1000, 1), **shown)


def note(request: Message) -> None:
    """Remember for the audit log which operation and object a request names. Only these fields: no secrets."""
    call = current.get()
    call.operation_id = getattr(request, "request_id", "")[:64]
    for field in ("name", "reference", "source"):
        if value := getattr(request, field, ""):
            call.target = str(value)[:200]
            return
    spec = getattr(request, "spec", None)
    if spec is not None:
        call.target = f"{spec.name} {spec.image}".strip()[:200]


async def _checked(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        check_message(request)
        yield request


async def _write_all(method: Callable[..., Any], request: Any, context: Context) -> None:
    """Serve a stream: our own handlers write by themselves, a library's may be async generators."""
    answer = method(request, context)
    if inspect.isasyncgen(answer):
        async for message in answer:
            await context.write(message)
    else:
        await answer


async def _abort(context: Context, error: ShoalError, trace_id: str) -> None:
    status = to_status(error)
    context.set_trailing_metadata(((TRACE_KEY, trace_id), (DETAILS_KEY, status.SerializeToString())))
    await context.abort(code_of(error), status.message)


def _withdraw_cancellation() -> bool:
    """Take the drain's own cancel() back; true when somebody else asked for a cancellation as well."""
    task = asyncio.current_task()
    assert task is not None
    return task.uncancel() > 0


def _trace_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TRACE_KEY and isinstance(value, str) and _TRACE_ID.fullmatch(value):
            return value
    return secrets.token_hex(8)


def _name(code: Any) -> str:
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"


def _shutting_down() -> Unavailable:
    return Unavailable(
        "the daemon is shutting down; containers go on", reason="SHUTTING_DOWN", hint="try again in a moment"
    )
