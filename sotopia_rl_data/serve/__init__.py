"""Rewards over HTTP, for trainers that ask a server for them: those of a reward model, or of judges.

    sources.py      what is served: a reward model's rewards …
    judging.py      … or the rewards by judges, whose answers go through the ledger
    scoring.py      requests of many clients scored together, from a bounded queue
    app.py          the endpoints, as a FastAPI application
    clients.py      reward functions for TRL and verl that ask such a server

It needs the extra `serve`, and `train` for a reward model.
"""
