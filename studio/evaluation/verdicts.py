"""Read the verdict of a judge: which of two answers, A or B, it calls better.

The judge is asked for a fixed last line, but models phrase their verdict in many ways. Letters count in upper case
only and never where they are the English article. A reply that contradicts itself has no verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

TIE = "tie"
_LONGEST = 20_000  # characters of a reply that are read, from its end
_NOUN = r"(?:answer|response|assistant|model|option|output|candidate|reply|solution|text|choice)"
_AFTER_A = (  # what may follow the letter A; any other word makes it an article
    r"(?=\s*(?:$|[.,;:!?()\]<>=—–/-]|(?:is|was|seems|looks|appears|wins|won|beats|outperforms|surpasses|comes|has|does|did|"
    r"performs|gives|gets|because|as|since|for|due|by|over|to|than|it|in|overall|here|and|or|nor|but|clearly|"
    r"slightly|loses|takes|isn't|deserves|edges|too)\b))"
)
_NAME = rf"(?:(?i:\b{_NOUN})\s+(?P<N>[AB])\b|(?:(?<![\w'-])(?P<M>A)\b{_AFTER_A})|(?<![\w'-])(?P<O>B)\b)"
_BY = (
    r"(?:clearly|clear|much|slightly|far|somewhat|definitely|overall|by far|a bit|a little|significantly|considerably|"
    r"noticeably|marginally|obviously|still|simply|just|undoubtedly|certainly|ultimately|therefore|thus|my|the|a|an|"
    r"to be|really|strictly|probably|likely),?\s+"
)
_OTHER_ASPECT = (
    r"(?!\s+(?:written|structured|organi[sz]ed|formatted|worded|phrased|presented|at|in|on|suited|explained)\b)"
)
_GOOD = rf"(?:better|best|superior|stronger|strongest|preferable|preferred|winner|winning)\b{_OTHER_ASPECT}"
_TASK = r"(?<!correct )(?<!right )(?<!true )(?<!expected )(?<!wanted )(?<!reference )"  # a task with choices has these
_LABEL = (
    rf"(?:verdict|winner|decision|preference|judge?ment|conclusion|vote|better(?:\s+{_NOUN}|\s+one)?|"
    r"best(?:\s+(?:answer|response|assistant|model|candidate|reply|one))?)"
)
_TASK_LABEL = rf"{_TASK}(?:choice|pick|selection|result|best\s+(?:choice|option)|(?:final\s+)?answer)"
_VALUE = rf"(?P<P>\()?(?:the\s+)?(?:{_NAME}|(?P<T>(?i:(?:a\s+)?(?:tie|draw)|equal|C))\b)(?(P)\)|)"
_REASON = (  # a label's value goes on with this: "A is wrong" and "A picks it" are no verdict
    rf"[,;:]?\s*(?i:\b(?:because|since|as|for|due|by|over|wins|won|beats|outperforms|between)\b|"
    rf"\b(?:is|was|seems)\s+(?:{_BY})*(?:{_GOOD}|more\b))|\s*[(—–>-]"
)
_SPOKEN = r"\b(?:I|I'd|I'll|we|we'd)\s+(?:[a-z]+\s+){0,3}?"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("{NAME}", _NAME).replace("{BY}", _BY).replace("{GOOD}", _GOOD))


_MARKED = re.compile(r"\[\[\s*(A|B|C|(?i:tie|draw))\s*\]\]")
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*(A|B|C|(?i:tie|draw))\s*\}{1,2}[\s.$]*$")
_IS = r"\s*(?::|=|-+>|→|\s[-–—]\s)\s*"
_LABELLED = [
    re.compile(rf"(?i:\b{_LABEL}{_IS}){_VALUE}(?=\s*(?:$|[.,;!?)/|]|\n|(?i:or|nor|and)\b)|{_REASON})"),
    re.compile(rf"(?i:\b{_TASK_LABEL}{_IS}){_VALUE}(?=[\s.!]*(?:$|\n)|\s*[,/|]?\s*(?i:or|nor|and)\b|{_REASON})"),
]
_BARE = re.compile(rf"\(?(?:(?i:{_NOUN})\s+)?(?P<N>[AB])\)?|(?P<T>(?i:tie|draw|a tie|a draw|equal|C))")
_OPENING = re.compile(rf"\(?(?:(?i:{_NOUN})\s+)?(?P<N>[AB])\)?(?:$|[.!)]|\s*[,;—–]|\s+-|\s*\n|\s+(?i:because|since)\b)")
_STRONG = [
    _compiled(r"{NAME}\s+(?i:(?:is|was|seems|looks|appears)\s+(?:{BY})*{GOOD})"),
    _compiled(
        r"{NAME}\s+(?i:(?:{BY})*(?:wins|won|beats|outperforms|surpasses|comes out (?:ahead|on top)|has the edge|"
        r"edges out|gets my vote|takes it|deserves to win|(?:does|did|performs)\s+(?:{BY})*(?:better|best)|"
        r"(?:gives|provides|offers)\s+(?:{BY})*(?:better|best)\s+(?:answer|response|reply|solution)))\b"
    ),
    _compiled(
        r"(?i:(?:better|best(?!\s+(?:choice|option))|stronger|superior|winning|preferred|preferable|winner|"
        r"my\s+(?:choice|pick)|vote|preference|verdict|decision)\b"
        r"(?:\s+[a-z]+){0,4}?\s*(?:\bis|\bwas|\bgoes to|\bwould be|\bfalls on)\s*(?:{BY})*){NAME}"
    ),
    _compiled(r"{NAME}\s[^.;,AB]{0,60}?\band\s+(?i:(?:is|was)\s+(?:{BY})*{GOOD})"),
    _compiled(
        rf"(?:{_SPOKEN})(?i:(?:prefer|preferred|choose|chose|pick|picked|select|selected|take|favou?r|go with|"
        r"going with|go for|vote for|opt for|side with|lean towards?)\s+(?:the\s+)?){NAME}"
    ),
    _compiled(
        r"(?i:\b(?:prefer|choose|pick|select|favou?r|go with|going with|go for|vote for|opt for|side with|"
        r"lean towards?)\s+(?:the\s+)?(?:answer|response|assistant|model|candidate|reply)\s+)(?P<N>[AB])\b"
    ),
    _compiled(
        r"(?i:\b(?:rate|rank|judge|find|consider|score)\s+(?:" + _NOUN + r"\s+)?)(?P<N>[AB])"
        r"\s+(?i:(?:{BY})*(?:as\s+)?(?:{BY})*(?:{GOOD}|higher|first|above))"
    ),
    _compiled(r"{NAME}\s+(?i:over)\s+(?i:(?:the\s+)?(?:" + _NOUN + r"\s+)?)[AB]\b"),
    _compiled(r"(?<![\w<>])(?:(?i:" + _NOUN + r")\s+)?(?P<N>[AB])\s*>+\s*(?:(?i:" + _NOUN + r")\s+)?[AB]\b"),
]
_WORSE = [
    _compiled(r"{NAME}\s+(?i:(?:is|was|seems)\s+(?:{BY})*(?:worse|weaker|inferior|worst|poorer))\b"),
    _compiled(r"{NAME}\s+(?i:loses|lost|falls behind)\b"),
    _compiled(r"{NAME}\s+(?i:(?:is|was)(?:\s+not|n't)\s+as\s+good\s+as)\b"),
    _compiled(r"(?<![\w<>])(?:(?i:" + _NOUN + r")\s+)?(?P<N>[AB])\s*<+\s*(?:(?i:" + _NOUN + r")\s+)?[AB]\b"),
]
_EQUAL = [
    re.compile(
        r"(?i)\b(?:both|they|these|two|answers|responses)\b[^.!?]{0,40}?\b(?:are|were|seem)\s+(?:\w+\s+)?"
        r"(?:equal(?:ly\s+(?:good|strong|correct|helpful|valid|well|bad))?\b|equivalent|identical|tied|"
        r"the same\b|on par|comparable|of (?:the same|equal) quality)"
    ),
    re.compile(
        r"(?i)(?:\b(?:it|this|that|result|verdict)(?:'s|\s+is|\s+was)|\bcall\s+(?:it|this))\s+(?:a\s+)?(?:tie|draw)\b"
    ),
    re.compile(
        r"(?i)\b(?:no\s+(?:clear\s+)?(?:winner|difference)|neither\s+(?:answer|response|one)?\s*is\s+better|"
        r"equally good)\b"
    ),
    re.compile(r"(?<![\w<>])[AB]\s*(?:=|≈)+\s*[AB]\b|\bA and B are (?:equal(?:ly good)?\b|tied|the same\b)"),
]
_WEAK = [
    _compiled(
        r"{NAME}\s+(?i:(?:is|was|seems)\s+(?:{BY})*(?:more|most)\s+[a-z]+|(?:is|was)\s+(?:{BY})*"
        r"(?:clearer|cleaner|closer|fuller|richer|safer|sharper|simpler|tighter))"
    ),
    _compiled(r"{NAME}\s+(?i:(?:gives|provides|offers|has)\s+(?:{BY})*(?:better|best))\b"),
    _compiled(
        rf"(?:{_SPOKEN})(?i:(?:think|believe|guess|say|feel)\s+(?:that\s+)?(?:it(?:'s|\s+is)\s+)?(?:the\s+)?)"
        r"{NAME}\s*[.!]*$"
    ),
]
_QUALITY = r"\s+(?i:(?:[a-z]+\s+){0,4}?(?:better|best|superior|stronger|correct|right))\b"
_RIVAL = _compiled(r"{NAME}" + _QUALITY)  # contradicts a comparative for the other answer
_BUT_RIVAL = _compiled(r"(?i:\b(?:but|however|yet)\b)[^.!?AB]{0,30}{NAME}" + _QUALITY)  # and any sentence for it
_NEGATION = re.compile(r"(?i)\b(?:not|never|cannot|neither|nor|whether|if|unless|hardly|doubt|none)\b|n't\b")
_SCOPE = re.compile(r"(?i)[,;:]|\b(?:but|however|yet|so|therefore|although|though|while)\b")
_EITHER = re.compile(rf"\s*(?:,|/|\||(?i:\bor\b|\bnor\b|\band\b))\s*(?i:or\s+)?(?i:{_NOUN}\s+)?(?:[AB]\b|(?i:tie)\b)")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_THOUGHT_END = re.compile(r"(?i)</think(?:ing)?>")
_THOUGHT_BEGIN = re.compile(r"(?i)<think(?:ing)?>")
_MARKUP = re.compile(r"[*_`\"“”«»#]+")
_PLACES = [
    (re.compile(rf"(?i)\b(?:the\s+)?first\s+(?:{_NOUN}|one)\b|\b({_NOUN})\s+1\b"), "Answer A"),
    (re.compile(rf"(?i)\b(?:the\s+)?second\s+(?:{_NOUN}|one)\b|\b({_NOUN})\s+2\b"), "Answer B"),
]


def parse_verdict(reply: str) -> str | None:
    """``A``, ``B`` or ``tie``; None where a judge's reply says none of them, or more than one.

    What is written by the asked format (``[[A]]``, ``Verdict: A``, the letter alone) goes before sentences such as
    "Answer B is better", and these before comparatives such as "B is clearer". A format and sentences that say the
    opposite contradict each other.
    """
    text = _plain(reply)
    said = _formatted(text)
    sentences = _claims(text)
    if said:
        verdict = _one(said)
        return None if len(sentences) == 1 and TIE not in sentences and sentences != {verdict} else verdict
    return _one(sentences) if sentences else _one(_comparatives(text))


def without_thought(reply: str) -> str:
    """A reply without a reasoning model's thoughts. Their opening mark may stand in the prompt and not in the reply."""
    ends = [end.end() for end in _THOUGHT_END.finditer(reply)]
    text = reply[ends[-1] :] if ends else reply
    begin = _THOUGHT_BEGIN.search(text)
    return text[: begin.start()] if begin else text


def _plain(reply: str) -> str:
    text = without_thought(reply)[-_LONGEST:].replace("’", "'")
    for pattern, name in _PLACES:
        text = pattern.sub(name, text)
    return _MARKUP.sub("", text).strip()


def _one(found: set[str]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _formatted(text: str) -> set[str]:
    """The verdicts in the asked format, or in one that is as plain."""
    last_line = text.rsplit("\n", 1)[-1].strip()
    if only := _MARKED.fullmatch(last_line.rstrip(".")) or _BOXED.search(last_line):
        return {_value(only[1])}
    if marked := {_value(found) for found in _MARKED.findall(text)}:
        return marked
    if named := _json_verdict(text):
        return {named}
    if bare := _BARE.fullmatch(text.strip(" .!:\n\t[]{}")):
        return {_value(bare["N"] or bare["T"])}
    labelled = set()
    for found in (found for pattern in _LABELLED for found in pattern.finditer(text)):
        if _EITHER.match(text, found.end()):
            labelled |= {"A", "B"}  # "Verdict: A or B"
        else:
            labelled.add(_letter(found) or TIE)
    if labelled:
        return labelled
    last = _BARE.fullmatch(last_line.strip(" .!:\t[]"))
    return {_value(last["N"] or last["T"])} if last else set()


def _json_verdict(text: str) -> str | None:
    if not (text.startswith("{") and len(text) < 2000):
        return None
    try:
        told = json.loads(_straight(text))
    except (ValueError, RecursionError):
        return None
    values = [str(value) for key, value in told.items() if key.lower() in ("verdict", "winner", "better", "choice")]
    bare = _BARE.fullmatch(values[0].strip()) if len(values) == 1 else None
    return _value(bare["N"] or bare["T"]) if bare else None


def _straight(text: str) -> str:
    """JSON whose quotation marks were taken out as markup, with them again."""
    return re.sub(r"([\w ]+?)\s*(?=[,:}])", lambda word: json.dumps(word[1].strip()), text)


def _claims(text: str) -> set[str]:
    found = set()
    opening = _OPENING.match(text)
    if opening and not re.search(rf"\n\W*{'B' if opening['N'] == 'A' else 'A'}\s*[.):]", text):
        found |= {"A", "B"} if _EITHER.match(text, opening.end("N")) else {opening["N"]}
    for sentence in _sentences(text):
        found.update(letter for pattern in _STRONG for letter in _matches(pattern, sentence))
        found.update(
            "B" if letter == "A" else "A" for pattern in _WORSE for letter in _matches(pattern, sentence, True)
        )
        if any(_is_meant(sentence, match, True) for pattern in _EQUAL for match in pattern.finditer(sentence)):
            found.add(TIE)
        if found:
            found.update(_matches(_BUT_RIVAL, sentence))
    return found


def _comparatives(text: str) -> set[str]:
    sentences = _sentences(text)
    found = {letter for sentence in sentences for pattern in _WEAK for letter in _matches(pattern, sentence)}
    return found | {letter for sentence in sentences for letter in _matches(_RIVAL, sentence)} if found else found


def _sentences(text: str) -> list[str]:
    """Sentences that state something; questions do not."""
    return [part for part in _SENTENCE.split(text) if part and not part.rstrip().endswith("?")]


def _matches(pattern: re.Pattern[str], sentence: str, negated: bool = False) -> Iterator[str]:
    for match in pattern.finditer(sentence):
        if _is_meant(sentence, match, negated):
            letter = _letter(match)
            end = max(match.end(name) for name in match.re.groupindex if match[name])
            if match.end() == end and _EITHER.match(sentence, end):
                yield from "AB"
            else:
                yield letter


def _is_meant(sentence: str, match: re.Match[str], negated: bool) -> bool:
    """Whether a statement is not denied or doubted in its clause. ``negated`` patterns bring their own negation."""
    clause = sentence[: match.start()]
    bounds = [bound.end() for bound in _SCOPE.finditer(clause)]
    before = clause[bounds[-1] :] if bounds else clause
    return not (_NEGATION.search(before) or (not negated and _NEGATION.search(match[0])))


def _letter(match: re.Match[str]) -> str | None:
    return next((match[name] for name in ("N", "M", "O") if name in match.re.groupindex and match[name]), None)


def _value(word: str) -> str:
    return word if word in ("A", "B") else TIE
