"""Benchmarks, most of them as a ratio to a bare etcd operation in the same run. `make bench` runs them."""
