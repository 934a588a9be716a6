"""The store: immutable version directories that are Hub-shaped, so that anything reads them as they lie.

store.py versions.py        finds versions; what one is, how it is numbered; both import nothing heavy
stage.py                    where the next one is written, and the one rename that makes it visible
parts.py ordering.py        rows in any order to sorted Parquet shards, in bounded memory
columns.py digest.py        which column types there are, and the canonical digest of rows
manifest.py readme.py       what a version says of itself: for programs, and for people and `load_dataset`
disk.py verify.py           durable files; is a version still what its manifest says
"""

from sotopia_rl_data.store.store import ENVIRONMENT as ENVIRONMENT
from sotopia_rl_data.store.store import Store as Store
from sotopia_rl_data.store.versions import Version as Version
from sotopia_rl_data.store.versions import load as load
