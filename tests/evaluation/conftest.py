import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "inference"))  # as pytest does for the tests in there

from lora_runs import base, engine, models, workspace  # noqa: F401  fixtures
