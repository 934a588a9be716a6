"""Every answer, durable before anyone parses it: one attempt a line in a journal, folded into Parquet now and then.

`attempt.py` is the noun, `ledger.py` what is opened and asked, `lookup.py` the rule for what counts as known,
`query.py` the same as one SQL table.
"""
