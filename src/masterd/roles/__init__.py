"""The roles of a masterd: standby, leader, and the transitions between them.

`Master.become_leader` and `Master.become_standby` are the only places where the role changes. The package also holds
the candidacy, the planned handover to a standby, and the HTTP client for other masterds.
It may import term and every package below, not api. Read `master.py` first.
"""
