"""Files that other programs and users must keep out of: locks, modes and access lists. May import errors alone."""
