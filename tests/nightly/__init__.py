"""`make nightly`: everything that takes too long, or too much of the machine, for `make test`.

`jobs.toml` lists the jobs; each belongs to a make target of its own. With a limit only a part runs, drawn by a seed.
"""
