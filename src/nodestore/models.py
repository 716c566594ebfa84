"""The models of the values in etcd: the public name of `nodestore.schema.models`."""

from nodestore.schema.models import *  # noqa: F403
