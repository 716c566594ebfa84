"""Runs masterd: opens the sessions with etcd, serves the API and runs the master until a stop signal."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from masterd.api.access.audit import AuditLog
from masterd.api.audit_export.audit_export import AuditExport
from masterd.api.connections.connection_guard import ConnectionGuard
from masterd.api.connections.guarded_server import GuardedRunner
from masterd.application.contract import load_application
from masterd.assembly import MasterdParts, build_api, build_guard, build_parts, joined_warnings
from masterd.election.campaign import MasterIdentity
from masterd.own_certificate import OwnCertificate
from masterd.roles.master import Master
from masterd.settings import MasterSettings, Settings
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.daemon.reread import Rereadable, reread_on_request
from nodestore.daemon.service_notifier import ServiceNotifier
from nodestore.daemon.signals import SignalEvents, handle_signals
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.etcd import maintenance as etcd_maintenance
from nodestore.etcd.session import Etcd
from nodestore.etcd.versions import check_version
from nodestore.schema.keys import Keys

log = logging.getLogger(__name__)

_SHUTDOWN_S = 0.5
_VERSIONS_EVERY_S = 60.0


class _StopRequested(Exception):
    """This process received a stop signal."""


async def run(settings: Settings) -> None:
    """Run masterd until a stop signal arrives; then hand over or resign, and return. Raises every fatal error."""
    requests, notifier = handle_signals(), ServiceNotifier()
    application = load_application(settings.application)
    keys = Keys(settings.cluster)
    me = MasterIdentity(settings.master, settings.host, (settings.advertise,), settings.priority, secrets.token_hex(8))
    log.info("starting: pid %d, cluster %s, API at %s", os.getpid(), settings.cluster, settings.advertise)
    tls = _follow_tls(settings)
    own = None if tls is None else OwnCertificate(settings.advertise, tls.client)
    if settings.exposure is not None:
        log.warning("%s", settings.exposure)
    async with Etcd(settings.etcd) as etcd, _maintenance(settings, etcd) as maintenance:
        client_tls = None if tls is None else tls.client
        warnings: list[Callable[[], str | None]] = [partial(api_warnings, settings, tls, own)]
        parts = build_parts(
            etcd, keys, me, application, settings.master_settings, maintenance=maintenance, peers_tls=client_tls,
            warning=lambda: joined_warnings(*(warning() for warning in warnings)),
        )  # fmt: skip
        audit = AuditLog(settings.master_settings.audit_file)
        export = _audit_export(parts, settings.master_settings, audit)
        warnings.append(partial(_export_warning, export))
        api = build_api(parts, peers_tls=client_tls, audit=audit)
        guard = build_guard(
            parts, api, tls=None if tls is None else tls.server,
            plain_port=settings.plain_listen.port if settings.plain_listen is not None else None,
        )  # fmt: skip
        if tls is not None and own is not None:
            tls.on_renewed = partial(_on_renewed, guard, own)
        runner = GuardedRunner(api.app, guard, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await _listen(runner, settings)
            await _run_until_stopped(parts, etcd, maintenance, tls, own, export, requests, settings, notifier)
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _maintenance(settings: Settings, etcd: Etcd) -> AsyncIterator[Etcd]:
    """The session for maintenance calls: a separate one if its settings differ from those of `etcd`, else `etcd`."""
    if settings.maintenance == settings.etcd:
        yield etcd
        return
    async with Etcd(settings.maintenance) as own:
        yield own


def _follow_tls(settings: Settings) -> FollowedTls | None:
    if settings.tls is None:
        return None
    is_shared = settings.tls.cert == settings.etcd.cert
    return FollowedTls(files=settings.tls, user="the HTTP API", logs_ends=not is_shared)


def _on_renewed(guard: ConnectionGuard, own: OwnCertificate) -> None:
    guard.close_distrusted()
    own.renewed.set()


def api_warnings(settings: Settings, tls: FollowedTls | None, own: OwnCertificate | None) -> str | None:
    """What `nodectl status` is to warn of: requests without TLS, and certificates that are wrong, have ended or end
    soon. None if there is nothing."""
    return joined_warnings(
        settings.exposure, None if own is None else own.warning, None if tls is None else tls.warning
    )


def _audit_export(parts: MasterdParts, settings: MasterSettings, audit: AuditLog) -> AuditExport:
    directory = Path() if settings.audit_file is None else settings.audit_file.parent
    export = AuditExport(parts.read_sources, settings.audit_exports, directory, settings.audit_export_ca)
    audit.on_entry = export.add_event
    return export


def _export_warning(export: AuditExport) -> str | None:
    return export.warning


async def _run_until_stopped(
    parts: MasterdParts,
    etcd: Etcd,
    maintenance: Etcd,
    tls: FollowedTls | None,
    own: OwnCertificate | None,
    export: AuditExport,
    requests: SignalEvents,
    settings: Settings,
    notifier: ServiceNotifier,
) -> None:
    readers: list[Rereadable] = [etcd] if maintenance is etcd else [etcd, maintenance]
    if tls is not None:
        readers.append(tls)
    reread = reread_on_request(requests.reread, readers, settings.log_level, settings.log_level_file, notifier)
    try:
        async with asyncio.TaskGroup() as eternal:
            eternal.create_task(_watch_versions(maintenance), name="versions")
            eternal.create_task(parts.master.run(), name="master")
            eternal.create_task(_stop_on_request(requests.stop, parts.master, notifier), name="stop")
            eternal.create_task(notifier.run(partial(_status, parts)), name="notify the service manager")
            eternal.create_task(reread, name="reread")
            eternal.create_task(export.run(), name="audit export")
            if tls is not None:
                eternal.create_task(tls.run(), name="certificates")
            if own is not None and settings.advertise.startswith("https://"):
                eternal.create_task(own.run(), name="own certificate")
    except* _StopRequested:
        log.info("stopping: a stop signal arrived")


def _status(parts: MasterdParts) -> str:
    """One line for the service manager. A masterd is ready once its API answers, also while etcd has no quorum."""
    term, problem = parts.leadership.term, parts.health.problem_or_outage
    role = parts.leadership.role if term is None else f"leader, term {term}"
    return role if problem is None else f"{role}; {problem}"


async def _stop_on_request(stop: asyncio.Event, master: Master, notifier: ServiceNotifier) -> NoReturn:
    await stop.wait()
    notifier.stopping()
    await master.stand_down("asked to stop")
    raise _StopRequested


async def _listen(runner: GuardedRunner, settings: Settings) -> None:
    addresses = {"--listen": settings.listen}
    if settings.plain_listen is not None:
        addresses["--plain-listen"] = settings.plain_listen
    for option, address in addresses.items():
        try:
            await runner.listen(*address)
        except OSError as error:
            is_foreign = error.errno == errno.EADDRNOTAVAIL
            hint = "does this PC have that address now?" if is_foreign else "is another masterd running on this PC?"
            raise Invalid(f"{option} {address}: {error.strerror or error}; {hint}") from None


async def _watch_versions(etcd: Etcd) -> NoReturn:
    """Check the version of every etcd member at the start and once a minute, until cancelled.

    Raises if a member runs a version of etcd that is known to lose or corrupt data.
    """
    while True:
        for endpoint in etcd.settings.endpoints:
            try:
                status = await etcd_maintenance.status(etcd, endpoint)
            except Unavailable:
                continue
            except NodectlError as error:
                log.debug("cannot read the version of the etcd member at %s: %s", endpoint, error)
                continue
            check_version(status.version, f"etcd member at {endpoint}", os.environ)
        await asyncio.sleep(_VERSIONS_EVERY_S)
