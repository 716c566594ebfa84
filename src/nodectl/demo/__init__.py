"""`nodectl demo`: a cluster on this PC is hurt in several ways, and what it promises is measured."""
