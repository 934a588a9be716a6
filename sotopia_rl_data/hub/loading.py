"""A program of its own: what `load_dataset` makes of a release, in whatever cache HF_HOME names.

    python loading.py ORG/NAME COMMIT CONFIG…     # prints {"config": {"split": rows}}, the default config under ""

It imports nothing of this project: it stands for anyone who loads the release.
"""

import json
import sys


def main() -> None:
    from datasets import disable_progress_bars, load_dataset
    from pyarrow.dataset import ParquetFragmentScanOptions

    disable_progress_bars()
    lean = ParquetFragmentScanOptions(pre_buffer=False)  # else a whole shard is held until its last row is read
    repo, commit, *configs = sys.argv[1:]
    rows = {}
    for config in (*configs, ""):
        splits = load_dataset(repo, config or None, revision=commit, fragment_scan_options=lean)
        rows[config] = {str(split): one.num_rows for split, one in splits.items()}
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
