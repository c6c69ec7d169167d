"""``python -m studio.training RUN_DIR``: the worker process. Its exit code is 0 if the run finished or was stopped."""

import sys
from pathlib import Path

from studio.training.worker import train

if __name__ == "__main__":
    sys.exit(0 if train(Path(sys.argv[1])) in ("finished", "stopped") else 1)
