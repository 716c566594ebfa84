"""Faults of whole hosts: each host is a network namespace on a bridge, with its own address and processes."""
