"""TLS to the members: with our authority it works, without it nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodectl import Client
from nodestore.errors import Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Listing, mirror
from nodestore.schema.keys import Keys
from tests.support.certificates import Authority
from tests.support.etcd_cluster import EtcdCluster, Tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def etcd_tls(authority: Authority) -> Iterator[EtcdCluster]:
    """One member that wants a client certificate."""
    cert, key = authority.issue("member")
    with EtcdCluster(1, tls=Tls(ca=authority.ca, cert=cert, key=key, client_auth=True)) as cluster:
        yield cluster


async def test_with_our_certificate(etcd_tls: EtcdCluster, authority: Authority, keys: Keys) -> None:
    """Calls, a watch and a lease, all over TLS."""
    cert, key = authority.issue("client")
    settings = EtcdSettings(endpoints=etcd_tls.endpoints, ca=authority.ca, cert=cert, key=key)
    async with Etcd(settings) as etcd:
        lease = await Lease.grant(etcd, 5)
        await etcd.put(keys.leader, b"x", lease=lease.id)
        stream = mirror(etcd, keys.leader, prefix=False)
        listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert [kv.value for kv in listing.kvs] == [b"x"]
        await stream.aclose()
        await lease.revoke()


async def test_a_client_with_our_certificate(etcd_tls: EtcdCluster, authority: Authority, keys: Keys) -> None:
    """What a client does in etcd by itself goes over TLS, too."""
    cert, key = authority.issue("client")
    async with Client(etcd_tls.endpoints, cluster=keys.cluster, ca=authority.ca, cert=cert, key=key) as client:
        await client.pause("maintenance")
    async with Etcd(EtcdSettings(endpoints=etcd_tls.endpoints, ca=authority.ca, cert=cert, key=key)) as etcd:
        assert await etcd.get(keys.paused) is not None


@pytest.mark.parametrize("wrong", ["plain", "no certificate", "another authority"])
async def test_without_it_nothing_is_sent(
    etcd_tls: EtcdCluster, authority: Authority, keys: Keys, tmp_path: Path, wrong: str
) -> None:
    """Refused are plain TCP to a TLS port, a client without a certificate, and a member whose CA is not trusted."""
    match wrong:
        case "plain":
            settings = EtcdSettings(endpoints=etcd_tls.endpoints, call_timeout_s=0.5)
        case "no certificate":
            settings = EtcdSettings(endpoints=etcd_tls.endpoints, ca=authority.ca, call_timeout_s=0.5)
        case _:
            other = Authority(tmp_path / "other")
            cert, key = other.issue("client")
            settings = EtcdSettings(endpoints=etcd_tls.endpoints, ca=other.ca, cert=cert, key=key, call_timeout_s=0.5)
    async with Etcd(settings) as etcd:
        with pytest.raises(Unavailable):
            await etcd.get(keys.head)
