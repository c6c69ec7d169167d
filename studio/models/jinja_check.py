"""Try a chat template in a process of its own that may neither hang nor eat memory: templates come from strangers.

The sandbox of transformers keeps a template from the machine, and from nothing else: one line can run for ever or ask
for a terabyte, and a single operation of Python cannot be stopped from within. So the process that renders has an alarm
and a limit on its memory.

``python -m studio.models.jinja_check`` reads one JSON object from stdin: ``template``, ``messages``, ``variables``,
``tools`` (a list or null) and ``seconds`` (its time limit). It writes one to stdout: ``{"text": ...}``; or
``{"error": ..., "line": ..., "kind": ...}`` with a line of the template or null, and ``broken`` (it cannot be
compiled), ``fails``, ``memory`` or ``length``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.jobs.environment import without_secrets

SECONDS = 5  # for compiling and rendering; starting the process does not count
MEMORY_BYTES = 2 * 1024**3
CHARACTERS = 1_000_000
_START_SECONDS = 120  # a cold disk and a busy machine; far more than a process ever needs

_GENERATION_TAGS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def try_template(template: str, messages: Sequence[dict], variables: dict, tools: list | None = None) -> str:
    """Render a chat template as transformers does, within bounds of time, memory and length.

    Args:
        template: Jinja text.
        messages: dicts with ``role`` and ``content``; keys whose value is None are left out, as transformers does.
        variables: what else the template may name: the special tokens, ``add_generation_prompt``.
        tools: JSON schemas of functions, or None.

    Returns:
        The text, at most 1,000,000 characters of it.

    Raises:
        StudioError: the template is broken, fails, takes longer than 5 seconds, needs more than 2 GB of memory or
            writes more than 1,000,000 characters.
    """
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    request = {"template": template, "messages": chat, "variables": variables, "tools": tools}
    request["seconds"] = SECONDS
    one_thread = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studio.models.jinja_check"],
            input=json.dumps(request, default=str),  # only ASCII, so any text survives the pipe
            capture_output=True,
            text=True,
            timeout=_START_SECONDS + SECONDS,
            cwd=Path(__file__).resolve().parents[2],
            env=without_secrets() | one_thread,  # each thread of a numeric library would take from the memory's limit
        )
    except subprocess.TimeoutExpired as error:
        raise _too_slow() from error
    if done.returncode == 0:
        answer = json.loads(done.stdout.splitlines()[-1])
        if "text" in answer:
            return answer["text"]
        raise _refusal(answer)
    if _alarmed(done.returncode):
        raise _too_slow()
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0 or last.startswith("MemoryError"):  # killed by the system, or out of memory twice over
        raise _refusal({"kind": "memory"})
    raise _refusal({"kind": "fails", "error": last, "line": None})


def needs_trying(template: str) -> bool:
    """Whether a template could run for long or grow without bound, as far as can be told without running it.

    It is parsed, never compiled: compiling already works out constants such as ``9 ** 9 ** 9``.
    """
    import jinja2
    from jinja2 import nodes

    if len(template) > 100_000:
        return True
    try:
        text = _GENERATION_TAGS.sub("", template)
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
        # The rule. A template is trusted without a try only if all its parts are known not to grow much. (1) It has
        # nothing but the kinds of nodes, filters and calls listed below: no range, no macro, no "*", "**", "%" or "~",
        # no namespace, nothing that pads. (2) Its loops run over what is passed in (messages, tools and their parts),
        # never over what it made itself, and stand at most two deep. (3) A variable that is made of n others is at most
        # n times as long as the longest of them, and the product of all these n is small; join and tojson, which make
        # text longer too, count 8 and do not follow each other. ChatML and the families of Llama keep to all three.
        own: set[str] = set()  # names of what the template made itself
        growth = 1
        for node in tree.find_all(nodes.Node):
            if not _KINDS.fullmatch(type(node).__name__):
                return True
            if isinstance(node, nodes.Filter) and not _known_filter(node):
                return True
            if isinstance(node, nodes.Call) and not _CALLS.fullmatch(_called(node)):
                return True
            if isinstance(node, nodes.For) and (node.recursive or not _passed_in(node.iter, own)):
                return True
            if isinstance(node, nodes.Assign):
                if not isinstance(node.target, nodes.Name):
                    return True
                if not _passed_in(node.node, own):
                    own.add(node.target.name)
                    inside = [node.node, *node.node.find_all(nodes.Node)]
                    growth *= max(1, sum(isinstance(part, nodes.Name) for part in inside))
                    growth *= 8 if any(_lengthens(part) for part in inside) else 1
        return growth > 10_000 or _depth(tree) > 2
    except (jinja2.TemplateSyntaxError, RecursionError):
        return True


_KINDS = re.compile(
    "Template|Output|TemplateData|Const|Name|Getattr|Getitem|Slice|For|If|Assign|Not|And|Or|Compare|Operand|Test|"
    "CondExpr|Add|Sub|Neg|Filter|Call|Keyword|List|Tuple|Dict|Pair|Break|Continue"
)
_FILTERS = re.compile(
    "trim|length|count|list|items|first|last|lower|upper|capitalize|title|string|int|default|d|select|reject|"
    "selectattr|rejectattr"
)
_CALLS = re.compile(
    "raise_exception|strftime_now|strip|lstrip|rstrip|split|startswith|endswith|get|items|keys|values|lower|upper|"
    "capitalize|title"
)


def _lengthens(node: Any) -> bool:
    """Whether this part of a template is a filter that makes text longer, in proportion to its length."""
    return getattr(node, "name", None) in ("join", "tojson") and hasattr(node, "args")


def _known_filter(node: Any) -> bool:
    """Whether a filter makes text at most a few times as long: a harmless one, or a single join or tojson."""
    from jinja2 import nodes

    if _lengthens(node):
        given = [*node.args, *(keyword.value for keyword in node.kwargs)]
        short = all(isinstance(value, nodes.Const) and _is_short(value.value) for value in given)
        return short and not any(_lengthens(part) for part in node.find_all(nodes.Filter))
    return _FILTERS.fullmatch(node.name) is not None


def _is_short(value: Any) -> bool:
    """An indentation or a separator that makes text at most about eight times as long."""
    return value is None or (len(value) <= 4 if isinstance(value, str) else value in range(9))


def _called(node: Any) -> str:
    """The name of the function or method that is called, or "" if it has none."""
    return getattr(node.node, "name", None) or getattr(node.node, "attr", None) or ""


def _passed_in(node: Any, own: set[str]) -> bool:
    """Whether a value is no longer than what is passed to the template, because it is that, or a part of it."""
    from jinja2 import nodes

    while isinstance(node, (nodes.Getattr, nodes.Getitem)) or (
        isinstance(node, nodes.Filter) and node.name in ("items", "list", "trim", "reject", "select")
    ):
        node = node.node
    if isinstance(node, nodes.Const):
        return not isinstance(node.value, str)
    return isinstance(node, nodes.Name) and node.name not in own


def _depth(node: Any) -> int:
    """How many loops stand within each other, at most."""
    from jinja2 import nodes

    return isinstance(node, nodes.For) + max((_depth(child) for child in node.iter_child_nodes()), default=0)


def _alarmed(code: int) -> bool:
    import signal

    return hasattr(signal, "SIGALRM") and code == -signal.SIGALRM


def _too_slow() -> StudioError:
    return _refusal({"kind": "time"})


def _refusal(answer: dict) -> StudioError:
    reason = (answer.get("error") or "no reason given").strip().rstrip(".")
    line = f" at line {answer['line']}" if answer.get("line") else ""
    what = {
        "broken": f"is broken{line}: {reason}.",
        "fails": f"fails{line}: {reason}.",
        "time": f"did not end within {SECONDS} seconds.",
        "memory": "needs too much memory.",
        "length": f"writes more than {CHARACTERS:,} characters.",
    }[answer["kind"]]
    return StudioError(
        f"The chat template {what}",
        "Correct the template, or set data.chat_template to chatml.",
        field="data.chat_template",
    )


def _render(request: dict) -> dict:
    """The answer to a request, in the process that is bounded."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    free = _bound(request["seconds"])
    try:
        texts, _ = render_jinja_template(
            [request["messages"]], tools=request["tools"], chat_template=request["template"], **request["variables"]
        )
        answer = (
            {"text": texts[0]} if len(texts[0]) <= CHARACTERS else {"kind": "length", "error": "too long", "line": None}
        )
    except MemoryError:
        free()
        return {"kind": "memory", "error": "out of memory", "line": None}
    except jinja2.TemplateSyntaxError as error:
        answer = {"kind": "broken", "error": error.message, "line": error.lineno}
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        jinja2.TemplateError,
    ) as error:
        answer = {"kind": "fails", "error": str(error)[:500] or type(error).__name__, "line": _line(error)}
    free()
    return answer


def _line(error: Exception) -> int | None:
    """The line of the template where a rendering failed: Jinja puts a frame of the template into the traceback."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), None)


def _bound(seconds: float) -> Any:
    """Bound this process from here on: the system kills it after so many seconds, and refuses memory beyond the limit.

    Returns:
        A function that takes the bounds away again.
    """
    if sys.platform == "win32":  # has neither; there the process that waits ends this one
        return lambda: None
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # macOS does not keep to it
        allowed = [MEMORY_BYTES, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def free() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return free


if __name__ == "__main__":
    print(json.dumps(_render(json.load(sys.stdin))))
