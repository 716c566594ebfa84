"""Running `nodectl` as a user does, in a child process, without blocking a test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodectl.__main__ import run

_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class CommandOutput:
    """The output and the exit code of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()


class Ran:
    """What a command did that ran in the test's own process."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        return json.loads(self.out)


CallNodectl = Callable[..., Ran]
"""`nodectl("node", "list")`: the fixture of the tests of the command line."""


class InProcessNodectl:
    """Runs `nodectl` in a thread of this process: some twenty times as fast as `Nodectl`, for tests with many calls.

    Takes only URLs of masters, because gRPC must be used in one thread only. Calls run one at a time, because the
    output is captured from the streams of this process.
    """

    def __init__(self, urls: Sequence[str], *, timeout_s: float = 10.0) -> None:
        self._options = ["--endpoints", ",".join(urls), "--request-timeout", f"{timeout_s:g}", "--config", os.devnull]
        self._one = asyncio.Lock()

    async def __call__(self, *args: str) -> CommandOutput:
        async with self._one:
            output = await asyncio.to_thread(self._run, args)
        return _checked(output)

    def _run(self, args: Sequence[str]) -> CommandOutput:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*self._options, *args])
        return CommandOutput(code, out.getvalue(), err.getvalue())


def _checked(output: CommandOutput) -> CommandOutput:
    assert "Traceback" not in output.out + output.err, output.err[-3000:]
    assert "internal error" not in output.err, output
    return output


async def read_output(child: asyncio.subprocess.Process, timeout_s: float) -> tuple[bytes, bytes]:
    """Return stdout and stderr once the child has ended. After `timeout_s` kill it and raise TimeoutError."""
    try:
        async with asyncio.timeout(timeout_s):
            return await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


class Nodectl:
    """`await nodectl("node", "list")` for one cluster. Each call checks that it prints no traceback."""

    def __init__(
        self,
        endpoints: Sequence[str],
        cluster: str = "",
        *,
        timeout_s: float = 10.0,
        environ: Mapping[str, str] = {},
        argv: Sequence[str] = (sys.executable, "-m", "nodectl"),
    ) -> None:
        self._argv = argv
        self._options = ["--endpoints", ",".join(endpoints), "--request-timeout", f"{timeout_s:g}"]
        self._options += ["--cluster", cluster] if cluster else []
        self._environ = environ

    async def __call__(self, *args: str | bytes, environ: Mapping[str, str] = {}) -> CommandOutput:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NODECTL_")}
        child = await asyncio.create_subprocess_exec(
            *self._argv, *self._options, *args,
            cwd=_ROOT, env={**kept, "NODECTL_CONFIG": os.devnull, **self._environ, **environ},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await read_output(child, _TIMEOUT_S)
        assert child.returncode is not None
        return _checked(CommandOutput(child.returncode, out.decode(), err.decode()))
