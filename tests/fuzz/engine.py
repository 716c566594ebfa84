"""`python -m tests.fuzz.engine TARGET ARGUMENTS...`: one target under libFuzzer, with its own arguments.

A process of its own, because libFuzzer ends the process, and only modules that are imported here are instrumented.
"""

from __future__ import annotations

import sys

import atheris

_PACKAGES = ["masterd", "nodectl", "noded", "nodesdk", "nodestore"]


def main(arguments: list[str]) -> None:
    name, *rest = arguments
    with atheris.instrument_imports(include=_PACKAGES, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def run(data: bytes) -> None:
        target.run(data)

    atheris.Setup([f"fuzz {name}", *rest], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
