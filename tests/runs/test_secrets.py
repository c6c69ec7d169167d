"""Child processes get no tokens and keys, except those that they need."""

import json
import subprocess
import sys

import pytest

from studio.jobs.environment import HUB_TOKENS, is_secret, without_secrets
from studio.recipe import Recipe
from studio.runs.secrets import needed_secrets
from studio.runs.worker_server import worker_environment

SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
)
PLAIN = ("PATH", "HOME", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "OMP_NUM_THREADS")


@pytest.fixture
def secrets(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "secret-value")


def recipe(**sections) -> Recipe:
    return Recipe.parse(sections)


def test_security_01_names_of_secrets_are_known():
    assert [name for name in (*SECRETS, *PLAIN) if is_secret(name)] == list(SECRETS)


def test_security_01_no_secret_is_in_the_environment_of_a_child_process(secrets):
    for environment in (without_secrets(), worker_environment()):
        assert not set(SECRETS) & set(environment)
        assert environment["PATH"]


def test_security_01_a_worker_of_local_files_needs_no_secret(tmp_path):
    assert needed_secrets(recipe(model={"id": "builtin/smollm2-135m-instruct"})) == set()
    assert needed_secrets(recipe(model={"id": str(tmp_path)}, data={"source": str(tmp_path)})) == set()


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"id": "owner/model"}},
        {"model": {"adapter": "owner/adapter"}},
        {"data": {"source": "owner/data"}},
        {"data": {"mix": [{"source": "owner/data"}]}},
        {"data": {"holdout_source": "owner/data"}},
    ],
)
def test_security_01_a_worker_that_downloads_has_the_hub_token_and_nothing_else(sections, secrets):
    environment = worker_environment(needed_secrets(recipe(**sections)))
    assert set(environment) & set(SECRETS) == set(SECRETS) & set(HUB_TOKENS)


def test_security_01_a_worker_with_the_models_own_code_gets_no_token_for_the_model():
    assert needed_secrets(recipe(model={"id": "owner/model", "trust_remote_code": True})) == set()


def test_security_01_a_worker_that_reports_has_the_key_of_its_tracker(secrets):
    environment = worker_environment(needed_secrets(recipe(train={"report_to": "wandb"})))
    assert set(environment) & set(SECRETS) == {"WANDB_API_KEY"}


def test_security_01_the_process_that_tries_templates_sees_no_secret(secrets):
    """A template cannot read the environment; that of its process is empty of secrets all the same."""
    from studio.models import jinja_check

    seen = []

    class Done(Exception):
        pass

    def run(*arguments, env, **options):
        seen.append(env)
        raise Done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja_check.subprocess, "run", run)
        with pytest.raises(Done):
            jinja_check.try_template("{{ messages }}", [{"role": "user", "content": "a"}], {})
    assert not set(SECRETS) & set(seen[0])


def test_security_01_a_started_process_sees_none(secrets):
    code = "import json, os; print(json.dumps(sorted(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=without_secrets(), capture_output=True, text=True, check=True
    )
    assert not set(SECRETS) & set(json.loads(done.stdout))
