"""One browser sends hostile inputs; the form of another one is answered all the while, and nothing of a model runs."""

from __future__ import annotations

import json
import shutil
import threading
import time

import httpx
import pytest
from safetensors.numpy import save_file
from tiny import make_tiny_chat_model, set_config

from studio.models import remote_code
from studio.recipe import Recipe
from studio.runs import Launcher
from studio.ui.app import build, launch_options
from studio.ui.context import AppContext
from studio.workspace import Workspace

pytestmark = pytest.mark.slow
SECONDS = 3.0  # within which the other browser is answered on a machine with nothing else to do
NOISE = 5.0  # times as long on a machine that is shared with other tests


class Browser:
    """Sends the events of a page over HTTP, with the values that its components have at first, or others."""

    def __init__(self, address: str, page, session: str):
        self._address, self._page, self._session = address, page, session
        self._client = httpx.Client(timeout=60)

    def _data(self, function, changed: dict) -> list:
        values = []
        for component in function.inputs:
            value = changed.get(component.elem_id, getattr(component, "value", None))
            values.append(value() if callable(value) else value)
        return values

    def send(self, name: str, **changed) -> httpx.Response:
        """An event that is answered at once."""
        number, function = self._find(name)
        body = {"fn_index": number, "data": self._data(function, changed), "session_hash": self._session}
        return self._client.post(f"{self._address}gradio_api/run/predict", json=body)

    def queue(self, name: str, **changed) -> httpx.Response:
        """An event that goes through the queue; its answer is not waited for."""
        number, function = self._find(name)
        body = {"fn_index": number, "data": self._data(function, changed), "session_hash": self._session}
        return self._client.post(f"{self._address}gradio_api/queue/join", json=body)

    def _find(self, name: str):
        return next((n, f) for n, f in self._page.fns.items() if getattr(f.fn, "__name__", "") == name)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
def model(home):
    return make_tiny_chat_model(home / "model")


def damage(name: str, recipe: str, events: str) -> None:
    """A run folder in the workspace that nobody can read."""
    folder = Workspace.current().runs / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "events.jsonl").write_text(events)


@pytest.fixture(scope="module")
def studio(home, model):
    damage("20260101-000000-000-recipe-aaaa", "name: [", '{"kind": "finished", "step": 1}\n')
    damage("20260101-000001-000-event-aaaa", "name: event\n", '{"kind": "step", "step": "abc"}\n')
    rows = home / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"{n}."}) + "\n" for n in range(20)))
    Recipe.parse({"model": {"id": str(model)}, "data": {"source": str(rows)}}).save(Workspace.current().draft)
    launcher = Launcher()
    context = AppContext(launcher)
    page = build(context)
    page.queue(default_concurrency_limit=8)
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **launch_options())
    yield address.rstrip("/") + "/", page
    page.close()
    context.viewer.close()
    launcher.close()


@pytest.fixture(scope="module")
def inputs(home, model) -> dict[str, dict]:
    """Hostile inputs by their name: what they put into which component of the form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    large = shutil.copytree(model, home / "large")
    set_config(large, num_hidden_layers=100_000_000)
    own = shutil.copytree(model, home / "own")
    (own / "own.py").write_text(f"open({str(home / 'ran')!r}, 'w').write('ran')\n")
    settings = json.loads((own / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    (own / "tokenizer_config.json").write_text(json.dumps(settings))
    empty = shutil.copytree(model, home / "empty")
    save_file({}, empty / "model.safetensors")
    wide, cell = home / "wide.csv", home / "cell.parquet"
    wide.write_text(",".join(f"c{n}" for n in range(150_000)) + "\n1\n")
    pq.write_table(pa.table({"text": ["a" * (300 << 20)]}), cell, compression="zstd")
    bomb = (
        "a: &a ["
        + ",".join("b" * 9)
        + "]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8))
    )
    return {
        "code of a model": {"model-id": str(own), "model-trust_remote_code": True},
        "layers": {"model-id": str(large)},
        "no tensors": {"model-id": str(empty)},
        "backtracking": {"method-lora-target_modules": "(([a-z._0-9])+)+[A-Z]$"},
        "mixture of aliases": {"data-mix": bomb},
        "nested mixture": {"data-mix": "[" * 50_000},
        "long text": {"data-system_prompt": "a" * (10 << 20)},
        "long source": {"data-source": "b" * (10 << 20)},
        "nul": {"data-source": "rows\x00.jsonl", "model-id": "\x00"},
        "up": {"data-source": "../" * 500 + "etc/passwd", "model-id": "../../../etc"},
        "script": {"data-source": "<script>alert(1)</script>", "model-id": "\u202e<img src=x onerror=alert(1)>"},
        "disk": {"data-source": "/"},
        "wide": {"data-source": str(wide)},
        "cell": {"data-source": str(cell)},
        "loop": {
            "data-chat_template": "{% for m in messages %}{{ (7 ** (10 ** 9 * messages | length)) % 3 }}{% endfor %}"
        },
        "many at once": {"data-source": 7, "data-max_length": "x", "method": ["lora"], "train-seed": {"a": 1}},
    }


def test_security_must_hold_6_a_second_browser_is_answered_while_one_sends_hostile_inputs(studio, inputs, home):
    address, page = studio
    second = Browser(address, page, "second")
    assert second.send("edited").status_code == 200  # warm: the process of the previews has started
    times: list[float] = []
    during: dict[str, int] = dict.fromkeys(inputs, 0)
    current = [""]
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            name, begun = current[0], time.monotonic()
            answer = second.send("edited", **{"train-seed": len(times)})  # never the same question again
            times.append(time.monotonic() - begun)
            assert answer.status_code == 200
            if name:
                during[name] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    statuses = {}
    try:
        for name, changed in inputs.items():
            first = Browser(address, page, f"hostile {name}")
            current[0] = name
            first.queue("look", **changed)
            statuses[name] = first.send("edited", **changed).status_code
            end = time.monotonic() + 20
            while not during[name] and time.monotonic() < end:
                time.sleep(0.01)
    finally:
        ended.set()
        watcher.join(timeout=60)
    print(f"\nanswers of the second browser: {len(times)}, slowest {max(times):.2f} s, statuses {statuses}")
    assert not (home / "ran").exists()
    assert all(during.values()), during  # it was answered during each of them
    assert max(times) < SECONDS * NOISE
    assert not remote_code._grants()
    for route in ("gradio_api/monitoring", "gradio_api/monitoring/summary"):
        assert httpx.get(address + route).status_code in (403, 404)
