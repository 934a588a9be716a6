"""`python -m sotopia_rl_data.fake_provider`: prints `READY http://127.0.0.1:PORT` and serves until SIGTERM."""

from __future__ import annotations

import asyncio
import sys

from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.fake_provider.running import from_arguments


def main() -> int:
    try:
        options = from_arguments()
        from sotopia_rl_data.fake_provider.server import serve

        asyncio.run(serve(options))
    except SotopiaDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
