"""Finds out when the certificates of etcd's members end. gRPC does not show them, so each member is connected to."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress

from nodestore.errors import Invalid
from nodestore.etcd.rpc import tls_files_of
from nodestore.etcd.types import EtcdSettings
from nodestore.support.tls_files import TlsFiles, certificate_end, describe_end, ends_soon
from nodestore.support.values import parse_address

_TIMEOUT_S = 0.5


async def member_certificate_warnings(settings: EtcdSettings) -> list[str]:
    """A line for each member whose certificate has ended or ends within 14 days. Members that are silent are left out.

    Takes half a second at most.
    """
    if settings.ca is None:
        return []
    context = _context(tls_files_of(settings))
    ends = await asyncio.gather(*(_end(endpoint, context) for endpoint in settings.endpoints))
    now = time.time()
    return [
        f"etcd member at {endpoint}: its certificate {describe_end(end, now)}: renew it"
        for endpoint, end in zip(settings.endpoints, ends, strict=True)
        if end is not None and ends_soon(end, now)
    ]


def _context(files: TlsFiles) -> ssl.SSLContext:
    """A context that accepts every certificate, because one that has ended is to be read as well. Nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(Invalid):  # with TLS 1.3, a member shows its certificate before it requires one
        files.load_into(context)
    return context


async def _end(endpoint: str, context: ssl.SSLContext) -> float | None:
    host, port = parse_address(endpoint)
    writer = None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate_end(der) if der else None
    except (OSError, TimeoutError, Invalid):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()
