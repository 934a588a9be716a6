"""Every answer, durable before anyone parses it: one attempt a line in a journal, folded into Parquet now and then.

`attempt.py` is the noun, `ledger.py` what is opened and asked, `calls.py` its files as one table, also for SQL.
`journal.py` appends, `compaction.py` folds, `index.py` finds; `lookup.py` is the rule for what counts as known.
"""
