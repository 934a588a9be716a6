"""A dialogue with a person in it: be one of the people of a scene, talk to a policy, see the rewards arrive.

    host.py       what all talks share: scenes, policies, who rewards, the ledger, the budget
    session.py    one person's dialogue: act, rewards, best-of-N, SOTOPIA-EVAL
    saving.py     a talk as an episode with its rewards, in the next version of a dataset

No module of these knows a page or imports Gradio.
"""
