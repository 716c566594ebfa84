"""The command line and environment of an etcd member."""

from __future__ import annotations

from pathlib import Path

from nodestore.etcd.member_defaults import MemberConfig, environment

ONE = MemberConfig(
    name="m1",
    data_dir=Path("data") / "m 1",
    client_url="http://127.0.0.1:2379",
    peer_url="http://127.0.0.1:2380",
    initial_cluster={"m1": "http://127.0.0.1:2380", "m2": "http://127.0.0.1:2480"},
)


def test_a_member_is_told_where_it_and_the_others_are() -> None:
    command = ONE.command(Path("etcd"))
    assert command[0] == "etcd"
    for flag in (
        "--name=m1",
        f"--data-dir={Path('data') / 'm 1'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--initial-cluster=m1=http://127.0.0.1:2380,m2=http://127.0.0.1:2480",
        "--initial-cluster-state=new",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        "--max-txn-ops=4096",
        "--max-request-bytes=8388608",
        "--snapshot-count=1000",
        "--quota-backend-bytes=268435456",
    ):
        assert flag in command


def test_a_setting_can_be_replaced_and_one_be_added() -> None:
    flags = MemberConfig(
        name="m1", data_dir=Path("d"), client_url="c", peer_url="p", initial_cluster={}, existing=True,
        settings={"election-timeout": "1000", "unsafe-no-fsync": "true"},
    ).flags()  # fmt: skip
    assert flags["election-timeout"] == "1000"
    assert flags["unsafe-no-fsync"] == "true"
    assert flags["heartbeat-interval"] == "50"
    assert flags["initial-cluster-state"] == "existing"


def test_a_member_may_be_reached_elsewhere_than_it_listens() -> None:
    flags = MemberConfig(
        name="m1", data_dir=Path("d"), client_url="c", peer_url="p", initial_cluster={},
        advertised_client_url="C", advertised_peer_url="P",
    ).flags()  # fmt: skip
    assert (flags["listen-client-urls"], flags["advertise-client-urls"]) == ("c", "C")
    assert (flags["listen-peer-urls"], flags["initial-advertise-peer-urls"]) == ("p", "P")


def test_the_environment_limits_memory_and_holds_no_settings_of_another_etcd() -> None:
    assert environment({"PATH": "/bin", "ETCD_NAME": "other", "GOGC": "80"}) == {
        "PATH": "/bin", "GOGC": "80", "GOMEMLIMIT": "200MiB",
    }  # fmt: skip
