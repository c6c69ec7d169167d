"""The built-in chat templates, as data: what each writes, the tokens it needs and how it ends the assistant's turn.

Each has transformers' ``{% generation %}`` markers around what the assistant says and its end of turn, and nothing
else. What follows the end of turn (a newline) stands outside: no model has to produce it. A generation prompt is
exactly the text before the next answer, so that inference goes on where training began. For the same reason the blank
before an answer of Mistral, and of plain text, is the assistant's: most tokenizers write it into the first word's
token, which a prompt that ends in a blank would tear apart.

A message without content, or with None for it, prints nothing but its frame.
"""

from __future__ import annotations

from dataclasses import dataclass

START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class BuiltinTemplate:
    """A chat template that comes with the studio.

    Attributes:
        name: what ``data.chat_template`` calls it.
        title: what a sentence calls it.
        template: Jinja text without a beginning-of-sequence token; the tokenizer decides whether there is one.
        special_tokens: the tokens that frame the messages, ``end`` among them; a tokenizer that lacks them gets them.
        end: the token that ends the assistant's turn; None if that is the tokenizer's own end-of-text token.
    """

    name: str
    title: str
    template: str
    special_tokens: tuple[str, ...] = ()
    end: str | None = None


CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] or '') + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- (message['content'] or '') + '<|im_end|>' }}"
    "{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# What a tool returns comes from "ipython", as in Llama 3.1 and later.
LLAMA3 = (
    "{%- for message in messages %}"
    "{%- set name = 'ipython' if message['role'] == 'tool' else message['role'] %}"
    "{{- '<|start_header_id|>' + name + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] or '') + '<|eot_id|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- (message['content'] or '') + '<|eot_id|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)

# A system message opens the user's turn that follows it; one that no user follows has the turn to itself.
GEMMA = (
    "{%- for message in messages %}"
    "{%- set said = message['content'] or '' %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<start_of_turn>model\\n' }}"
    "{%- generation %}{{- said + '<end_of_turn>' }}{%- endgeneration %}"
    "{{- '\\n' }}"
    "{%- elif message['role'] == 'tool' %}"
    "{{- '<start_of_turn>tool\\n' + said + '<end_of_turn>\\n' }}"
    "{%- else %}"
    "{%- if (loop.previtem or {})['role'] != 'system' %}"
    "{{- '<start_of_turn>user\\n' }}"
    "{%- endif %}"
    "{{- said }}"
    "{%- if message['role'] == 'system' and (loop.nextitem or {})['role'] in ['system', 'user'] %}"
    "{{- '\\n\\n' if said }}"
    "{%- else %}"
    "{{- '<end_of_turn>\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
)

MISTRAL = (
    "{%- for message in messages %}"
    "{%- set said = message['content'] or '' %}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (' ' + said if said else '') + eos_token }}{%- endgeneration %}"
    "{%- elif message['role'] == 'tool' %}"
    "{{- '[TOOL_RESULTS] ' + said + ' [/TOOL_RESULTS]' }}"
    "{%- else %}"
    "{%- if (loop.previtem or {})['role'] != 'system' %}{{- '[INST] ' }}{%- endif %}"
    "{{- said }}"
    "{%- if message['role'] == 'system' and (loop.nextitem or {})['role'] in ['system', 'user'] %}"
    "{{- '\\n\\n' if said }}"
    "{%- else %}"
    "{{- ' [/INST]' }}"
    "{%- endif %}"
    "{%- endif %}"
    "{%- endfor %}"
)

PHI = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] or '') + '<|end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- (message['content'] or '') + '<|end|>' }}"
    "{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)

ALPACA = (
    "{%- set heads = {'user': '### Instruction:\\n', 'tool': '### Input:\\n', 'assistant': '### Response:\\n'} %}"
    "{%- for message in messages %}"
    "{{- '' if loop.first else '\\n\\n' }}"
    "{{- heads[message['role']] or '' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] or '') + eos_token }}{%- endgeneration %}"
    "{%- else %}"
    "{{- message['content'] or '' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '\\n\\n' + heads['assistant'] }}{%- endif %}"
)

PLAIN = (
    "{%- for message in messages %}"
    "{%- set said = ' ' + message['content'] if message['content'] else '' %}"
    "{{- '' if loop.first else '\\n' }}"
    "{{- message['role'] | capitalize + ':' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- said + eos_token }}{%- endgeneration %}"
    "{%- else %}"
    "{{- said }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '\\nAssistant:' }}{%- endif %}"
)

BUILTIN: dict[str, BuiltinTemplate] = {
    known.name: known
    for known in (
        BuiltinTemplate("chatml", "ChatML", CHATML, (START, END), END),
        BuiltinTemplate(
            "llama3", "Llama 3", LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"
        ),
        BuiltinTemplate("gemma", "Gemma", GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
        BuiltinTemplate("mistral", "Mistral", MISTRAL),
        BuiltinTemplate("phi", "Phi", PHI, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>"),
        BuiltinTemplate("alpaca", "Alpaca", ALPACA),
        BuiltinTemplate("plain", "Plain text", PLAIN),
    )
}
