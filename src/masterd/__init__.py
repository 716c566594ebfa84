"""masterd: the master program. One masterd leads the cluster; the others follow as hot standbys.

Start reading at `daemon.py`, which reads the settings and wires the parts, then `roles/master.py`. The packages, from
top to bottom; each imports only packages below its own line, and nodestore:

    api             the HTTP API: routes, reads, event streams, and passing requests on to the leader
    roles           the two roles, leader and standby, and the changes between them
    term            everything a leader owns for the length of one term: commits, views, snapshots, retention
    election        when a standby takes over: suspicion, ground, rank, the takeover transaction
    upkeep          room in etcd, the placement of etcd's leader, the scan of the store
    replication     following the journal, snapshots, and what masterd watches beside the journal
    state_machine   the replicated state and how a batch of commands changes it (pure)
    application     the contract of an application, the built-in one, and the thread it runs in
"""
