"""Makes the kernel close the connections of a killed process before it frees the memory of the process. Linux only.

The kernel frees the memory of a process that is killed first, some 0.1 ms for each MB, and closes its files afterwards.
Only then do others learn of the death: their connections break, and its port refuses new ones. But memory that another
process uses as well is not freed, and the files are closed at once.

So `close_files_first` starts a helper, a second process that shares all memory, but not the files. It waits for the end
of a pipe that the first process holds open until it dies. A moment later the helper ends too, and the memory is freed:
not at once, because that takes a core for milliseconds in which others react to the death.

The helper runs no Python. It calls a few functions of the C library, one after the other, with stacks of its own and
with all signals blocked. Between them it touches none of the shared memory, so it disturbs no thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_CLONE_VM = 0x100  # the memory is shared; files, signal handlers and all else are not
_PR_SET_NAME = 15
_CONTEXT_BYTES = 16 << 10  # above the size of `ucontext_t` on all processors
_STACK_BYTES = 16 << 10
_FREE_AFTER_US = 250_000
_NAME = b"quick-close\0"
_kept: list[object] = []
"""The memory that the helper uses. It must not be freed while this process lives."""


def close_files_first() -> int | None:
    """Start the helper; return its process id, or None if this system does not have what it needs.

    Call it while this process has one thread, and before it opens connections and files of its own: those that are open
    now are closed only when the helper ends.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the helper and its contexts keep this
    try:
        return _start_helper(ctypes.CDLL(None))
    except (AttributeError, OSError):  # AttributeError: a C library without these functions, such as musl
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_helper(libc: Any) -> int | None:
    read_end, write_end = os.pipe()
    name, byte = ctypes.create_string_buffer(_NAME), ctypes.create_string_buffer(1)
    _kept.extend((name, byte))
    calls = (
        (libc.prctl, (_PR_SET_NAME, ctypes.addressof(name))),
        *((libc.close, (number,)) for number in (0, 1, 2, write_end)),  # who reads our output waits for the end of it
        (libc.read, (read_end, ctypes.addressof(byte), 1)),
        (libc.usleep, (_FREE_AFTER_US,)),
        (libc._exit, (0,)),
    )
    begin: int | None = None
    for function, arguments in reversed(calls):
        begin = _context(libc, function, arguments, begin)
    stack = ctypes.create_string_buffer(_STACK_BYTES)
    _kept.append(stack)
    top = (ctypes.addressof(stack) + _STACK_BYTES) & ~15
    pid = libc.clone(libc.setcontext, ctypes.c_void_p(top), _CLONE_VM, ctypes.c_void_p(begin))
    os.close(read_end)
    if pid < 0:
        os.close(write_end)
        return None
    return int(pid)


class _ContextHead(ctypes.Structure):
    """The beginning of `ucontext_t`, the same on all 64-bit processors."""

    _fields_ = (
        ("flags", ctypes.c_ulong), ("link", ctypes.c_void_p),
        ("stack", ctypes.c_void_p), ("stack_flags", ctypes.c_int), ("stack_bytes", ctypes.c_size_t),
    )  # fmt: skip


def _context(libc: Any, function: Any, arguments: Sequence[int], following: int | None) -> int:
    """Return the address of a context that calls a function and then continues with the context `following`."""
    memory, stack = ctypes.create_string_buffer(_CONTEXT_BYTES), ctypes.create_string_buffer(_STACK_BYTES)
    _kept.extend((memory, stack))
    libc.getcontext(memory)
    head = _ContextHead.from_buffer(memory)
    head.link, head.stack, head.stack_bytes = following, ctypes.addressof(stack), _STACK_BYTES
    libc.makecontext(memory, function, len(arguments), *(ctypes.c_void_p(argument) for argument in arguments))
    return ctypes.addressof(memory)
