"""Asking at half the price and within a day: OpenAI's Batch API and Anthropic's Message Batches.

`run.ask_batch` is to these what `dispatch.ask_all` is to live asking: the same requests, the same keys, the same
acceptance, the same ledger. `intent.py` writes down what is about to be submitted before it is, `fetching.py` puts the
results into the ledger, `openai.py` and `anthropic.py` speak to the providers through their SDKs.
"""
