"""Runs hostd: the loop of this PC, the link with etcd, and on a signer the port and the placement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, NoReturn

from hostd.agent.link import Link, session_settings
from hostd.agent.memory import HostMemory
from hostd.agent.reconcile import STOP_ORDER, Reconciler
from hostd.agent.services import Services
from hostd.pc.host_file import HostFile, require_host_file
from hostd.pc.layout import Layout
from hostd.pc.managers import manager_of
from hostd.placement.placer import Placer
from hostd.settings import HostdSettings
from hostd.signing.joins import Joins
from hostd.signing.renewal import Renewal
from hostd.signing.server import serving
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.daemon.service_notifier import ServiceNotifier
from nodestore.daemon.signals import handle_signals
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_LOG_EVERY_S, _RETRY_S = 60.0, 2.0


async def run(settings: HostdSettings) -> None:
    """Run until a stop signal. Services that are plain processes are stopped then; others go on."""
    requests, notifier = handle_signals(), ServiceNotifier()
    layout = settings.layout
    host = require_host_file(layout.host_file)
    memory = HostMemory(layout.hostd)
    services = Services(manager_of(host.manager, layout), memory)
    reconciler = Reconciler(layout, host, services, memory)
    woken = asyncio.Event()
    link = Link(layout, host, reconciler, woken.set, settings.tick_s)
    reconciler.prepare()
    log.info("starts; %s of the cluster %s at %s", host.host, host.cluster, host.address)
    parts: dict[str, Coroutine[Any, Any, Any]] = {
        "stop": requests.stop.wait(),
        "services": _reconcile(reconciler, link, woken, settings.tick_s),
        "etcd": link.run(),
        "certificates": Renewal(layout, host).run(),
        "notify": notifier.run(lambda: _summary(reconciler, link)),
    }
    if layout.pki.is_dir():
        parts["signer"] = _sign(layout, host, reconciler.endpoints)
        parts["placement"] = Placer(layout, host, lambda: reconciler.endpoints, settings.placement).run()
    try:
        await run_until_first_ends(**parts)
    finally:
        notifier.stopping()
        if host.manager == "processes" and requests.stop.is_set():  # a fault of hostd stops nothing
            await services.stop_all(STOP_ORDER)


def _summary(reconciler: Reconciler, link: Link) -> str:
    """One line about this PC, for `systemctl status`."""
    actual = reconciler.actual
    if actual is None:
        return "starting"
    services = ", ".join(f"{name.removeprefix('nodectl-')} {item.state}" for name, item in actual.services.items())
    return f"{services}{f'; etcd: {link.trouble}' if link.trouble else ''}"


async def _reconcile(reconciler: Reconciler, link: Link, woken: asyncio.Event, tick_s: float) -> NoReturn:
    problems = RateLimitedLog(log, _LOG_EVERY_S)
    while True:
        woken.clear()
        try:
            await reconciler.run_once()
        except (NodectlError, OSError) as error:  # such as a full disk: the services run, and the next pass tries again
            problems.log(logging.ERROR, f"a pass failed: {error}")
        else:
            problems.reset()
            link.report()
        await set_within(woken, tick_s)


async def _sign(layout: Layout, host: HostFile, endpoints: tuple[str, ...]) -> NoReturn:
    """Serve the port of the signer. If that fails, as while another program has the port, it is tried again."""
    problems = RateLimitedLog(log, _LOG_EVERY_S)
    while True:
        try:
            await _serve(layout, host, endpoints)
        except NodectlError as error:
            problems.log(logging.ERROR, f"no PC can join: {error}")
        await asyncio.sleep(_RETRY_S)


async def _serve(layout: Layout, host: HostFile, endpoints: tuple[str, ...]) -> NoReturn:
    """Serve the port of the signer, with a session as the maintenance user."""
    tls = FollowedTls(files=layout.tls_files("hostd", host.host), user="the port of the signer")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd(session_settings(layout, host, endpoints, "maintenance")))
        await stack.enter_async_context(serving(layout, host, Joins(layout, host, etcd), tls))
        await tls.run()
    raise AssertionError("tls.run never returns")
