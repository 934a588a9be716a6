"""How any model is asked: clients, pacing, batches.

`dispatch.ask_all` is the one loop; `providers.py` names models, `openai.py` and `anthropic.py` ask them through
`transport.py`, `local.py` asks one in this process. Left out: what is asked and what an answer means (the caller's
business), what is kept (`ledger/`), what it costs (`costs/`).
"""
