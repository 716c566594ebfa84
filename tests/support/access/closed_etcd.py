"""An etcd whose clients need certificates, with access control by the table of rights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nodestore.cluster.store_access import StoreAccess
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.store_rights import StoreUser
from tests.support.certificates import Authority
from tests.support.etcd_cluster import EtcdCluster, Tls

MAINTENANCE = StoreUser("maintenance", "pc1")


class ClosedEtcd:
    """An etcd, and certificates for its users. Access control is off until `enable`."""

    def __init__(self, directory: Path, size: int = 1, flags: Sequence[str] = ()) -> None:
        self.authority = Authority(directory)
        cert, key = self.authority.issue("etcd:m1")
        self.cluster = EtcdCluster(
            size, tls=Tls(ca=self.authority.ca, cert=cert, key=key, client_auth=True), flags=flags
        )
        self._files: dict[str, tuple[Path, Path]] = {}

    def files(self, user: StoreUser | str) -> tuple[Path, Path]:
        """The certificate of this user, and its key."""
        name = str(user)
        if name not in self._files:
            self._files[name] = self.authority.issue(name)
        return self._files[name]

    def options(self, user: StoreUser | str) -> list[str]:
        """The options of a program that logs in as this user."""
        cert, key = self.files(user)
        return [f"--ca={self.authority.ca}", f"--cert={cert}", f"--key={key}"]

    def settings(self, user: StoreUser | str) -> EtcdSettings:
        cert, key = self.files(user)
        return EtcdSettings(endpoints=self.cluster.endpoints, ca=self.authority.ca, cert=cert, key=key)

    def session(self, user: StoreUser | str) -> Etcd:
        return Etcd(self.settings(user))

    async def enable(self, keys: Keys, users: Iterable[StoreUser]) -> None:
        """Set the rights of these users, and of those that the store names, and switch access control on."""
        async with self.session(MAINTENANCE) as etcd:
            access = StoreAccess(etcd, keys, str(MAINTENANCE), users)
            assert await access.set_rights(lambda _: None, None) == []
            assert await access.switch_on(self._login) == []
            assert await access.differences() == []

    def _login(self, user: str, password: str) -> Etcd:
        return Etcd(replace(self.settings(MAINTENANCE), user=user, password=password))
