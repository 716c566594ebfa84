"""The built-in application in two bad versions: with a command that ends every master which runs it, and with a
`desired` that never returns for one node."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

from pydantic import BaseModel

from masterd.application.contract import Command, Transaction, View
from masterd.application.scenes import BuiltinApp
from nodestore.schema.models import Inventory, Spec
from nodestore.support.jsonio import Json

HANGS_FOR = "n2"


class Nothing(BaseModel):
    pass


class PoisonApp(BuiltinApp):
    def commands(self) -> Mapping[str, Command]:
        return {**super().commands(), "poison": Command(Nothing, _die, "kill -9 of the master that runs it")}


def _die(_: Transaction, __: Nothing) -> Json:
    os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    return None


class HangingApp(BuiltinApp):
    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        while node == HANGS_FOR:
            pass
        return super().desired(config, view, node)
