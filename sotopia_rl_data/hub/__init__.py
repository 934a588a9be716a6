"""The Hub: a version of the store and a release of a dataset repository are the same thing; models are released alike.

client.py                  repositories, commits, files of the Hub; its errors as ours
release.py plan.py         what a release consists of, and the steps from the repository as it is
push.py commit.py          ONE commit against the head that was planned from, then the tag; after a fault, planned anew
checking.py loading.py     what was published, read back; what `load_dataset` makes of it, in a process of its own
leaks.py                   keys, tokens and paths that must not be published
pull.py foreign.py         a release into the store, checked file by file; datasets of others through the importers
resolve.py                 what a reference stands for: the store first, then the Hub

`Dataset.push_to_hub` and `upload_folder` are never used: both make several commits, and a failure between them leaves
`main` with old and new rows mixed. Nothing is imported before it is needed.
"""
