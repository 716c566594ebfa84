"""The built-in application with a command that ends every master which runs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

from pydantic import BaseModel

from masterd.application.contract import Command, Transaction
from masterd.application.scenes import BuiltinApp
from nodestore.support.jsonio import Json


class Nothing(BaseModel):
    pass


class PoisonApp(BuiltinApp):
    def commands(self) -> Mapping[str, Command]:
        return {**super().commands(), "poison": Command(Nothing, _die, "kill -9 of the master that runs it")}


def _die(_: Transaction, __: Nothing) -> Json:
    os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    return None
