"""`Joins`: lets a PC into the cluster. The steps, and what a crash after each of them leaves, are in docs/hosts.md.

The order is: the token, the name and the address, the use of the token, the record, the users in etcd, the signatures.
Each step finds what an earlier attempt of the same PC has done, by the fingerprint of the key of its hostd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from hostd.agent.link import listed_members
from hostd.pc.host_file import HostFile
from hostd.pc.identities import addresses_of, fingerprint, subjects_of
from hostd.pc.layout import Layout
from hostd.placement.changes import set_state, wait_until_left
from hostd.placement.first_inventory import add_node
from hostd.signing.admission import check_join, check_keys, check_requests, own_record
from hostd.signing.messages import JoinAnswer, JoinRequest
from nodestore.cluster.join_tokens import JoinTokens
from nodestore.cluster.settled_writes import swap
from nodestore.cluster.store_access import StoreAccess
from nodestore.errors import Denied, Invalid, NotFound, TimedOut, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_put
from nodestore.pki.authority import Authorities, Bundle
from nodestore.pki.authority_files import DirectoryBusy
from nodestore.pki.identity import Subject
from nodestore.schema.host_models import HostKind, url_host
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostRecord, JoinToken, decode_or_none
from nodestore.schema.store_rights import StoreUser
from nodestore.support.tokens import Token, is_secret, parse_join_token

log = logging.getLogger(__name__)

_ATTEMPTS = 10
_LEAVE_WAIT_S = 30.0
_BUSY_S, _BUSY_PAUSE_S = 5.0, 0.05


class Joins:
    """Handles requests to join, one after another. `etcd`: a session as maintenance:<host>."""

    def __init__(self, layout: Layout, host: HostFile, etcd: Etcd) -> None:
        self._layout, self._host, self._etcd = layout, host, etcd
        self._keys = Keys(host.cluster)
        self._authorities = Authorities(layout.pki)
        self._lock = asyncio.Lock()

    async def join(self, request: JoinRequest, sender: str) -> JoinAnswer:
        """Let the PC in, or raise the error that says why not. A repeat of the same PC gets an answer too."""
        text = parse_join_token(request.token)
        if text is None:
            raise Denied("this is not a join token: it begins with NCT1 and has four parts")
        async with self._lock:
            await self._check_kind(text.token, request.kind)  # first: without a token, nothing of it is worth a check
            key = check_join(request, self._host.address)
            own_record(request, key, await self._hosts())
            check_keys(self._authorities.records(), request.kind, request.host, request.requests)
            await JoinTokens(self._etcd, self._keys).use(
                text.token, by=f"hostd key {key}", name=request.host, address=sender
            )
            await self._record(request, key, actor=f"join token {text.token.id}")
            await self._set_rights(request.kind, request.host)
            await add_node(self._etcd, self._keys, request.host, request.address, f"join token {text.token.id}")
            certificates = await asyncio.to_thread(self._sign, request)
            log.info("%s at %s joined with the token %s", request.host, request.address, text.token.id)
            return JoinAnswer(
                cluster=self._host.cluster,
                certificates=certificates,
                endpoints=await self._endpoints(),
                signers=self._host.signers,
                members_wanted=self._host.members_wanted,
            )

    async def certificates(self, host: str, key: str, requests: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """The certificates of a PC of the cluster, for the keys with which it joined. Raises Denied, Invalid, Conflict.

        key: the fingerprint of the key of the hostd that asks.
        """
        record = (await self._hosts()).get(host)
        if record is None or record.state == "leaving":
            raise Denied(f"{host} does not belong to the cluster any more")
        check_requests(record.kind, host, requests)
        if {key, fingerprint(requests["hostd"].encode())} != {record.key}:
            raise Denied(f"{host} joined with another key: remove it, and let it join anew")
        async with self._lock:
            # Otherwise each further key would be one more certificate on record.
            check_keys(self._authorities.records(), record.kind, host, requests)
            return await asyncio.to_thread(sign_all, self._authorities, record.kind, host, record.address, requests)

    async def leave(self, host: str, key: str) -> bool:
        """Mark the PC for removal, and wait a while; return whether the cluster has forgotten it.

        key: the fingerprint of the key of the hostd that asks. A former PC of this name must not remove its successor.
        """
        record = (await self._hosts()).get(host)
        if record is not None and record.key != key:
            return True
        try:
            await set_state(self._etcd, self._keys, host, "leaving")
            await wait_until_left(self._etcd, self._keys, host, _LEAVE_WAIT_S, lambda _: None)
        except NotFound:
            return True
        except TimedOut:
            return False
        return True

    async def _check_kind(self, token: Token, kind: HostKind) -> None:
        """Raise Denied if the token is valid and does not allow this kind. It must not cost a use."""
        found = decode_or_none(JoinToken, await self._etcd.get(self._keys.join(token.id)))
        if found is None or not is_secret(found.hash, token.secret):
            raise Denied("the join token is not valid: it is unknown or was revoked")
        if found.kind not in ("host", kind):
            raise Denied(f"the join token {token.id} is for the kind {found.kind!r}: add --kind {found.kind}")

    async def _record(self, request: JoinRequest, key: str, actor: str) -> None:
        """Write the record of this PC, unless it is there. The set of hosts must be the one that was checked."""
        record = HostRecord(
            address=request.address, kind=request.kind, ports=request.ports, key=key, actor=actor, time=time.time()
        )
        for _ in range(_ATTEMPTS):
            changes = await self._etcd.get(self._keys.host_changes)
            if own_record(request, key, await self._hosts()) is not None:
                return
            if await add_host(self._etcd, self._keys, request.host, record, changes.mod_revision if changes else 0):
                return
        raise Unavailable("other PCs joined at the same time: try again")

    async def _set_rights(self, kind: HostKind, host: str) -> None:
        users = [StoreUser.parse(str(subject)) for subject in subjects_of(kind, host)]
        own = f"maintenance:{self._host.host}"
        await StoreAccess(self._etcd, self._keys, own, filter(None, users)).set_rights(lambda _: None, None)

    def _sign(self, request: JoinRequest) -> dict[str, dict[str, str]]:
        return sign_all(self._authorities, request.kind, request.host, request.address, request.requests)

    async def _hosts(self) -> dict[str, HostRecord]:
        kvs = (await self._etcd.range(self._keys.hosts)).kvs
        found = {kv.key.removeprefix(self._keys.hosts): decode_or_none(HostRecord, kv) for kv in kvs}
        return {name: record for name, record in found.items() if record is not None}

    async def _endpoints(self) -> tuple[str, ...]:
        members = await listed_members(self._etcd)
        found = (item.client_urls[0].partition("://")[2] for item in members if item.client_urls and not item.learner)
        return tuple(found) or (f"{url_host(self._host.address)}:{self._host.ports.client}",)


async def add_host(etcd: Etcd, keys: Keys, host: str, record: HostRecord, changes: int) -> bool:
    """Add a host in one transaction; return whether it took effect. changes: the revision of the set of hosts."""
    key, value = keys.host(host), record.encode()
    compares = [cmp_mod(key, 0), cmp_mod(keys.host_changes, changes)]
    return await swap(etcd, compares, [op_put(key, value), op_put(keys.host_changes, host.encode())], key, value)


def sign_all(
    authorities: Authorities, kind: HostKind, host: str, address: str, requests: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """By program, by name of the file: the certificates of a PC, and what verifies those of others. Blocks."""
    signed = {}
    for subject in subjects_of(kind, host):
        request = requests[subject.kind].encode()
        bundle = _signed(authorities, subject, request, addresses_of(subject, kind, address))
        signed[subject.kind] = {name: _text(content) for name, content in bundle.contents().items()}
    return signed


def _signed(authorities: Authorities, subject: Subject, request: bytes, names: tuple[str, ...]) -> Bundle:
    """`sign_request`, also while another process or thread works in the directory of the authorities for a moment."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return authorities.sign_request(subject, request, names)
        except DirectoryBusy:
            if time.monotonic() > deadline:  # no refusal: a PC that is refused throws its keys away
                raise Unavailable("the signer is busy with the authorities: try again in a moment") from None
        time.sleep(_BUSY_PAUSE_S)


def _text(content: bytes) -> str:
    """Certificates are text already; a revocation list in DER becomes one in hexadecimal digits."""
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        return HEX + content.hex()


HEX = "hex:"


def content_of(text: str) -> bytes:
    """The content of a file in an answer. Raises Invalid."""
    if not text.startswith(HEX):
        return text.encode()
    try:
        return bytes.fromhex(text.removeprefix(HEX))
    except ValueError:
        raise Invalid("the signer sent a file that cannot be read") from None
