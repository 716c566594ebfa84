"""Gives each program its rights in etcd, by the table of rights, and switches etcd's access control on.

The order: users, roles and permissions are made and read back while access control is off, so they have no effect yet.
Then it is switched on, and it is switched off again unless every program still does its work. Each step may be
repeated, so an interrupted run is completed by the next one. What a program that dies in between leaves behind:

- before the switch: users and roles that have no effect;
- around the switch: a user with the role root and a random password that is in no file. The next run deletes it;
- after the switch: access control that is on, with the permissions of the table.

A late copy of the switch could take effect after this program gave up. So it is repeated until its outcome is known,
and otherwise the error says so.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from nodestore.cluster.program_leases import ProgramLeases
from nodestore.cluster.store_users import (
    SWITCHING_PREFIX,
    RightDifference,
    StoreUsers,
    differences,
    known_hosts,
    known_users,
    parsed_users,
    read_users,
    unused_roles,
    unused_users,
)
from nodestore.errors import Conflict, Denied, NodectlError
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.store_rights import ROOT, StoreUser
from nodestore.support.tasks import owned_task

PASSWORD_BYTES = 32
_ATTEMPTS = 5
_PAUSE_S = 0.2

OpenSession = Callable[[str, str], AbstractAsyncContextManager[Etcd]]
"""Opens a session of the user with this name and password."""
Passwords = Callable[[StoreUser], str | None]
"""Returns the password that a new user gets; None: it logs in with its certificate."""


class StoreAccess:
    """Checks and sets the rights in etcd of one cluster.

    own: etcd's user of this session, `root` or `maintenance:<name>`. extra: users that the store does not name, such as
    those of automation. report: called with each step.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        own: str,
        extra: Iterable[StoreUser] = (),
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._etcd, self._keys, self._own, self._report = etcd, keys, own, report
        self._extra = frozenset(extra) | parsed_users([own])
        self._auth = EtcdAccessControl(etcd)

    async def wanted(self) -> list[StoreUser]:
        """The users of this cluster: those that the store names, those given, and those that etcd has already."""
        return sorted(await known_users(self._etcd, self._keys) | self._extra | parsed_users(await self._auth.users()))

    async def is_enabled(self) -> bool:
        """Whether access control is on. Denied if it is, and this session's user lacks the role root."""
        return await self._auth.is_enabled()

    async def differences(self) -> list[RightDifference]:
        """What differs from the table."""
        return differences(self._keys, await self.wanted(), await read_users(self._auth))

    # --- users of masters and nodes that were removed ---

    async def unused(self) -> list[StoreUser]:
        """The users of masters and nodes that are not in the cluster any more: see `unused_users`."""
        return unused_users(self._keys, await self._known(), await read_users(self._auth))

    async def _known(self) -> frozenset[StoreUser]:
        hosts = await known_hosts(self._etcd, self._keys)
        of_hosts = parsed_users(f"{kind}:{host}" for kind in ("masterd", "noded") for host in hosts)
        return await known_users(self._etcd, self._keys) | of_hosts | self._extra

    async def remove_unused(self, users: Iterable[StoreUser]) -> list[StoreUser]:
        """Delete those of these users that are still unused, and their roles. Return the deleted ones.

        A user that also has roles of others, such as those of another cluster, is left and reported. Idempotent, also
        after an interruption: a role without a user is removed by the next call. Conflict if one of these masters or
        nodes was added at the same time, because its program is refused now.
        """
        found, unused, deleted = await read_users(self._auth), set(await self.unused()), []
        for user in sorted(set(users) & unused):
            if foreign := sorted(found.roles[str(user)] - {user.role(self._keys)}):
                self._report(f"user {user} is left, because it also has the role {foreign[0]}")
                continue
            await self._auth.delete_user(str(user))
            self._report(f"user {user} removed")
            deleted.append(user)
        await self._remove_leftovers(await self.wanted(), await read_users(self._auth))
        if returned := sorted(set(deleted) & await self._known()):
            raise Conflict(f"{returned[0]} was added at the same time: run `nodectl etcd auth enable` again")
        return deleted

    # --- users, roles, permissions ---

    async def set_rights(self, passwords: Passwords, own_password: str | None) -> list[RightDifference]:
        """Make the users, roles and permissions of the table; return what still differs, for an operator to repair.

        NodectlError if something that this repairs still differs: another program changes it at the same time.
        """
        wanted, found = await self.wanted(), await read_users(self._auth)
        await self._make_roles(wanted, found)
        await self._make_root(own_password)
        for user in wanted:
            await self._make_user(user, passwords, found)
        await self._remove_leftovers(wanted, found)
        left = await self.differences()
        if wrong := [item for item in left if item.is_repaired]:
            raise NodectlError(f"another program changes etcd's users: {wrong[0].subject} {wrong[0].problem} again")
        return left

    async def _make_roles(self, wanted: Iterable[StoreUser], found: StoreUsers) -> None:
        for user in wanted:
            role, permissions = user.role(self._keys), user.permissions(self._keys)
            if role == ROOT:
                continue
            if role not in found.permissions:
                await self._auth.add_role(role)
                self._report(f"role {role} made")
            has = found.permissions.get(role, frozenset())
            for item in sorted(permissions - has):  # first: a program must not lack a right for a moment
                await self._auth.grant(role, item)
            kept = {(item.key, item.end) for item in permissions}
            for item in sorted(has - permissions):
                if (item.key, item.end) not in kept:  # else the grant has replaced it
                    await self._auth.revoke(role, item)
                    self._report(f"role {role} may no longer {item}")

    async def _make_root(self, own_password: str | None) -> None:
        """Make the user root, which etcd requires. own_password: that of this session, if its user is root."""
        password = own_password if self._own == ROOT else None
        await self._auth.add_role(ROOT)
        if ROOT not in await self._auth.users():
            await self._auth.add_user(ROOT, password)
            self._report(f"user {ROOT} made{'' if password else ' (without a password)'}")
        elif password is not None and not await self._auth.is_enabled():
            await self._auth.set_password(ROOT, password)  # it may have had another one
        if ROOT not in await self._auth.roles_of(ROOT):
            await self._auth.grant_role(ROOT, ROOT)

    async def _make_user(self, user: StoreUser, passwords: Passwords, found: StoreUsers) -> None:
        name, role = str(user), user.role(self._keys)
        if name not in found.roles:
            await self._auth.add_user(name, passwords(user))
            self._report(f"user {name} made")
        if role not in found.roles.get(name, frozenset()):
            await self._auth.grant_role(name, role)

    async def _remove_leftovers(self, wanted: Iterable[StoreUser], found: StoreUsers) -> None:
        """Remove the users of interrupted runs, and the roles of users that no longer exist."""
        for user in found.roles:
            if user.startswith(SWITCHING_PREFIX):
                await self._auth.delete_user(user)
        for role in unused_roles(self._keys, wanted, found):
            await self._auth.delete_role(role)
            self._report(f"role {role} removed: it has no user")

    # --- the switch ---

    async def switch_on(self, open_session: OpenSession) -> list[str]:
        """Switch access control on, and off again unless each program that runs still has its rights.

        Returns the programs that were too slow to show it. Denied if a program, or this session, is refused.
        """
        # The user that switches it off again must not depend on this session's own credential, which etcd may refuse:
        # without --client-cert-auth it ignores certificates.
        name, password = SWITCHING_PREFIX + secrets.token_hex(8), secrets.token_urlsafe(PASSWORD_BYTES)
        leases = await ProgramLeases.read(self._etcd, self._keys)
        await self._auth.add_user(name, password)
        await self._auth.grant_role(name, ROOT)
        work = owned_task(self._switch_with(open_session(name, password), name, leases))
        try:
            slow = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait((work,))  # it switches access control off first
            raise
        await self._auth.delete_user(name)
        return slow

    async def _switch_with(
        self, session: AbstractAsyncContextManager[Etcd], user: str, leases: ProgramLeases
    ) -> list[str]:
        """Switch it on, and check the programs. On any error, and if it is cancelled, switch it off by `session`.

        user: that of `session`, which is then deleted.
        """
        try:
            await self._enable()
            self._report("access control is on; waiting for the programs")
            await self._check_own_credential()
            return await leases.wait_renewed(self._etcd)
        except BaseException as error:
            await owned_task(self._switch_off(session, user, error))
            raise

    async def _enable(self) -> None:
        """Switch it on. After this method returns, or raises, no copy of the switch is on its way."""
        for attempt in range(_ATTEMPTS):
            try:
                await self._auth.enable()
                return
            except Denied:  # an earlier copy has taken effect
                return
            except NodectlError:
                if attempt == _ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _check_own_credential(self) -> None:
        try:
            if await self._auth.is_enabled():
                return
        except NodectlError as error:
            raise Denied(
                f"etcd does not accept this command's own credential as {self._own} ({error}): give a client "
                "certificate that etcd's authority issued and start etcd with client-cert-auth, or give --user root "
                "--password-file"
            ) from None
        raise NodectlError("etcd has not switched access control on")

    async def _switch_off(self, session: AbstractAsyncContextManager[Etcd], user: str, cause: BaseException) -> None:
        began = time.monotonic()
        try:
            async with session as etcd:
                auth = EtcdAccessControl(etcd)
                await auth.disable()
                await auth.delete_user(user)
        except NodectlError as error:
            raise NodectlError(
                f"access control may be on, and could not be switched off within {time.monotonic() - began:.0f} s "
                f"({error}), after: {cause or type(cause).__name__}"
            ) from None
        self._report("access control is off again")
