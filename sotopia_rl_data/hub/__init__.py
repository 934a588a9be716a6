"""The Hub: a release of a dataset repository holds exactly a version of the store. Models are released the same way.

client.py                  repositories, commits and files of the Hub; its errors as ours
release.py plan.py         the files of a release, and the steps that bring a repository to it
push.py commit.py          ONE commit on top of the head that was planned for, then the tag; after a fault, a new plan
checking.py loading.py     the release read back; what `load_dataset` makes of it, in a process of its own
leaks.py                   keys, tokens and paths that must not be published
pull.py foreign.py         a release into the store, checked file by file; other people's datasets through the importers
resolve.py                 the version that a reference names: from the store first, then from the Hub

`Dataset.push_to_hub` and `upload_folder` are never used: both make several commits, and a failure between them leaves
`main` with old and new rows mixed. Nothing is imported before it is needed.
"""
