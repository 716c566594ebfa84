"""Runs the coroutine of a command in an event loop of its own, with a client of the cluster or a session with etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from nodectl.cli.settings import ClusterSettings, Options
from nodectl.endpoints import parse_endpoints
from nodectl.terminal.output import Output
from nodestore.errors import Denied, Invalid
from nodestore.support import waiting
from nodestore.support.backoff import Backoff

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.etcd.session import Etcd, EtcdSettings
    from nodestore.schema.keys import Keys

T = TypeVar("T")

_PAUSE_FIRST_S = 0.05
_PAUSE_MAX_S = 0.5


def options_of(context: typer.Context) -> Options:
    """The global options; the defaults if the root command did not run."""
    found = context.find_root().obj
    return found if isinstance(found, Options) else Options()


def client_of(
    settings: ClusterSettings, timeout_s: float, *, token: str | None = None, mask_secrets: bool = False
) -> Client:
    """Create a client of the cluster in resolved `settings`. `timeout_s` limits each read and each command.

    token: a bearer token, if the settings name no file of one. mask_secrets: ask for answers without secrets.
    """
    from nodectl.client import Client

    assert settings.endpoints is not None
    return Client(
        settings.endpoints, cluster=settings.cluster, user=settings.user, password=settings.password(),
        password_file=settings.password_file, token=token, token_file=settings.token_file, ca=settings.ca,
        cert=settings.cert, key=settings.key, crl=settings.crl, read_timeout_s=timeout_s, command_timeout_s=timeout_s,
        mask_secrets=mask_secrets,
    )  # fmt: skip


def with_client(context: typer.Context, work: Callable[[Client], Awaitable[T]], *, mask_secrets: bool = False) -> T:
    """Run `work` with a client of the cluster that the options name, and return its result.

    mask_secrets: ask for answers without secrets, because what is in a table stays on screens and in logs.
    """
    options = options_of(context)
    settings = options.resolve()

    async def session() -> T:
        async with client_of(settings, options.request_timeout_s, mask_secrets=mask_secrets) as client:
            return await work(client)

    return asyncio.run(session())


def with_etcd(context: typer.Context, work: Callable[[Etcd, Keys], Awaitable[T]]) -> T:
    """Run `work` with a session with etcd, and return its result. Raises Invalid if the options name masters only.

    `work` needs etcd's root role if access control is on in etcd: Denied says so.
    """
    own, cluster = etcd_settings_of(context)

    async def session() -> T:
        from nodestore.etcd.session import Etcd
        from nodestore.schema.keys import Keys

        async with Etcd(own) as etcd:
            return await work(etcd, Keys(cluster))

    try:
        return asyncio.run(session())
    except Denied as error:
        raise Denied(
            f"{error}: this needs a user with etcd's role root, such as a certificate maintenance:NAME"
        ) from None


def etcd_settings_of(context: typer.Context) -> tuple[EtcdSettings, str]:
    """The settings of a session with etcd, and the name of the cluster. Raises Invalid if there are masters only."""
    from nodestore.etcd.session import EtcdSettings

    settings = options_of(context).resolve()
    assert settings.endpoints is not None
    endpoints = parse_endpoints(settings.endpoints).etcd
    if not endpoints or settings.cluster is None:
        raise Invalid(
            "this command connects to etcd directly: give --endpoints HOST:PORT,... of its members, and --cluster"
        )
    own = EtcdSettings(
        endpoints=endpoints, user=settings.user, password=settings.password(),
        password_file=settings.password_file, ca=settings.ca, cert=settings.cert, key=settings.key,
    )  # fmt: skip
    return own, settings.cluster


async def wait_until(missing: Callable[[], Awaitable[str | None]], what: str, timeout_s: float, output: Output) -> None:
    """Wait until `missing()` returns None, and show its text meanwhile.

    Raises TimedOut, with the text, after `timeout_s` seconds.
    """
    pauses = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, factor=1.5)
    with output.progress(f"waiting until {what}") as show:
        await waiting.wait_until(
            missing, what, timeout_s, pauses, report=lambda lacking: show(f"waiting until {what}: {lacking}")
        )
