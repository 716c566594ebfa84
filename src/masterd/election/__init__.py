"""When and how a standby becomes the leader.

The heartbeat listener, the pure rules of suspicion, the watch of the leader, and the takeover transaction with its
timeline. A wrong suspicion costs one needless takeover and never data: safety is in the fence, not here.
May import replication and what is below it. Read `suspicion.py` first: it is pure; then `campaign.py`.
"""
