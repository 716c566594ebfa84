"""The hosts themselves: namespaces, the bridge between them, disks, clocks, and the PCs on them."""
