from lora_runs import base, engine, models, workspace  # noqa: F401  fixtures
