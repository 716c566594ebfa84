"""When and how a standby becomes the leader.

Contains the heartbeat listener, the pure rules of suspicion, the watch over the leader, and the campaign, which sends
the takeover transaction. A wrong suspicion costs one needless takeover and never data, because the fence, not this
package, ensures safety.
May import replication and what is below it. Read `suspicion.py` first: it is pure; then `campaign.py`.
"""
