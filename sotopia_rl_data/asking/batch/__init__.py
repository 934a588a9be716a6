"""Asking at half the price and within a day: OpenAI's Batch API and Anthropic's Message Batches.

`run.ask_batch` does in batches what `dispatch.ask_all` does live: the same requests, the same keys, the same rule for
what counts as an answer, the same ledger. `intent.py` records a batch on disk before it is submitted, `fetching.py`
puts the results into the ledger, `openai.py` and `anthropic.py` call the providers.
"""
