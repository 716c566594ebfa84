"""What `host init` and `host join` check before they write anything, and how data of a former member are set aside."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import closing
from pathlib import Path

import pytest

from hostd.agent.reconcile import set_aside
from hostd.pc.host_file import HostFile, save_host_file
from hostd.pc.layout import Layout
from hostd.setup.init import InitWish, init
from hostd.setup.preflight import check_has_authorities, check_ports, check_space, checked_address, former_host_file
from hostd.setup.steps import Steps
from hostd.signing.client import WrongClock, authority_hash, check_clock
from nodestore.errors import Conflict, Invalid, NodectlError
from nodestore.schema.host_models import HostPorts

_HOST = HostFile(
    host="pc1", cluster="wall", address="10.0.0.1", kind="host", manager="processes", python="python3",
    signers=("10.0.0.1:8403",), endpoints=("10.0.0.1:2379",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("off_s", "text"),
    [(86_400.0, "24.0 hours ahead of"), (-86_400.0, "24.0 hours behind"), (-1.8e9, "20833.3 days behind")],
)
def test_a_clock_that_is_a_day_off_is_said_with_the_remedy(off_s: float, text: str) -> None:
    with pytest.raises(WrongClock, match=rf"{text} .* the signer: set it .* repeat this command"):
        check_clock(1_800_000_000.0, 1_800_000_000.0 + off_s)


def test_clocks_may_differ_by_an_hour() -> None:
    for off_s in (-3_600.0, 0.0, 3_600.0):
        check_clock(1_800_000_000.0, 1_800_000_000.0 + off_s)


@pytest.mark.parametrize("text", ["pc1", "", "0.0.0.0", "::", "224.0.0.1", "10.0.0.1:80"])
def test_an_address_that_others_cannot_connect_to_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="--address"):
        checked_address(text)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 12 << 20))
    with pytest.raises(NodectlError, match=rf"{tmp_path} has 12 MB free; at least 200 MB are needed: free some space"):
        check_space((tmp_path / "etc" / "nodectl",))


def test_a_taken_port_is_named_with_its_use() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {port} of 127.0.0.1, for masterd, is taken"):
            check_ports("127.0.0.1", "host", HostPorts(client=1, peer=2, api=port, host=4), signer=False)


def test_an_address_of_another_pc_is_refused() -> None:
    with pytest.raises(Invalid, match=r"192.0.2.1 is no address of this PC"):
        check_ports("192.0.2.1", "host", HostPorts(), signer=False)


def test_an_earlier_run_is_continued_only_for_the_same_pc(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    assert former_host_file(layout, _HOST) is None
    save_host_file(layout.host_file, _HOST)
    assert former_host_file(layout, _HOST) == _HOST
    other = _HOST.model_copy(update={"address": "10.0.0.9"})
    with pytest.raises(Conflict, match=r"belongs to the cluster wall as pc1 .* its address is 10.0.0.1, not 10.0.0.9"):
        former_host_file(layout, other)


def test_init_does_not_replace_the_certificates_of_a_pc_that_has_joined(tmp_path: Path) -> None:
    """Its host file agrees with the wish in all that identifies a PC, yet the authorities are elsewhere."""
    joined = _HOST.model_copy(update={"host": "pc3", "address": "10.0.0.3", "endpoints": ("10.0.0.3:2379",)})
    layout = Layout.of(tmp_path)
    save_host_file(layout.host_file, joined)
    wish = InitWish(cluster="wall", host="pc3", address="10.0.0.3", etcd=Path("etcd"), manager="processes")
    before = layout.host_file.read_bytes()
    with pytest.raises(Conflict, match=r"has joined the cluster wall as pc3: .* for the first PC \(10.0.0.1:8403\)"):
        asyncio.run(init(layout, wish, Steps(lambda line: None)))
    assert layout.host_file.read_bytes() == before
    assert not layout.pki.exists()


def test_init_makes_no_second_authorities_if_the_keys_of_the_first_are_lost(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    layout.pki.mkdir(parents=True)
    with pytest.raises(Conflict, match=r"pki has no key of the authorities of the cluster wall: restore it"):
        check_has_authorities(layout, _HOST)
    (layout.pki / "ca.key").touch()
    check_has_authorities(layout, _HOST)


def test_the_hash_of_an_authority_is_that_of_its_certificate() -> None:
    pem = "text\n-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n"
    assert authority_hash(pem) == "ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc"
    for broken in ("", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"):
        assert authority_hash(broken) == ""


def test_data_of_a_former_member_are_set_aside_and_three_of_them_kept(tmp_path: Path) -> None:
    data = tmp_path / "etcd"
    set_aside(data)
    for number in range(1, 6):
        (data / "member").mkdir(parents=True)
        (data / "member" / "log").write_text(str(number))
        set_aside(data)
        assert not data.exists()
    kept = {path.name: (path / "member" / "log").read_text() for path in tmp_path.iterdir()}
    assert kept == {"etcd.aside-3": "3", "etcd.aside-4": "4", "etcd.aside-5": "5"}
