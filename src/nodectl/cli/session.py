"""From a command to the cluster and back: one client, one event loop, for as long as the command takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from nodectl.cli.settings import Options
from nodectl.endpoints import parse_endpoints
from nodectl.terminal.output import Output
from nodestore.errors import Invalid
from nodestore.support import waiting
from nodestore.support.backoff import Backoff

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.etcd.session import Etcd
    from nodestore.schema.keys import Keys

T = TypeVar("T")

_PAUSE_FIRST_S = 0.05
_PAUSE_MAX_S = 0.5


def options_of(context: typer.Context) -> Options:
    """The global options; those of the environment when a command runs without the root."""
    found = context.find_root().obj
    return found if isinstance(found, Options) else Options()


def with_client(context: typer.Context, work: Callable[[Client], Awaitable[T]]) -> T:
    """What `work` returns, given a client of the cluster that the options name."""
    options = options_of(context)
    settings = options.resolve()
    assert settings.endpoints is not None
    endpoints = settings.endpoints

    async def session() -> T:
        from nodectl.client import Client

        client = Client(
            endpoints,
            cluster=settings.cluster,
            user=settings.user,
            password=settings.password(),
            ca=settings.ca,
            cert=settings.cert,
            key=settings.key,
            read_timeout_s=options.request_timeout_s,
            command_timeout_s=options.request_timeout_s,
        )
        async with client:
            return await work(client)

    return asyncio.run(session())


def with_etcd(context: typer.Context, work: Callable[[Etcd, Keys], Awaitable[T]]) -> T:
    """What `work` returns, given a session with etcd itself. Invalid when the options name masters only."""
    settings = options_of(context).resolve()
    assert settings.endpoints is not None
    endpoints = parse_endpoints(settings.endpoints).etcd
    if not endpoints or settings.cluster is None:
        raise Invalid("this talks to etcd itself: give its members as --endpoints HOST:PORT,... and --cluster")
    cluster = settings.cluster

    async def session() -> T:
        from nodestore.etcd.session import Etcd, EtcdSettings
        from nodestore.schema.keys import Keys

        own = EtcdSettings(
            endpoints, settings.user, settings.password(), ca=settings.ca, cert=settings.cert, key=settings.key
        )
        async with Etcd(own) as etcd:
            return await work(etcd, Keys(cluster))

    return asyncio.run(session())


async def wait_until(missing: Callable[[], Awaitable[str | None]], what: str, timeout_s: float, output: Output) -> None:
    """Wait until `missing()` is None, and show meanwhile what is missing. TimedOut, naming it, after `timeout_s`."""
    pauses = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, factor=1.5)
    with output.progress(f"waiting until {what}") as show:
        await waiting.wait_until(
            missing, what, timeout_s, pauses, report=lambda lacking: show(f"waiting until {what}: {lacking}")
        )
