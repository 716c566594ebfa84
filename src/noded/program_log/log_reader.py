"""Reads pieces of the log of the present driver's program, and waits for new lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from noded.drivers.contract import Driver, DriverError
from noded.drivers.support.offloop import OffLoop
from noded.drivers.support.output import decode_output
from noded.program_log.log_files import RawPiece, parse_position, read_after, read_tail
from nodestore.errors import NodectlError, NodeUnavailable, NotFound
from nodestore.schema.api_types import LogPiece

_POLL_S = 0.2
_INCOMPLETE_LINE_S = 1.0
"""For how long the incomplete last line is held back while it does not grow."""
_READ_TIMEOUT_S = 3.0


class LogReader:
    """Reads the log of the program that the node's driver runs. One read at a time, each on a thread.

    driver: returns the name and the instance of the present driver, None while there is none.
    """

    def __init__(self, driver: Callable[[], tuple[str, Driver] | None]) -> None:
        self._driver = driver
        self._thread = OffLoop("the log")
        self._reading = asyncio.Lock()

    async def last_lines(self, lines: int) -> LogPiece:
        """Read the first piece of the last `lines` lines.

        Raises NotFound if the driver keeps no log, NodeUnavailable if there is no driver now, NodectlError if the log
        cannot be read.
        """
        return _answer(await self._read(lambda paths: read_tail(paths, lines)))

    async def after(self, position_text: str, wait_s: float) -> LogPiece:
        """Read what follows a position; wait up to `wait_s` seconds for it. Raises what `last_lines` raises."""
        position = parse_position(position_text)
        held, held_since = 0, time.monotonic()
        deadline = held_since + wait_s
        while True:
            now = time.monotonic()
            incomplete = wait_s == 0 or (held > 0 and now - held_since >= _INCOMPLETE_LINE_S)
            piece = await self._read(lambda paths: read_after(paths, position, incomplete=incomplete))  # noqa: B023
            if piece.content or piece.note or now >= deadline:
                return _answer(piece)
            if piece.held != held:
                held, held_since = piece.held, now
            await asyncio.sleep(min(_POLL_S, max(0.0, deadline - now)))

    async def _read(self, read: Callable[[Sequence[Path]], RawPiece]) -> RawPiece:
        paths = self._paths()
        try:
            async with self._reading:
                return await self._thread.run(lambda: read(paths), _READ_TIMEOUT_S)
        except DriverError as error:
            raise NodeUnavailable(error.message) from None
        except OSError as error:
            raise NodectlError(f"cannot read the log: {error.strerror or error}") from None

    def _paths(self) -> tuple[Path, ...]:
        found = self._driver()
        if found is None:
            raise NodeUnavailable("no driver is in effect")
        name, driver = found
        try:
            found_paths = getattr(driver, "log_files", ())
            paths = None if found_paths is None else tuple(Path(path) for path in found_paths)
        except Exception as error:  # noqa: BLE001 - third-party code can raise anything
            raise NodectlError(f"driver {name}: its log_files cannot be read: {error!r}") from None
        if paths is None:
            raise NodeUnavailable(f"driver {name} has applied nothing yet")
        if not paths:
            raise NotFound(f"driver {name} keeps no log here")
        return paths


def _answer(piece: RawPiece) -> LogPiece:
    text = decode_output(piece.content)
    return {"text": text, "position": piece.position, "at_end": piece.at_end, "note": piece.note}
