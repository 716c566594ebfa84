"""What who has a token, or a certificate of a former PC, must not get from a signer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hostd.pc.host_file import HostFile
from hostd.pc.identities import KINDS_OF, fingerprint, fingerprint_of_certificate
from hostd.pc.layout import Layout
from hostd.placement.decide import placement
from hostd.placement.placer import PlacementView, host_views
from hostd.signing.admission import check_join, check_keys, own_record
from hostd.signing.joins import Joins, sign_all
from hostd.signing.messages import JoinRequest
from nodestore.errors import Conflict, Denied, Invalid
from nodestore.etcd.session import Etcd
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.pki.request_files import request
from nodestore.schema.host_models import HostActual, HostKind, HostPorts
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostRecord
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

_SIGNER = "10.0.0.1"
_KEYS = Keys("wall")


def _requests(directory: Path, kind: HostKind, host: str) -> dict[str, str]:
    subjects = [Subject(program, host) for program in KINDS_OF[kind]]
    return {item.kind: request(directory / item.kind, item).request.read_text("ascii") for item in subjects}


def _join(
    requests: dict[str, str], host: str = "pc9", address: str = "10.0.0.9", kind: HostKind = "node",
    ports: HostPorts | None = None,
) -> JoinRequest:  # fmt: skip
    return JoinRequest(
        token="", host=host, address=address, kind=kind, ports=ports or HostPorts(), requests=requests
    )  # fmt: skip


def _record(address: str, key: str = "other", kind: HostKind = "host") -> HostRecord:
    return HostRecord(address=address, kind=kind, key=key, actor="jo", time=1.0)


def test_the_address_of_another_pc_is_taken_whatever_the_ports(tmp_path: Path) -> None:
    """With other ports for masterd and the same one for members, placement took it for the host of that member."""
    asked = _join(_requests(tmp_path, "node", "pc9"), address=_SIGNER, ports=HostPorts(api=1))
    with pytest.raises(Conflict, match=r"the address 10\.0\.0\.1 is taken by pc1"):
        own_record(asked, check_join(asked, _SIGNER), {"pc1": _record(_SIGNER)})


@pytest.mark.parametrize(
    "address",
    ["FD00::1", "fd00:0::1", "::ffff:10.0.0.1", "fe80::1%eth0", 'fe80::1%"\n  pc1: {}', "127.0.0.1", "::1", "::", ""],
)
def test_an_address_has_one_form_that_is_the_same_on_all_pcs(tmp_path: Path, address: str) -> None:
    asked = _join(_requests(tmp_path, "node", "pc9"), address=address)
    with pytest.raises(Invalid, match="address"):
        check_join(asked, _SIGNER)


def test_on_one_machine_addresses_of_loopback_serve(tmp_path: Path) -> None:
    check_join(_join(_requests(tmp_path, "node", "pc9"), address="127.0.0.9"), "127.0.0.1")


def test_a_pc_that_only_runs_noded_gets_no_certificate_with_its_address(tmp_path: Path) -> None:
    """Such a certificate could pass as a master or a member at that address."""
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    expectations: dict[HostKind, set[str]] = {"node": set(), "host": {"hostd", "etcd", "masterd"}}
    for kind, expected in expectations.items():
        host = f"pc-{kind}"
        signed = sign_all(authorities, kind, host, "10.0.0.9", _requests(tmp_path / kind, kind, host))
        directories = {program: authorities.directory / "issued" / f"{program}-{host}" for program in signed}
        found = {program for program, path in directories.items() if "10.0.0.9" in _names(path / f"{host}.crt")}
        assert found == expected


def _names(certificate: Path) -> list[str]:
    found = ssl._ssl._test_decode_cert(str(certificate)).get("subjectAltName", ())  # type: ignore[attr-defined]
    return [value for _, value in found]


@pytest.mark.parametrize("program", KINDS_OF["host"])
def test_all_requests_are_checked_before_anything_is_on_record(tmp_path: Path, program: str) -> None:
    requests = _requests(tmp_path, "host", "pc9")
    other = _requests(tmp_path / "other", "host", "pc1")
    for broken in ("", "x", other[program], requests[program].replace("B", "C")):
        with pytest.raises(Invalid):
            check_join(_join({**requests, program: broken}, kind="host"), _SIGNER)


@pytest.mark.parametrize("program", KINDS_OF["host"])
def test_an_identity_with_another_key_is_not_given_away(tmp_path: Path, program: str) -> None:
    """Made by hand, or of a PC whose request for hostd another one has copied: a request is no secret."""
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    requests = _requests(tmp_path / "own", "host", "pc9")
    sign_all(authorities, "host", "pc9", "10.0.0.9", requests)
    check_keys(authorities.records(), "host", "pc9", requests)
    stolen = {**requests, program: _requests(tmp_path / "thief", "host", "pc9")[program]}
    with pytest.raises(Conflict, match=f"{program}:pc9 has a certificate for another key"):
        check_keys(authorities.records(), "host", "pc9", stolen)
    for kind in KINDS_OF["host"]:
        authorities.revoke(Subject(kind, "pc9"))
    check_keys(authorities.records(), "host", "pc9", stolen)


def test_a_name_with_a_certificate_that_was_issued_by_hand_is_taken(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    authorities.issue(Subject("noded", "pc9"))
    with pytest.raises(Conflict, match="noded:pc9 has a certificate for another key"):
        check_keys(authorities.records(), "node", "pc9", _requests(tmp_path, "node", "pc9"))


def test_a_report_that_is_not_a_number_stops_no_placement() -> None:
    """Each hostd writes its own report, also one of a PC that only runs noded."""
    for lost in ("zz", "1" * 9_000, "-1", "٣"):
        actual = HostActual(version="1", time=1.0, lost_member=lost)
        view = PlacementView({"pc1": _record(_SIGNER)}, {"pc1": actual}, (), frozenset())
        assert placement(host_views(view), (), 3) is not None


@asynccontextmanager
async def _signer(directory: Path, key: str) -> AsyncIterator[tuple[Joins, Etcd]]:
    layout = Layout.of(directory)
    Authorities(layout.pki).init("wall")
    host = HostFile(
        host="pc1", cluster="wall", address=_SIGNER, kind="host", manager="processes", python="python3",
        signers=(f"{_SIGNER}:8403",), endpoints=(f"{_SIGNER}:2379",),
    )  # fmt: skip
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        await etcd.put(_KEYS.host("pc9"), _record("10.0.0.9", key, "node").encode())
        yield Joins(layout, host, etcd), etcd


async def test_the_certificate_of_a_former_pc_does_nothing_to_its_successor_of_the_same_name(tmp_path: Path) -> None:
    requests = _requests(tmp_path, "node", "pc9")
    own = fingerprint(requests["hostd"].encode())
    async with _signer(tmp_path / "pc1", own) as (joins, etcd):
        former = "0" * 64
        assert await joins.leave("pc9", former)
        found = await etcd.get(_KEYS.host("pc9"))
        assert found is not None
        assert b"leaving" not in found.value
        with pytest.raises(Denied, match="joined with another key"):
            await joins.certificates("pc9", former, requests)
        assert set(await joins.certificates("pc9", own, requests)) == {"hostd", "noded"}
        others = {**requests, "noded": _requests(tmp_path / "more", "node", "pc9")["noded"]}
        with pytest.raises(Conflict, match="another key"):
            await joins.certificates("pc9", own, others)


def test_a_certificate_and_its_request_have_one_fingerprint(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    requests = _requests(tmp_path, "node", "pc9")
    signed = sign_all(authorities, "node", "pc9", "10.0.0.9", requests)
    der = ssl.PEM_cert_to_DER_cert(signed["hostd"]["pc9.crt"])
    assert fingerprint_of_certificate(der) == fingerprint(requests["hostd"].encode())
    with pytest.raises(Invalid):
        fingerprint_of_certificate(b"x")
