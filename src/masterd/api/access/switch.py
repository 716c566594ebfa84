"""Whether access control is on, as the cluster's key `access/control` says.

It is off until an operator has switched it on. From then on this masterd leaves it on until the key says that it is
off: a key that was deleted or cannot be read does not open the cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from masterd.replication.cluster_view import ClusterView


class AccessSwitch:
    """is_on: None until the keys in etcd were read once.

    required: on, whatever the key says. on_change: called when `is_on` changes.
    """

    def __init__(self, view: ClusterView, *, required: bool = False) -> None:
        self._view, self._required = view, required
        self.is_on: bool | None = True if required else None
        self.on_change: Callable[[], None] = lambda: None
        view.subscribe(self.update)
        self.update()

    def update(self) -> None:
        """Read what the key says now."""
        if self._required or self._view.revision == 0:
            return
        before, control = self.is_on, self._view.access_control
        if control is not None:
            self.is_on = control.enabled
        elif self._view.access_control_problem is not None:
            self.is_on = True
        elif self.is_on is None:
            self.is_on = False
        if self.is_on != before:
            self.on_change()
