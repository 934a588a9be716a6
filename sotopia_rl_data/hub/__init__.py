"""The Hub: a version of the store and a release of a dataset repository are the same thing.

    push     plan, upload, ONE commit against the head it was planned from, tag, verify     push.py
    pull     a release into the store, checked file by file against its manifest            pull.py
    resolve  what a reference stands for: the store first, then the Hub                     resolve.py

`Dataset.push_to_hub` and `upload_folder` are never used: both make several commits, and a failure between them leaves
`main` with old and new rows mixed. Everything that talks to the Hub goes through `client.Hub`; nothing is imported
before it is needed.
"""
