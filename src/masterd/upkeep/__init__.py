"""Maintenance of the store that no commit depends on.

It keeps free space in etcd (plan and execution), moves etcd's leadership off the leader's PC, finds the etcd member on
this PC, deletes the keys of removed nodes, and scans the store for malformed keys when a status is requested.
May import replication and what is below it, neither term nor election. Read `space_plan.py` first: it is pure.
"""
