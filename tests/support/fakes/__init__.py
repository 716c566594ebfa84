"""Fakes that stand in for etcd, the clock, the network and masterd, in one event loop."""
