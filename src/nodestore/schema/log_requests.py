"""What masterd, noded and the client share about requests for the log of a node's program."""

from __future__ import annotations

LOG_LINES = 100
"""How many last lines of a log a request gets by default."""
LOG_LINES_MAX = 10_000
"""The maximum number of last lines of a log in one request."""
LOG_POSITION = r"^(none|[0-9a-f]{1,32}-[0-9]{1,18}-[0-9a-f]{8})$"
"""The pattern of a position in a log: the file's inode, the offset in it, and the CRC of the bytes before."""
LOG_WAIT_MAX_S = 4.0
"""For how long a request for a log may wait for new lines, in seconds."""
NONCE_HEADER = "Nodectl-Nonce"
"""The header with which noded gives the nonce of its claim when it connects to the leader."""
