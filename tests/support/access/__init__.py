"""For tests of the rights in etcd: an etcd with access control, and a key of each kind."""
