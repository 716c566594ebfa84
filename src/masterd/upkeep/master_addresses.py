"""The addresses from which other masterds connect, found by the URLs in their candidacies.

A masterd may be known by a host name. Connections are accepted by their address, and nothing may be looked up while one
is accepted. So names are resolved in the background and their addresses are remembered. Until a name is resolved for
the first time, its masterd counts as any other client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from masterd.upkeep.local_member import literal_address, resolve_by_system, resolve_names
from nodestore.support.tasks import background_task

_AGAIN_S = 30.0
_TIMEOUT_S = 5.0
_NAMES_MAX = 32


class MasterAddresses:
    """Knows the addresses of other masterds. urls: returns the URLs in all candidacies."""

    def __init__(
        self,
        urls: Callable[[], Iterable[str]],
        *,
        resolve: Callable[[str], Iterable[str]] = resolve_by_system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls, self._resolve, self._clock = urls, resolve, clock
        self._known: dict[str, frozenset[str]] = {}
        """By host name: the addresses found last."""
        self._look_up_at = 0.0
        self._lookup: asyncio.Task[None] | None = None

    def current(self) -> frozenset[str]:
        """The addresses that are known now. Starts a lookup in the background if one is due."""
        literals, names = set[str](), list[str]()
        for url in self._urls():
            if (host := urlsplit(url).hostname) is None:
                continue
            if (literal := literal_address(host)) is not None:
                literals.add(literal)
            else:
                names.append(host)
        wanted = dict.fromkeys(names[:_NAMES_MAX])
        self._look_up_if_due(tuple(wanted))
        return frozenset(literals).union(*(self._known.get(name, frozenset()) for name in wanted))

    async def close(self) -> None:
        """Cancel the lookup in progress."""
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.gather(self._lookup, return_exceptions=True)

    def _look_up_if_due(self, names: tuple[str, ...]) -> None:
        if self._lookup is not None and not self._lookup.done():
            return
        is_known = all(name in self._known for name in names)
        if names and (self._clock() >= self._look_up_at or not is_known):
            self._look_up_at = self._clock() + _AGAIN_S
            self._lookup = background_task(self._look_up(names), name="resolve the names of masters")

    async def _look_up(self, names: tuple[str, ...]) -> None:
        """Resolve the names. A name that cannot be resolved now keeps its former addresses."""
        found = await resolve_names(names, self._resolve, _TIMEOUT_S)
        self._known = {name: found[name] or self._known.get(name, frozenset()) for name in names}
