"""Re-exports `nodestore.schema.models` under the module name that earlier releases documented; see also `nodesdk`."""

from nodestore.schema.models import *  # noqa: F403
