"""The store: immutable version directories in the layout of a Hub dataset repository, so that any reader can use them.

store.py versions.py        finds versions; what a version is and how it is numbered; both import nothing heavy
stage.py                    where the next version is written, and the rename that makes it visible
parts.py ordering.py        rows in any order to sorted Parquet shards, in bounded memory
columns.py digest.py        which column types there are, and the canonical digest of rows
manifest.py readme.py       the description of a version: for programs, and for people and `load_dataset`
disk.py verify.py           durable files; whether a version is still what its manifest says
"""

from sotopia_rl_data.store.store import ENVIRONMENT as ENVIRONMENT
from sotopia_rl_data.store.store import Store as Store
from sotopia_rl_data.store.versions import Version as Version
from sotopia_rl_data.store.versions import load as load
