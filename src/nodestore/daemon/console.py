"""Events of a Windows console that end a process: closing the window, logging off, shutting down.

Windows calls a handler of these events in a thread of its own, and ends the process when the handler returns, or
after some seconds: 5 s after the window was closed, about as long at a shutdown. So the handler requests a stop, and
returns only when Windows ends its wait. The process usually ends by itself before that.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN = 2, 5, 6
_SERVICE_SESSION = 0
_PATIENCE_S = 60.0
_registered: list[object] = []
"""The callbacks that Windows may call. They must not be freed."""


class ConsoleHandler:
    """Decides about console events. `session`: the Windows session of this process; services are in session 0."""

    def __init__(self, request_stop: Callable[[], object], session: int, patience_s: float = _PATIENCE_S) -> None:
        self._request_stop, self._session, self._patience_s = request_stop, session, patience_s

    def __call__(self, event: int) -> bool:
        """Handle one event; return whether it is handled. Ctrl-C and Ctrl-Break are left to Python's handlers."""
        if event not in (CTRL_CLOSE, CTRL_LOGOFF, CTRL_SHUTDOWN):
            return False
        if event == CTRL_LOGOFF and self._session == _SERVICE_SESSION:
            return True  # services get it whichever user logs off, and keep running
        self._request_stop()
        threading.Event().wait(self._patience_s)
        return True


def handle_events(request_stop: Callable[[], object]) -> None:
    """Call `request_stop`, in another thread, when the console is closed, the user logs off or Windows shuts down."""
    if sys.platform != "win32":
        return
    import ctypes
    from ctypes import wintypes

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    session = wintypes.DWORD(_SERVICE_SESSION + 1)
    kernel32.ProcessIdToSessionId(kernel32.GetCurrentProcessId(), ctypes.byref(session))
    callback = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(ConsoleHandler(request_stop, session.value))
    if kernel32.SetConsoleCtrlHandler(callback, True):
        _registered.append(callback)
