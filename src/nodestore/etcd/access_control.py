"""etcd's own access control: its users, roles and permissions, and the switch. With it on, all of it needs root.

Each method is idempotent: what is there already is no error, so a call whose answer was lost is sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from nodestore.errors import NodectlError
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import RetryPolicy
from nodestore.schema.store_rights import Access, Permission

_TYPES: dict[Access, pb.Permission.Type] = {"read": pb.Permission.READ, "readwrite": pb.Permission.READWRITE}
_TIMEOUT_S = 10.0


class EtcdAccessControl:
    """Reads and changes the users, roles and permissions of one etcd cluster."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd

    async def is_enabled(self) -> bool:
        """Whether it is on. Denied if it is, and this session's user lacks the role root."""
        return bool((await self._call("AuthStatus", pb.AuthStatusRequest())).enabled)

    async def enable(self) -> None:
        """Switch it on. NodectlError unless there is a user root with the role root."""
        await self._call("AuthEnable", pb.AuthEnableRequest())

    async def disable(self) -> None:
        """Switch it off."""
        await self._call("AuthDisable", pb.AuthDisableRequest())

    async def users(self) -> tuple[str, ...]:
        return tuple((await self._call("UserList", pb.AuthUserListRequest())).users)

    async def roles(self) -> tuple[str, ...]:
        return tuple((await self._call("RoleList", pb.AuthRoleListRequest())).roles)

    async def roles_of(self, user: str) -> frozenset[str]:
        """The roles of a user; none if there is no such user."""
        response = await self._call("UserGet", pb.AuthUserGetRequest(name=user), harmless=("user name not found",))
        return frozenset() if response is None else frozenset(response.roles)

    async def permissions_of(self, role: str) -> frozenset[Permission]:
        """The permissions of a role; none if there is no such role."""
        response = await self._call("RoleGet", pb.AuthRoleGetRequest(role=role), harmless=("role name not found",))
        return frozenset() if response is None else frozenset(_permissions(response.perm))

    async def add_user(self, user: str, password: str | None) -> None:
        """Add a user. password: None: it can only log in with a certificate."""
        options = pb.UserAddOptions(no_password=password is None)
        request = pb.AuthUserAddRequest(name=user, password=password or "", options=options)
        await self._call("UserAdd", request, harmless=("already exists",))

    async def set_password(self, user: str, password: str) -> None:
        await self._call("UserChangePassword", pb.AuthUserChangePasswordRequest(name=user, password=password))

    async def delete_user(self, user: str) -> None:
        await self._call("UserDelete", pb.AuthUserDeleteRequest(name=user), harmless=("user name not found",))

    async def add_role(self, role: str) -> None:
        await self._call("RoleAdd", pb.AuthRoleAddRequest(name=role), harmless=("already exists",))

    async def delete_role(self, role: str) -> None:
        await self._call("RoleDelete", pb.AuthRoleDeleteRequest(role=role), harmless=("role name not found",))

    async def grant_role(self, user: str, role: str) -> None:
        await self._call("UserGrantRole", pb.AuthUserGrantRoleRequest(user=user, role=role))

    async def grant(self, role: str, permission: Permission) -> None:
        """Add a permission to a role. It replaces one for the same keys."""
        granted = pb.Permission(permType=_TYPES[permission.access], key=permission.key, range_end=permission.end)
        await self._call("RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=role, perm=granted))

    async def revoke(self, role: str, permission: Permission) -> None:
        """Take a permission from a role."""
        request = pb.AuthRoleRevokePermissionRequest(role=role, key=permission.key, range_end=permission.end)
        await self._call("RoleRevokePermission", request, harmless=("permission is not granted",))

    async def _call(self, method: str, request: Message, *, harmless: Iterable[str] = ()) -> Any:
        """Call a method. None if etcd refuses with one of the texts `harmless`."""
        try:
            return await self._etcd.call(f"Auth/{method}", request, retry=RetryPolicy.FREELY, timeout_s=_TIMEOUT_S)
        except NodectlError as error:
            if any(text in str(error) for text in harmless):
                return None
            raise


def _permissions(found: Iterable[pb.Permission]) -> Iterator[Permission]:
    for item in found:
        access: Access = "read" if item.permType == pb.Permission.READ else "readwrite"
        yield Permission(access, item.key, item.range_end)
