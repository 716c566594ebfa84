"""Makes an inventory from the rows of a table: a CSV file, or a table or query of an SQL database.

`mapping.py`: which column is which field. `csv_table.py`, `sql_table.py`: read the rows. `build.py`: makes the nodes.
"""
