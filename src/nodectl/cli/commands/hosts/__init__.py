"""`nodectl host`: makes PCs a cluster. The work is done by `hostd.setup`; here are options, progress and tables."""
