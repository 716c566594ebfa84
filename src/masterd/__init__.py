"""masterd: the master program. One masterd leads the cluster; the others follow as hot standbys.

Start reading at `daemon.py`, which runs the program, then `assembly.py`, which builds its parts and shows all their
dependencies, then `roles/master.py`. The packages, from the highest layer to the lowest, are listed here. Each imports
only packages listed below it, and nodestore; `application` also imports nodesdk:

    api             the HTTP API: routes, reads, event streams, and forwarding of requests to the leader
    roles           the two roles, leader and standby, and the transitions between them
    term            everything that a leader owns for the length of one term: commits, views, snapshots, retention
    election        when and how a standby takes over: suspicion, challenge, rank, the takeover transaction
    upkeep          free space in etcd, the placement of etcd's leader, the scan of the store for malformed keys
    replication     the replica that follows the journal, snapshots, and the mirror of the other keys
    state_machine   the replicated state and how a batch of commands changes it (pure)
    application     loads the application and runs its code in a thread of its own
"""
