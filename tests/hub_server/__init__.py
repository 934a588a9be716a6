"""A small Hugging Face Hub for the tests: one process, loopback, datasets and models, in memory and one folder.

It speaks what huggingface_hub, datasets, transformers and trl use for repositories: create, preupload, LFS batch, PUT,
commit (parentCommit, pull requests, three-way merges), tags, branches, tree, resolve with a redirect to another origin,
ranges, private repositories, read-only tokens; and Xet, with the real hf_xet writing to a folder instead of a CAS
server. Leaves out everything else of the Hub (search, spaces, discussions that are no pull requests).

For the tests: `/__log__` lists the requests seen, `/__fault__` makes the next matching ones fail (see `faults.py`).

    state.py          repositories, commits, users, blobs; Refused, an HTTP error
    repositories.py   create, info, refs, tags, branches, commits, tree
    uploads.py        preupload, LFS, commit
    pulls.py          pull requests and their merges
    downloads.py      resolve, the second origin, Xet tokens
    xet.py            files that hf_xet left in its folder
    faults.py         what is to go wrong
    app.py            routes, and the ASGI application
    running.py        HubServer: start it in a process of its own, and talk to it

    python -m hub_server --token hf_alice=alice+org:write --token hf_bob=bob:read     # prints READY http://…
"""
