"""Certificates of a cluster: whom a certificate names, and the two authorities that issue and revoke certificates.

One authority issues the certificates with which etcd's members speak to each other. The other one issues all else.
etcd accepts any certificate of the authority of its peers, so with a single authority every noded could speak raft.
May import processes, support and errors. Read `authority.py` first. `identity.py` and `revocation.py` work without the
package `cryptography`, so that the daemons need not load it.
"""
