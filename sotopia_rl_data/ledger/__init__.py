"""Every answer, durable before anyone parses it: attempts are lines of a journal, compacted into Parquet now and then.

`attempt.py` is one attempt, `ledger.py` the class that others use, `journal.py` appends, `index.py` finds, `calls.py`
reads the files as one table, also by SQL, and compacts them, `lines.py` makes lookups in what was compacted quick.
`lookup.py` has the rule for what counts as answered, `claims.py` which of several processes asks.
"""
