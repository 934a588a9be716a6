"""How any model is asked: clients, pacing, the ledger of every answer, prices.

`request.py` has the nouns; `dispatch.ask_all` is the one loop; `ledger.Ledger` keeps each raw answer, durable before
anyone parses it; `providers.py` names models, `local.py` asks one in this process. What is asked, and what an answer
means, is the caller's business.
"""
