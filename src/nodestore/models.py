"""The models of what is in etcd under their public name; see `nodestore.schema.models`."""

from nodestore.schema.models import *  # noqa: F403
