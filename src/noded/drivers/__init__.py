"""The contract of drivers under the name that earlier releases documented; see `nodesdk.driver`.

The subpackages hold the built-in drivers, helpers for drivers, and the conformance checks. Modules inside this package
import `noded.drivers.contract`, not this module.
"""

from noded.drivers.contract import *  # noqa: F403
