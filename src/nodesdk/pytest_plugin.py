"""pytest plugin: the fixture `nodesdk_harness`. Loading it imports nothing of the programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nodesdk.testing import AppHarness


@pytest.fixture
def nodesdk_harness() -> type[AppHarness]:
    """The class `nodesdk.testing.AppHarness`: `nodesdk_harness(app, ["n1"])`."""
    from nodesdk.testing import AppHarness

    return AppHarness
