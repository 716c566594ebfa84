"""Decides what a PC that asks to join may have: its name, its address, its keys. Nothing is written here.

Who has a token chooses everything in the request. So a request must not take over what another PC has:

- An address. etcd's members, masters and nodes believe a certificate that has the address to which they connect, at
  any port; and placement finds the host of a member by its address.
- A name, for which another key has a certificate, whether it joined or was issued one by hand.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from hostd.pc.identities import KINDS_OF, fingerprint, subjects_of
from hostd.signing.messages import JoinRequest
from nodestore.errors import Conflict, Invalid
from nodestore.pki.records import IssuedCertificates
from nodestore.pki.signing_requests import check_request, public_key_text
from nodestore.schema.host_models import HostKind
from nodestore.schema.keys import check_name
from nodestore.schema.models import HostRecord

HOSTS_MAX = 64


def check_join(request: JoinRequest, signer_address: str) -> str:
    """Raise Invalid if something in the request cannot be. Returns the fingerprint of the key of the PC's hostd.

    All that could fail later is checked here, before anything of the PC is on record.
    """
    check_name("host", request.host)
    _check_address(request.address, signer_address)
    check_requests(request.kind, request.host, request.requests)
    return fingerprint(request.requests["hostd"].encode())


def check_requests(kind: HostKind, host: str, requests: Mapping[str, str]) -> None:
    """Raise Invalid unless there is exactly one proper request for each certificate of this PC."""
    if set(requests) != set(KINDS_OF[kind]):
        raise Invalid(f"a PC of the kind {kind} needs certificates for {', '.join(KINDS_OF[kind])}")
    for subject in subjects_of(kind, host):
        check_request(requests[subject.kind].encode(), subject)


def check_keys(issued: IssuedCertificates, kind: HostKind, host: str, requests: Mapping[str, str]) -> None:
    """Raise Conflict if one of the PC's identities has a certificate for another key."""
    for subject in subjects_of(kind, host):
        newest = issued.newest(str(subject), "cluster")
        key = public_key_text(check_request(requests[subject.kind].encode(), subject).key)
        if newest is not None and newest.public_key != key:
            raise Conflict(
                f"{subject} has a certificate for another key: choose another name with --host, or revoke it first "
                f"(on the signer: nodectl host remove {host}, or nodectl pki revoke {subject})"
            )


def own_record(request: JoinRequest, key: str, hosts: Mapping[str, HostRecord]) -> HostRecord | None:
    """The record of this PC, if it has one. Raises Conflict if its name or its address is another PC's."""
    own = hosts.get(request.host)
    if own is not None and own.key != key:
        raise Conflict(
            f"the name {request.host} is taken by the PC at {own.address}: choose another one with --host. If this "
            f"is that PC with a new disk, or in its place, run this on a signer first: "
            f"nodectl host remove {request.host}"
        )
    if own is not None and own.state == "leaving":
        raise Conflict(f"{request.host} is being removed from the cluster: join again once it has left")
    if own is not None and (own.kind, own.address, own.ports) != (request.kind, request.address, request.ports):
        raise Conflict(
            f"{request.host} has joined already, with other settings ({own.kind} at {own.address}): remove it "
            f"(nodectl host remove {request.host}), then join anew"
        )
    for name, record in hosts.items():
        if name != request.host and record.key == key:
            raise Conflict(f"this PC belongs to the cluster as {name}: join with --host {name}")
        if name != request.host and record.address == request.address:
            raise Conflict(f"the address {request.address} is taken by {name}")
    if own is None and len(hosts) >= HOSTS_MAX:
        raise Conflict(f"the cluster has {HOSTS_MAX} PCs already")
    return own


def _check_address(text: str, signer_address: str) -> None:
    """Raise Invalid unless other PCs can connect to the address, and it is in the one form in which it is compared."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(f"{text!r} is not an IP address") from None
    if "%" in text or getattr(address, "ipv4_mapped", None) is not None:
        raise Invalid(f"{text!r} is not an address that is the same on all PCs: give another one with --address")
    if str(address) != text:
        raise Invalid(f"{text!r} is written {address}: give it so, with --address")
    is_far = not ipaddress.ip_address(signer_address).is_loopback
    if address.is_unspecified or address.is_multicast or (address.is_loopback and is_far):
        raise Invalid(f"other PCs cannot connect to {text}: give the address of the PC")
