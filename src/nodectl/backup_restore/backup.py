"""Copies etcd's database into a file for `etcdutl snapshot restore`.

The copy gets the file's name only after its hash was verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nodestore.errors import Conflict, Garbage, OutcomeUnknown, Unavailable
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, Head, decode
from nodestore.support.files.owner_only import restrict_new

if TYPE_CHECKING:
    from nodestore.etcd.session import Etcd

_HASH_BYTES = hashlib.sha256().digest_size
_PAGE_BYTES = 512  # the database's size is a multiple of this; the hash is appended


@dataclass(frozen=True, slots=True)
class Backup:
    """A saved backup. It contains at least the commands up to `index` in `epoch`, and etcd's state at `revision`."""

    file: str
    bytes: int
    sha256: str
    endpoint: str
    epoch: int
    index: int
    revision: int


async def save_backup(etcd: Etcd, keys: Keys, file: Path, progress: Callable[[str], None]) -> Backup:
    """Save etcd's database from the first member that can be copied. `file` appears complete or not at all.

    Raises Conflict if `file` exists, Unavailable if no member can be copied, OSError if the file cannot be written.
    """
    _check_new(file)
    errors = []
    for endpoint in etcd.settings.endpoints:
        try:
            return await _save_from(etcd, keys, endpoint, file, progress)
        except (Unavailable, OutcomeUnknown, Garbage) as error:
            errors.append(f"{endpoint}: {error}")
    raise Unavailable(f"the database could be copied from no etcd member: {'; '.join(errors)}")


def _check_new(file: Path) -> None:
    if file.exists():
        raise Conflict(f"{file} exists already; a backup never replaces a file: give another name")


async def _save_from(etcd: Etcd, keys: Keys, endpoint: str, file: Path, progress: Callable[[str], None]) -> Backup:
    epoch, index, revision = await _position(etcd, keys, endpoint)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as output:
            with contextlib.suppress(OSError):  # a USB stick may have neither modes nor access lists
                restrict_new(part, 0o600)  # it holds all secrets of the cluster
            size, digest = await _download(etcd, endpoint, output.write, progress)
            output.flush()
            os.fsync(output.fileno())
        _publish(part, file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Backup(str(file), size, digest, endpoint, epoch, index, revision)


async def _position(etcd: Etcd, keys: Keys, endpoint: str) -> tuple[int, int, int]:
    """Read the epoch, index and revision of `endpoint`, before the copy: the copy contains at least this state.

    They are read through the same member. It answers a linearizable read only once it has applied all commits so far.
    """
    from nodestore.etcd.pb import etcd_pb2 as pb
    from nodestore.etcd.types import range_from_pb

    values = {}
    revision = 0
    for key in (keys.head, keys.epoch):
        answer = range_from_pb(await etcd.call_member(endpoint, "KV/Range", pb.RangeRequest(key=key.encode()), 5.0))
        values[key], revision = answer.first, answer.revision
    head, epoch = values[keys.head], values[keys.epoch]
    return (
        decode(Epoch, epoch.value, keys.epoch).epoch if epoch else 0,
        decode(Head, head.value, keys.head).index if head else 0,
        revision,
    )


async def _download(
    etcd: Etcd, endpoint: str, write: Callable[[bytes], object], progress: Callable[[str], None]
) -> tuple[int, str]:
    """Download the database; return its size and SHA-256. Raises Garbage if the hash at its end does not match."""
    from nodestore.etcd.maintenance import download_database

    body, whole, tail, size = hashlib.sha256(), hashlib.sha256(), b"", 0
    async with aclosing(download_database(etcd, endpoint)) as blobs:
        async for blob in blobs:
            write(blob)
            whole.update(blob)
            size += len(blob)
            tail += blob
            body.update(tail[:-_HASH_BYTES])
            tail = tail[-_HASH_BYTES:]
            progress(f"copying from {endpoint}: {size / (1 << 20):.0f} MiB")
    if size % _PAGE_BYTES != _HASH_BYTES or body.digest() != tail:
        raise Garbage(f"the copy from {endpoint} is damaged or incomplete ({size} bytes): its hash does not match")
    return size, whole.hexdigest()


def _publish(part: Path, file: Path) -> None:
    """Rename the copy to `file`, without replacing another file. Raises Conflict if there is one."""
    try:
        os.link(part, file)
    except OSError as error:
        if isinstance(error, FileExistsError) or file.exists():
            raise Conflict(f"{file} was created by another program in the meantime: give another name") from None
        part.rename(file)  # a file system without hard links, such as FAT on a USB stick
    _sync_directory(file.parent)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a directory for fsync, and NTFS journals the rename itself
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
