"""What the encoder makes of random conversations with every chat template of TRL; writes docs/chat-templates.md.

python benchmarks/chat_templates.py
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "data")]

from template_zoo import FEATURES, NAMES, check_exact, conversation, tokenizer_of, verdict  # noqa: E402

from studio.data.encode import encode_conversation  # noqa: E402
from studio.data.flags import FLAGS  # noqa: E402

ROWS = 12  # random conversations of each kind
TITLES = {
    "plain": "One reply",
    "turns": "Several replies",
    "system": "System message",
    "tools": "Tool calls",
    "reasoning": "Reasoning",
    "reasoning_turns": "Reasoning, several replies",
}
REFUSALS = {
    "message_lost": "the template leaves out a message, or a part of a function call",
    "reasoning_lost": "the template leaves out the reasoning of the last reply",
    "template_refused": "the template raises an error for this conversation",
    "turn_not_closed": "no special token ends the reply, so a model would not learn to stop",
    "mask_not_exact": "the place of a reply cannot be found for certain",
}
TOP = """# Chat templates

What the encoder makes of {rows} random conversations of each kind with each of TRL's {count} chat templates (a
byte-level tokenizer with the special tokens that the template names). The table is written by
`python benchmarks/chat_templates.py`; `tests/data/test_template_properties.py` holds the property behind it.

- **exact**: every word of the conversation is in the rendered text. For each reply, the tokens of its generation
  prompt, as the chat makes them, are a prefix of the row. They carry no loss; the reply and its end-of-turn token do.
- **flagged**: the row is trained, and `preview`, `check` and the page name the code.
- **refused**: the row cannot be trained on with this template; the refusal has a code.

With `data.split_turns` each reply gets an example of its own, in exactly the context that the model sees at inference.
This resolves `reply_differs` and `reasoning_dropped`, and `context_mismatch` where an earlier reply causes it.
Templates whose generation prompt opens a thought keep `context_mismatch` for replies without reasoning.

| code | meaning |
| --- | --- |
{codes}

"""


def cell(name: str, feature: str) -> str:
    """The verdicts on random conversations of a kind: ``exact``, or counts with codes."""
    made, seen = tokenizer_of(name), Counter()
    for seed in range(ROWS):
        messages, tools = conversation(feature, seed)
        result, codes = verdict(made, messages, tools)
        if result == "exact":
            check_exact(made, messages, tools, encode_conversation(made, messages, tools=tools))
        seen[" ".join([result, *(f"`{code}`" for code in codes)])] += 1
    if len(seen) == 1:
        return next(iter(seen))
    return "<br>".join(f"{count}/{ROWS} {what}" for what, count in seen.most_common())


def main() -> None:
    meanings = {code: what for code, (_, what, _) in FLAGS.items()} | REFUSALS
    table = {name: [cell(name, feature) for feature in FEATURES] for name in NAMES}
    used = [code for code in meanings if any(f"`{code}`" in each for row in table.values() for each in row)]
    codes = "\n".join(f"| `{code}` | {meanings[code]} |" for code in used)
    lines = [f"| template | {' | '.join(TITLES[feature] for feature in FEATURES)} |", "| --- " * 7 + "|"]
    lines += [f"| `{name}` | {' | '.join(row)} |" for name, row in table.items()]
    page = TOP.format(rows=ROWS, count=len(NAMES), codes=codes) + "\n".join(lines) + "\n"
    (ROOT / "docs" / "chat-templates.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
