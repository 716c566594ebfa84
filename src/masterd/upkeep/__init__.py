"""What a masterd does for the store that commits do not depend on.

It keeps room in etcd (plan and execution), asks etcd's leader to live on another PC than the master, finds the member
on its own PC, and scans the store for malformed keys when somebody asks for the status.
May import replication and what is below it, neither term nor election. Read `space_plan.py` first: it is pure.
"""
