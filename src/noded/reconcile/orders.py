"""Decides whether to obey what etcd has as this node's desired state, and logs what it refuses. No I/O, no clock."""

from __future__ import annotations

import logging
import math

from nodestore.errors import Garbage
from nodestore.schema.models import Desired, decode
from nodestore.support.jsonio import canonical
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

Order = tuple[int, int, int]


class Orders:
    """The desired state as far as it is to be obeyed.

    Obeyed is what is not lower than anything obeyed since noded started, by (epoch, term, generation): a deposed
    leader's order, should one ever show up, changes nothing. A deleted key is obeyed (nothing may run), and does not
    make lower orders acceptable.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._highest_obeyed: Order | None = None
        self._log_once = RateLimitedLog(log, math.inf)
        self.is_known = False
        """Whether etcd has been read at all."""
        self.raw: bytes | None = None
        """What it held then, obeyed or not; None: nothing."""
        self.desired: Desired | None = None
        self.problem: str | None = None
        """Why what is in etcd now is not obeyed; None when it is."""

    def observe(self, value: bytes | None) -> None:
        """The key's value as etcd has it now; None when it is absent."""
        self.is_known, self.raw = True, value
        if value is None:
            if self.desired is not None:
                log.info("its desired state was deleted")
            self.desired, self.problem = None, None
            return
        try:
            desired = decode(Desired, value, self._key)
            canonical(desired.spec.model_dump())
        except (Garbage, ValueError) as error:  # ValueError: numbers that JSON does not have, like NaN
            self.problem = f"the desired state is not readable, so the one before stays in force: {error}"
            log.error("%s", self.problem)
            return
        if self._highest_obeyed is not None and desired.order < self._highest_obeyed:
            self._note_refused(desired.order, self._highest_obeyed)
            return
        self._highest_obeyed = desired.order
        self.desired, self.problem = desired, None

    def _note_refused(self, order: Order, floor: Order) -> None:
        self.problem = (
            f"ignores order {order_text(order)}: it has already obeyed {order_text(floor)} (epoch.term.generation)"
        )
        self._log_once.log(logging.WARNING, self.problem, about=order)


def order_text(order: Order) -> str:
    """As logs name it: epoch.term.generation."""
    return ".".join(str(part) for part in order)
