"""Run with pytest. The driver is taken on, off, cut short and killed: see noded.drivers.conformance."""

from hosts_driver import HostsDriver

from noded.drivers.conformance import check_driver
from nodestore.models import Spec


def spec(**hosts: str) -> Spec:
    return Spec(driver="hosts", settings={"path": "hosts"}, document={"hosts": hosts})


def test_the_driver_keeps_its_contract() -> None:
    check_driver(
        HostsDriver,
        [spec(projector="10.0.0.50"), spec(projector="10.0.0.51", relay="10.0.0.60"), spec()],
        look=lambda work_dir: (work_dir / "hosts").read_text(),
        actions={"find": {"address": "10.0.0.50"}},
    )
