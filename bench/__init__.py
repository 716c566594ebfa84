"""Measurements, each beside the bare etcd operation in the same run, as a ratio. `make bench` runs them."""
