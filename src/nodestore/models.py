"""The models under the name that earlier releases documented; see `nodesdk` and `nodestore.schema.models`."""

from nodestore.schema.models import *  # noqa: F403
