"""Runs one node as a process, from its start to a stop signal."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import NoReturn

from noded.actions.boot import boot_record
from noded.drivers import contract
from noded.node import Node
from noded.reconcile.last_applied import LastApplied
from noded.registration.claim import NodedIdentity
from noded.registration.work_dir_lock import locked
from noded.settings import Settings
from nodestore.cluster.store_identity import MarkFile
from nodestore.daemon.followed_tls import FollowedTls
from nodestore.daemon.program import first_error
from nodestore.daemon.reread import Rereadable, reread_on_request
from nodestore.daemon.service_notifier import ServiceNotifier
from nodestore.daemon.signals import handle_signals
from nodestore.etcd.session import Etcd
from nodestore.support.boot import kernel_boot_id

log = logging.getLogger(__name__)


class _StopRequested(Exception):
    """The process received a stop signal."""


async def run(settings: Settings) -> None:
    """Drive the node until a stop signal or an error. Stop the driver in both cases, then raise the error."""
    requests, notifier = handle_signals(), ServiceNotifier()
    me = NodedIdentity(settings.node, settings.host_id, secrets.token_hex(8), kernel_boot_id())
    log.info("starts; cluster %s, host id %s, work directory %s", settings.cluster, me.host_id, settings.work_dir)
    tls = _follow_tls(settings)
    async with locked(settings.work_dir), Etcd(settings.etcd) as etcd, asyncio.TaskGroup() as background:
        node = Node(
            settings,
            me,
            etcd,
            background,
            load=contract.load,
            last_applied=LastApplied(settings.work_dir),
            boot_record=boot_record(me.host_id),
            store_memory=MarkFile(settings.work_dir / ".noded", settings.cluster),
            tls=None if tls is None else tls.client,
        )
        try:
            async with asyncio.TaskGroup() as loops:
                for name, loop in node.loops().items():
                    loops.create_task(loop, name=name)
                loops.create_task(_raise_at_stop(requests.stop))
                loops.create_task(notifier.run(lambda: node.summary), name="notify the service manager")
                readers: list[Rereadable] = [etcd]
                if tls is not None:
                    readers.append(tls)
                    loops.create_task(tls.run(), name="certificates")
                loops.create_task(
                    reread_on_request(requests.reread, readers, settings.log_level, settings.log_level_file, notifier)
                )
        except* _StopRequested:
            notifier.stopping()
            await node.shut_down("noded was asked to stop")
        except* Exception as reasons:
            notifier.stopping()
            await node.shut_down(f"noded ends: {first_error(reasons)}")
            raise


def _follow_tls(settings: Settings) -> FollowedTls | None:
    """The contexts for connections to masters. The files are those for etcd, whose session logs when they end."""
    if settings.tls is None:
        return None
    return FollowedTls(files=settings.tls, user="the connection to the master", logs_ends=False)


async def _raise_at_stop(stop: asyncio.Event) -> NoReturn:
    await stop.wait()
    raise _StopRequested
