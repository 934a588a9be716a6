"""A reward model as a server, for trainers that ask for rewards over HTTP.

    scoring.py      requests of many clients scored together, from a bounded queue
    app.py          the endpoints, as a FastAPI application
    clients.py      reward functions for TRL and verl that ask such a server

It needs the extra `serve` besides `train`.
"""
