"""The parts of a command, for timing: its transaction and its HTTP request alone."""

from __future__ import annotations

import aiohttp

from bench.harness.cluster import Action
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, Op, cmp_mod, op_get, op_put

_SIZES = (60, 420, 110, 300, 60)
"""Bytes of the values that a command of the built-in application puts: head, entry, document, desired, applied."""


def make_transaction(etcd: Etcd) -> Action:
    """Return an action that runs a transaction with the shape of a command's."""
    compares = [cmp_mod(f"/bench/none/{number}", 0) for number in range(3)]
    puts: list[Op] = [op_put(f"/bench/{number}", b"x" * size) for number, size in enumerate(_SIZES)]
    orelse = [op_get(f"/bench/none/{number}") for number in range(3)]
    return lambda: etcd.txn(compares, puts, orelse)


def make_request(session: aiohttp.ClientSession, url: str) -> Action:
    """Return an action that sends an HTTP request to the leader, which answers it from memory."""

    async def request() -> None:
        async with session.get(url + "/v1/health") as answer:
            if answer.status != 200:
                raise NodectlError(f"{url} answered {answer.status}")
            await answer.read()

    return request
