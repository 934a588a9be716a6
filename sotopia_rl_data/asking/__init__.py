"""How any model is asked: clients, pacing, batches.

`dispatch.ask_all` is the one loop that sends requests; `providers.py` names models, `openai.py` and `anthropic.py` ask
them through `transport.py`, and `local.py` asks a model in this process. Left out: what the requests say and what an
answer means (the caller's business), which answers are kept (`ledger/`) and what they cost (`costs/`).
"""
