"""Adds PCs to the configuration and takes them out, until an operator has applied one of their own.

So `nodectl status` knows the nodes of a new cluster. A file that an operator wrote is never changed: it may be kept
elsewhere, with comments, and the next `config apply` would undo the change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from nodestore.cluster.configuration import Configuration
from nodestore.errors import Conflict, NodectlError
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys

log = logging.getLogger(__name__)

_HEAD = "# Written by `nodectl host`. PCs that join are added, until you apply a file of your own.\n"
_ATTEMPTS = 10

Nodes = dict[str, dict[str, str]]


async def add_node(etcd: Etcd, keys: Keys, host: str, address: str, actor: str) -> None:
    """Add the node, unless it is there, or the configuration is an operator's. A failure is logged only."""
    await _change(Configuration(etcd, keys), lambda nodes: {host: {"address": address}, **nodes}, host, actor)


async def remove_node(etcd: Etcd, keys: Keys, host: str, actor: str) -> None:
    """Take the node out, unless the configuration is an operator's. A failure is logged only."""
    await _change(
        Configuration(etcd, keys), lambda nodes: {name: nodes[name] for name in nodes if name != host}, host, actor
    )


async def _change(configuration: Configuration, edit: Callable[[Nodes], Nodes], host: str, actor: str) -> None:
    try:
        for _ in range(_ATTEMPTS):
            if await _try_to_change(configuration, edit, actor):
                return
    except NodectlError as error:
        log.warning("the node %s could not be changed in the configuration: %s", host, error)


async def _try_to_change(configuration: Configuration, edit: Callable[[Nodes], Nodes], actor: str) -> bool:
    record = await configuration.current()
    if record is not None and not record.source.startswith(_HEAD):
        return True
    former: Nodes = {} if record is None else dict(record.inventory.get("nodes", {}))
    nodes = dict(sorted(edit(former).items()))
    if nodes == former:
        return True
    version = 0 if record is None else record.version
    try:
        await configuration.apply({"nodes": nodes}, source=source_of(nodes), expect_version=version, actor=actor)
    except Conflict:
        return False
    return True


def source_of(nodes: Nodes) -> str:
    """The text of the file for these nodes, as `nodectl config edit` shows it."""
    lines = [f"  {name}:\n    address: {_quoted(item['address'])}\n" for name, item in sorted(nodes.items())]
    return f"{_HEAD}nodes:\n{''.join(lines)}"


def _quoted(address: str) -> str:
    return f'"{address}"'
