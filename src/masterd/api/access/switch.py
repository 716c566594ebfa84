"""Whether access control is on, as the cluster's key `access/control` says.

It is off until an operator has switched it on. From then on this masterd leaves it on until the key says that it is
off: a key that was deleted or cannot be read does not open the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from masterd.replication.cluster_view import ClusterView
from nodestore.support.waiting import set_within


class AccessSwitch:
    """is_on: None until the key was read once.

    required: on, whatever the key says. on_change: called when `is_on` changes.
    """

    def __init__(self, view: ClusterView, *, required: bool = False) -> None:
        self._view, self._required = view, required
        self.is_on: bool | None = True if required else None
        self.on_change: Callable[[], None] = lambda: None
        self._known = asyncio.Event()
        view.subscribe(self.update)
        self.update()

    def update(self) -> None:
        """Read what the key says now."""
        if self._required or not self._view.is_access_control_known:
            return
        before, control = self.is_on, self._view.access_control
        if control is not None:
            self.is_on = control.enabled
        elif self._view.access_control_problem is not None:
            self.is_on = True
        elif self.is_on is None:
            self.is_on = False
        if self.is_on != before:
            self._known.set()
            self.on_change()

    async def wait_known(self, timeout_s: float) -> bool:
        """Wait until it is known whether access control is on. False after `timeout_s`."""
        return self.is_on is not None or await set_within(self._known, timeout_s)
