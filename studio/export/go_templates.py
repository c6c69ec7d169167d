"""The studio's families of chat templates in Ollama's language (Go's text/template), and which family a template is.

A template is known by what it writes, not by its text: conversations of several shapes are rendered with it and with a
family's own template, and must come out the same to the letter. So a model's own ChatML is known however it is
written, and nothing is guessed. What begins a sequence (``<s>``) is left out: Ollama puts it in by the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.data.writer import REFUSALS
from studio.errors import StudioError
from studio.models.templates import BUILTIN

_EOS = "@EOS@"  # where the tokenizer's own end token goes

# {{ .Role }} and {{ .Content }} are those of each message of the conversation, the system message among them. Each ends
# with what stands before the next answer.
GO = {
    "chatml": (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    ),
    "llama3": (
        '{{ range .Messages }}<|start_header_id|>{{ if eq .Role "tool" }}ipython{{ else }}{{ .Role }}{{ end }}'
        "<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "gemma": (
        '{{ $open := false }}{{ range .Messages }}{{ if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}'
        '<end_of_turn>\n{{ else if eq .Role "system" }}<start_of_turn>user\n{{ .Content }}'
        "{{ if .Content }}\n\n{{ end }}{{ $open = true }}{{ else }}{{ if not $open }}<start_of_turn>{{ .Role }}\n"
        "{{ end }}{{ .Content }}<end_of_turn>\n{{ $open = false }}{{ end }}{{ end }}<start_of_turn>model\n"
    ),
    "mistral": (
        '{{ $open := false }}{{ range .Messages }}{{ if eq .Role "assistant" }}'
        "{{ if .Content }} {{ .Content }}{{ end }}"
        f'{_EOS}{{{{ else if eq .Role "tool" }}}}[TOOL_RESULTS] {{{{ .Content }}}} [/TOOL_RESULTS]'
        '{{ else if eq .Role "system" }}[INST] {{ .Content }}{{ if .Content }}\n\n{{ end }}{{ $open = true }}{{ else }}'
        "{{ if not $open }}[INST] {{ end }}{{ .Content }} [/INST]{{ $open = false }}{{ end }}{{ end }}"
    ),
    "phi": "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
    "alpaca": (
        '{{ range $i, $m := .Messages }}{{ if $i }}\n\n{{ end }}{{ if eq .Role "user" }}### Instruction:\n'
        '{{ else if eq .Role "tool" }}### Input:\n{{ else if eq .Role "assistant" }}### Response:\n{{ end }}'
        f'{{{{ .Content }}}}{{{{ if eq .Role "assistant" }}}}{_EOS}{{{{ end }}}}{{{{ end }}}}\n\n### Response:\n'
    ),
    "plain": (
        '{{ range $i, $m := .Messages }}{{ if $i }}\n{{ end }}{{ if eq .Role "system" }}System:'
        '{{ else if eq .Role "user" }}User:{{ else if eq .Role "tool" }}Tool:{{ else }}Assistant:{{ end }}'
        '{{ if .Content }} {{ .Content }}{{ end }}{{ if eq .Role "assistant" }}'
        f"{_EOS}{{{{ end }}}}{{{{ end }}}}\nAssistant:"
    ),
}


@dataclass(frozen=True)
class OllamaTemplate:
    """A chat template in Ollama's language.

    Attributes:
        family: a name of ``studio.models.templates.BUILTIN``.
        template: Go's text/template, over ``.Messages``.
        system: what the template says where a conversation has no system message of its own; empty for nothing.
        end: the text that ends the assistant's turn.
        notes: one sentence for each thing that the Jinja template does and Ollama's language cannot.
    """

    family: str
    template: str
    system: str
    end: str
    notes: tuple[str, ...] = ()


def translate(tokenizer: Any) -> OllamaTemplate:
    """A tokenizer's chat template in Ollama's language.

    Raises:
        StudioError: it is of none of the families that the studio knows.
    """
    for name in GO:
        known = _as_family(tokenizer, name)
        if known:
            return known
    titles = ", ".join(BUILTIN[name].title for name in GO)
    raise StudioError(
        "This run's chat template is none of those that are translated for Ollama, and a guess would change what the "
        f"model reads ({titles} are).",
        "Write the TEMPLATE of a Modelfile by hand and check it against the preview, or train with one of these in "
        "data.chat_template.",
    )


def _as_family(tokenizer: Any, name: str) -> OllamaTemplate | None:
    """The translation, if the tokenizer's template writes what this family's writes; else None."""
    end = BUILTIN[name].end or tokenizer.eos_token
    if not end:
        return None
    if not all(_same(tokenizer, name, messages) for messages in _conversations(" a", with_system=True, trimmed=True)):
        return None
    system = _default_system(tokenizer, name)
    if system is None:
        return None
    before = [{"role": "system", "content": system}] if system else []
    if not all(_same(tokenizer, name, m, before) for m in _conversations(" a", with_system=False, trimmed=True)):
        return None
    if '"""' in system:  # would end the Modelfile's own quotes
        return None
    notes = _differences(tokenizer, name)
    if notes is None:
        return None
    return OllamaTemplate(name, GO[name].replace(_EOS, tokenizer.eos_token or ""), system, end, notes)


def _differences(tokenizer: Any, name: str) -> tuple[str, ...] | None:
    """What a template does with blanks at the ends of messages and with reasoning, beyond its family; None if it is
    something else than taking these out."""
    notes = []
    for conversation in [*_conversations(" a ", with_system=True), *_conversations("\na\n", with_system=True)]:
        bare = [{**message, "content": message["content"].strip()} for message in conversation]
        if not _same(tokenizer, name, conversation):
            if not _same(tokenizer, name, conversation, instead=bare):
                return None
            notes.append("The model's own template takes blanks off the ends of messages, which Ollama's cannot.")
    thought = _conversations(" a", with_system=True, trimmed=True)[1]
    thought[2] = {**thought[2], "content": "<think>\nhm\n</think>\n\nYes."}
    if not _same(tokenizer, name, thought):
        notes.append("The model's own template treats the reasoning of earlier answers apart, which Ollama's does not.")
    return tuple(dict.fromkeys(notes))


def _conversations(text: str, *, with_system: bool, trimmed: bool = False) -> list[list[dict[str, str]]]:
    """Of one and of three turns; every message has words of its own."""
    made = []
    for turns in (1, 3):
        roles = ["system"] * with_system + ["user", "assistant"] * (turns - 1) + ["user"]
        words = [f"{text}{number}-{role}-7{text[:0:-1]}" for number, role in enumerate(roles)]
        words = [word.strip() for word in words] if trimmed else words
        made.append([{"role": role, "content": word} for role, word in zip(roles, words, strict=True)])
    return made


def _same(
    tokenizer: Any,
    name: str,
    messages: list[dict],
    before: list[dict] | None = None,
    instead: list[dict] | None = None,
) -> bool:
    """Whether both write the same, with and without the beginning of an answer.

    Args:
        before: messages that the family gets in front.
        instead: what the family gets in place of ``messages``.
    """
    for opened in (True, False):
        own = _render(tokenizer, None, messages, opened)
        if own is None or own != _render(tokenizer, name, [*(before or []), *(instead or messages)], opened):
            return False
    return True


def _default_system(tokenizer: Any, name: str) -> str | None:
    """What the template says without a system message: found where the family has one, between the same words."""
    (messages, *_) = _conversations(" a", with_system=False, trimmed=True)
    own = _render(tokenizer, None, messages, True)
    if own is None or own == _render(tokenizer, name, messages, True):
        return None if own is None else ""
    mark = "@@SYSTEM@@"
    framed = _render(tokenizer, name, [{"role": "system", "content": mark}, *messages], True)
    head, _, tail = (framed or "").partition(mark)
    if framed and own.startswith(head) and own.endswith(tail) and len(own) > len(head) + len(tail):
        return own[len(head) : len(own) - len(tail)]
    return None


def _render(tokenizer: Any, name: str | None, messages: list[dict], opened: bool) -> str | None:
    """A conversation by the tokenizer's own template, or by a family's; None if it is refused. Without ``<s>``."""
    template = BUILTIN[name].template if name else None
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=opened, tokenize=False
        )
    except REFUSALS:
        return None
    begin = tokenizer.bos_token
    # ChatML's own first token is the beginning of a sequence for some tokenizers; then it is part of the turn
    starts_turn = begin is not None and any(begin in special for special in BUILTIN[name or "chatml"].special_tokens)
    return text.removeprefix(begin) if begin and name is None and not starts_turn else text
