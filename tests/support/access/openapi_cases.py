"""What Schemathesis tries of the HTTP API: the operations of its OpenAPI document, and what judges the answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import schemathesis
from schemathesis import APIOperation, GenerationMode
from schemathesis.specs.openapi import checks

from masterd.api import openapi
from masterd.application.scenes import BuiltinApp

T = TypeVar("T")
SEED = 20_240_817
ANSWER_S = 15.0
READY_S = 60.0
STREAMS = ("/v1/events", "/v1/cluster/watch", "/v1/live", "/v1/nodes/watch")
"""They answer for ever, so their bodies cannot be waited for: only how they begin is judged."""
DOCUMENT = openapi.document(BuiltinApp())
VALID, INVALID = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


def _can_be_wrong(operation: dict[str, Any]) -> bool:
    """Any text will do in a path; only a query and a body can break the document's rules."""
    return "requestBody" in operation or any(item["in"] == "query" for item in operation.get("parameters", ()))


OPERATIONS = [
    (method, path, mode)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    for mode in (VALID, INVALID)
    if mode is VALID or _can_be_wrong(operation)
]
ANSWERED = [row for row in OPERATIONS if row[1] not in STREAMS]


def operation_of(method: str, path: str) -> APIOperation[Any, Any, Any, Any]:
    """The operation, of the document as this masterd publishes it."""
    found: APIOperation[Any, Any, Any, Any] = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    return found


def judges_of(method: str, mode: GenerationMode) -> list[Any]:
    """What judges the answers to valid or invalid requests."""
    judges = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    if mode is INVALID:
        return [*judges, checks.negative_data_rejection]
    # Bodies have rules over several fields (a group names nodes that exist), which no schema says.
    return [*judges, checks.positive_data_acceptance] if method == "get" else judges


@contextmanager
def in_own_thread(opened: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What `opened` opens, in an event loop of its own: Schemathesis blocks until it has an answer."""
    started: Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with opened() as found:
            over = asyncio.Event()
            started.set_result((found, asyncio.get_running_loop(), over))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # the caller raises it
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    found, loop, over = started.result(READY_S)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(READY_S)
