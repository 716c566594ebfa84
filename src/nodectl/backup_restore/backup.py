"""A copy of the whole store in one file, checked before it gets its name. What `etcdutl snapshot restore` takes."""

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

if TYPE_CHECKING:
    from nodestore.etcd.session import Etcd

_HASH_BYTES = hashlib.sha256().digest_size
_PAGE_BYTES = 512  # etcd's database is whole pages of at least this, and the hash comes on top


@dataclass(frozen=True, slots=True)
class Backup:
    """What was saved. `index` and `epoch` are the cluster's as the copy surely has them, `revision` is etcd's."""

    file: str
    bytes: int
    sha256: str
    endpoint: str
    epoch: int
    index: int
    revision: int


async def save_backup(etcd: Etcd, keys: Keys, file: Path, progress: Callable[[str], None]) -> Backup:
    """Saves it from the first member that can; the file is there whole, or not at all. Conflict when it exists."""
    _check_new(file)
    faults = []
    for endpoint in etcd.settings.endpoints:
        try:
            return await _save_from(etcd, keys, endpoint, file, progress)
        except (Unavailable, OutcomeUnknown, Garbage) as error:
            faults.append(f"{endpoint}: {error}")
    raise Unavailable(f"no member of etcd could be copied: {'; '.join(faults)}")


def _check_new(file: Path) -> None:
    if file.exists():
        raise Conflict(f"{file} exists already, and a backup is never overwritten: give another name")


async def _save_from(etcd: Etcd, keys: Keys, endpoint: str, file: Path, progress: Callable[[str], None]) -> Backup:
    epoch, index, revision = await _position(etcd, keys, endpoint)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as output:
            size, digest = await _download(etcd, endpoint, output.write, progress)
            output.flush()
            os.fsync(output.fileno())
        _publish(part, file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Backup(str(file), size, digest, endpoint, epoch, index, revision)


async def _position(etcd: Etcd, keys: Keys, endpoint: str) -> tuple[int, int, int]:
    """Epoch, index and revision that the copy will have at least: read through that very member, which answers a
    linearizable read only once it has applied all that was committed."""
    from nodestore.etcd.pb import etcd_pb2 as pb
    from nodestore.etcd.types import range_from_pb

    found = {}
    revision = 0
    for key in (keys.head, keys.epoch):
        answer = range_from_pb(await etcd.call_member(endpoint, "KV/Range", pb.RangeRequest(key=key.encode()), 5.0))
        found[key], revision = answer.first, answer.revision
    head, epoch = found[keys.head], found[keys.epoch]
    return (
        decode(Epoch, epoch.value, keys.epoch).epoch if epoch else 0,
        decode(Head, head.value, keys.head).index if head else 0,
        revision,
    )


async def _download(
    etcd: Etcd, endpoint: str, write: Callable[[bytes], object], progress: Callable[[str], None]
) -> tuple[int, str]:
    """Size and SHA-256 of the file. Garbage when the hash at its end is not that of the rest."""
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
        raise Garbage(f"the copy from {endpoint} is damaged or incomplete ({size} bytes): its hash does not fit")
    return size, whole.hexdigest()


def _publish(part: Path, file: Path) -> None:
    """Gives the copy its name; never over another file."""
    try:
        os.link(part, file)
    except FileExistsError:
        raise Conflict(f"{file} has just been written by somebody else: give another name") from None
    except OSError:  # no hard links there (a USB stick, say)
        if file.exists():
            raise Conflict(f"{file} has just been written by somebody else: give another name") from None
        part.rename(file)
    _sync_directory(file.parent)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # a directory cannot be opened there; NTFS writes its names to its log
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
