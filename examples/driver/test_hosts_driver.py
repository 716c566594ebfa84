"""Run with pytest. The driver is applied, stopped, cancelled and killed: see nodesdk.conformance."""

from hosts_driver import HostsDriver

from nodesdk import Spec
from nodesdk.conformance import check_driver


def spec(**hosts: str) -> Spec:
    return Spec(driver="hosts", settings={"path": "hosts"}, document={"hosts": hosts})


def test_the_driver_keeps_its_contract() -> None:
    check_driver(
        HostsDriver,
        [spec(projector="10.0.0.50"), spec(projector="10.0.0.51", relay="10.0.0.60"), spec()],
        look=lambda work_dir: (work_dir / "hosts").read_text(),
        actions={"find": {"address": "10.0.0.50"}},
    )
