"""The roles of a masterd: standby, leader, and the changes between them.

`Master.become_leader` and `Master.become_standby` are the only places where a role changes. The candidacy, the planned
handover to a standby and the HTTP calls to other masterds are here too.
May import term and everything below it, not api. Read `master.py` first.
"""
