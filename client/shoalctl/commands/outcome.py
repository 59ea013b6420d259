"""A fan-out of a command: collect, print errors as they come, and the exit code in the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.result import HostResult
from shoalctl.render import documents
from shoalctl.render.errors import show_error
from shoalctl.render.listing import Listing

T = TypeVar("T")


async def collected(results: AsyncGenerator[HostResult[T], None], order: Sequence[str]) -> list[HostResult[T]]:
    """All results, in the order in which the hosts were named."""
    async with aclosing(results) as stream:
        found = {result.host: result async for result in stream}
    return [found[name] for name in order if name in found]


def report(results: Sequence[HostResult[T]]) -> int:
    """Print the errors; the exit code for all of them together."""
    for result in results:
        if result.error is not None:
            show_error(result.error, result.host)
    return exits.combined(not result.ok for result in results)


def presented(
    listing: Listing, results: Sequence[HostResult[T]], rows: Callable[[str, T], Iterable[dict[str, Any]]]
) -> int:
    """Show the rows of the hosts that answered and the errors of the others; the exit code for all of them.

    With `--format json` an error is a row too, with Host, Error and Reason, for programs. Raises UsageFault for a field
    of the format that no row has, after the errors are shown.
    """
    shown = [row for result in results if result.ok for row in rows(result.host, result.get())]
    if listing.format == "json" and not listing.quiet:
        shown += [error_row(result.host, result.error) for result in results if result.error is not None]
    if shown or any(result.ok for result in results):
        try:
            listing.show(shown)
        except UsageFault:
            report(results)
            raise
    return report(results)


Inspected = tuple[list[dict[str, Any]], list[ShoalError]]
"""The documents that a host has of what was asked for, and the errors for what it lacks."""


def inspected(results: Sequence[HostResult[Inspected]], format_: str) -> int:
    """Show the documents of all hosts as one, or each in a template, and the errors; the exit code.

    Raises UsageFault for a field of the template that a document lacks, after the errors are shown.
    """
    found = [view for result in results if result.ok for view in result.get()[0]]
    try:
        if format_:
            Listing((), "", format_).show(found)
        else:
            documents.show(found)
    except UsageFault:
        _show_errors(results)
        raise
    failed = _show_errors(results)
    return exits.PARTIAL if found and any(failed) else exits.combined(failed)


def _show_errors(results: Sequence[HostResult[Inspected]]) -> list[bool]:
    """Whether each host had some."""
    failed = []
    for result in results:
        errors = [result.error] if result.error is not None else result.get()[1]
        for error in errors:
            show_error(error, result.host)
        failed.append(bool(errors))
    return failed


async def single(host: str, work: Awaitable[object]) -> int:
    """Do the work of a command on one host; the exit code. Shows an error with the host's name. Raises UsageFault."""
    try:
        await work
    except UsageFault:
        raise
    except ShoalError as error:
        show_error(error, host)
        return exits.for_error(error)
    return exits.OK


def error_row(host: str, error: ShoalError) -> dict[str, Any]:
    """An error as a row."""
    return {"Host": host, "Error": error.message, "Reason": error.reason, "Hint": error.hint or ""}


def pruned(
    hosts: Sequence[str], results: Sequence[HostResult[T]], told: Callable[[T], tuple[Iterable[str], int]]
) -> int:
    """Show what a prune removed on each host and how much space that freed (`told`), and the errors; the exit code."""
    from shoalctl.render.human import size
    from shoalctl.render.marks import MarkedLines

    marks = MarkedLines(hosts)
    for result in results:
        if result.ok:
            removed, freed = told(result.get())
            for each in removed:
                marks.line(result.host, each)
            marks.line(result.host, f"Total reclaimed space: {size(freed)}")
    marks.close()
    return report(results)
