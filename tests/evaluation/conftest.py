from tests.inference.conftest import base, engine, models, workspace  # noqa: F401  fixtures
