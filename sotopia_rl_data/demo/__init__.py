"""A dialogue with a person in it: be one of the people of a scene, talk to a policy, see the rewards arrive.

    host.py       what all talks share: scenes, policies, who rewards, the ledger, the budget
    session.py    one person's dialogue: act, rewards, best-of-N, SOTOPIA-EVAL
    saving.py     a talk as an episode with its rewards, in the next version of a dataset
    view.py       a talk as HTML
    page.py       the page, in Gradio
    space.py      a folder that runs as a Hugging Face Space

No module but page.py imports Gradio.
"""
