"""As much of Go's text/template as the studio's Modelfiles use: range, if, else if, else, end, variables, eq, not."""

import re


def render(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama would make of a conversation."""
    parts = re.split(r"\{\{(.*?)\}\}", template, flags=re.S)
    tokens = [(text.strip(), True) if number % 2 else (text, False) for number, text in enumerate(parts)]
    body, rest = _block(tokens, 0)
    assert rest == len(tokens)
    return _run(body, {".Messages": messages}, {})


def _block(tokens, at):
    """Nodes up to an ``else`` or ``end`` that is not theirs, and where that is."""
    nodes = []
    while at < len(tokens):
        text, code = tokens[at]
        word = text.split()[0] if code else ""
        if word in ("else", "end"):
            break
        at += 1
        if word == "range":
            body, at = _block(tokens, at)
            assert tokens[at][0] == "end"
            nodes.append(("range", text, body))
            at += 1
        elif word == "if":
            branches, condition = [], text.removeprefix("if ")
            while True:
                body, at = _block(tokens, at)
                branches.append((condition, body))
                ending = tokens[at][0]
                at += 1
                if ending == "end":
                    break
                condition = ending.removeprefix("else").strip().removeprefix("if ").strip() or "true"
            nodes.append(("if", branches))
        else:
            nodes.append(("code" if code else "text", text))
    return nodes, at


def _run(nodes, dot, variables):
    out = ""
    for kind, *rest in nodes:
        if kind == "text":
            out += rest[0]
        elif kind == "range":
            names = re.findall(r"\$\w+", rest[0])
            for number, message in enumerate(dot[".Messages"]):
                inner = {".Role": message["role"], ".Content": message["content"]}
                variables |= dict(zip(names, (number, message), strict=False))
                out += _run(rest[1], inner, variables)
        elif kind == "if":
            for condition, body in rest[0]:
                if _value(condition, dot, variables):
                    out += _run(body, dot, variables)
                    break
        elif match := re.fullmatch(r"(\$\w+) :?= (.+)", rest[0]):
            variables[match[1]] = _value(match[2], dot, variables)
        else:
            out += _value(rest[0], dot, variables)
    return out


def _value(text, dot, variables):
    words = re.findall(r'"[^"]*"|\S+', text)
    if words[0] == "eq":
        return _value(words[1], dot, variables) == _value(words[2], dot, variables)
    if words[0] == "not":
        return not _value(words[1], dot, variables)
    (word,) = words
    if word.startswith('"'):
        return word[1:-1]
    if word in ("true", "false"):
        return word == "true"
    return variables[word] if word.startswith("$") else dot[word]
