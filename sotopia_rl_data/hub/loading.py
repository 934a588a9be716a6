"""A program of its own: loads a release with `load_dataset`, into the cache that HF_HOME names, and counts its rows.

    python loading.py ORG/NAME COMMIT CONFIG…     # prints {"config": {"split": rows}}, the default config under ""

It imports nothing of this project, so that it loads the release as any user would.
"""

import json
import sys


def main() -> None:
    from datasets import disable_progress_bars, load_dataset
    from pyarrow.dataset import ParquetFragmentScanOptions

    disable_progress_bars()
    lean = ParquetFragmentScanOptions(pre_buffer=False)  # else a whole shard stays in memory
    repo, commit, *configs = sys.argv[1:]
    rows = {}
    for config in (*configs, ""):
        splits = load_dataset(repo, config or None, revision=commit, fragment_scan_options=lean)
        rows[config] = {str(name): split.num_rows for name, split in splits.items()}
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
