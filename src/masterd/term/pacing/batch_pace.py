"""The pace of commits: how large the next batch may be, and how long a new command would wait. Pure.

Both limits of a batch grow by steps while batches are fast, and shrink by half when one is slow (additive increase,
multiplicative decrease). The bytes follow the time of the commit. The number of commands follows the time to run them,
smoothed: one batch that had to wait for a core says nothing about the next one, and small batches cost much more.
A commit of a few bytes is never counted as slow: it is the disk that is slow then, and smaller batches would only
divide its rate.
"""

from __future__ import annotations

COMMIT_TARGET_S = 0.05
RUN_TARGET_S = 0.1
_COMMANDS_MIN, _COMMANDS_STEP = 16, 8
_BYTES_MIN, _BYTES_STEP = 128 << 10, 32 << 10
_SMOOTHING = 0.2
_RUN_SMOOTHING = 0.3


class BatchPace:
    """Adapts the limits of batches, and estimates how long commands wait.

    commands_max, bytes_max: upper limits. Both limits apply to a batch of several commands: a single one may be larger.
    """

    def __init__(self, commands_max: int, bytes_max: int) -> None:
        self._commands_max, self._bytes_max = commands_max, bytes_max
        self.commands = commands_max
        """How many commands the next batch may have."""
        self.bytes = bytes_max
        """How many bytes the commands of the next batch may have together."""
        self._command_s: float | None = None
        """Time that a command takes in a full batch, smoothed; None while it is unknown."""
        self._run_s = 0.0
        self._paused_s = 0.0

    def note_commit(self, size: int, took_s: float) -> None:
        """Adapt the bytes of a batch to a commit of `size` bytes that took `took_s` seconds."""
        if took_s <= COMMIT_TARGET_S:
            self.bytes = min(self.bytes + _BYTES_STEP, self._bytes_max)
        elif size >= _BYTES_MIN:
            self.bytes = _within(min(self.bytes, size) // 2, _BYTES_MIN, self._bytes_max)

    def note_run(self, commands: int, took_s: float) -> None:
        """Adapt the number of commands of a batch: so many of them were run in `took_s` seconds."""
        self._run_s += _RUN_SMOOTHING * (took_s - self._run_s)
        if took_s <= RUN_TARGET_S:
            self.commands = min(self.commands + _COMMANDS_STEP, self._commands_max)
        elif self._run_s > RUN_TARGET_S:
            self.commands = _within(min(self.commands, commands) // 2, _COMMANDS_MIN, self._commands_max)
            self._run_s /= 2

    def note_pause(self, pause_s: float) -> None:
        """Note that the commit of the present batch had to wait because of its bytes, or of those before it."""
        self._paused_s += pause_s

    def note_batch(self, commands: int, took_s: float, was_full: bool) -> None:
        """Note how long running, committing and applying a batch took. was_full: whether it had as many commands
        or bytes as a batch may have. Commands that arrive while it runs do not matter: the next batch takes them."""
        paused_s, self._paused_s = min(self._paused_s, took_s), 0.0
        room = commands if was_full else max(commands, self.commands)
        each_s = (took_s - paused_s) / max(1, room) + paused_s / max(1, commands)  # more commands have more bytes
        before_s = each_s if self._command_s is None else self._command_s
        self._command_s = before_s + _SMOOTHING * (each_s - before_s)

    def wait_s(self, queued: int) -> float:
        """How long a command would wait behind `queued` others, in seconds; 0 as long as that is unknown."""
        return 0.0 if self._command_s is None else queued * self._command_s


def _within(value: int, least: int, most: int) -> int:
    return min(most, max(least, value))
