"""Where in a text its numbers, addresses, quotations, sentences and lines are: rules over characters, no model.

A paragraph is what stands between blank lines; quotations, brackets and sentences end with it. A sentence also ends at . ! or
?, with the quotation marks and brackets that follow it, where a blank and a capital follow (or a letter without case; after the
full stop of Chinese and Japanese, anything). The full stop of an abbreviation, of an initial or of letters with a stop after
each ("Dr.", "J.", "e.g.", "U.S.") ends none but before the end of a paragraph. A heading and an item of a list are sentences
of their own.

Every pattern is read in time that grows with the text's length alone: what can be long is matched once, by possessive
quantifiers.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

Spans = list[tuple[int, int]]

CONTEXT = 1 << 16
"""Characters on either side of the labelled ones that are searched for the ends of their paragraphs; a longer paragraph is
taken to begin and end there."""

_NUMBER = r"\d+(?:[.,:]\d+)*+"
_UNITS = (
    "%|‰|°[CF]?|per ?cent|thousand|million|billion|trillion|dollars?|cents?|euros?|pounds?|[kcmn]?m|miles?|mi|ft|feet|foot|"
    "inch(?:es)?|yards?|met(?:er|re)s?|kilomet(?:er|re)s?|[km]?g|lbs?|oz|tons?|tonnes?|kilograms?|kilos|m?l|lit(?:er|re)s?|ms|"
    "min|seconds?|minutes?|hours?|days?|weeks?|months?|years?|mph|km/h|[kMG]?Hz|[kKMGT]?B|bytes|bits|[kM]?W|k?V|am|pm|"
    r"a\.m\.|p\.m\."
)
_ADDRESS_END = r"[^\s<>\"“”]*[^\s<>\"“”.,;:!?'’)\]}]"
_PATTERNS = {
    "url": rf"(?<!\w)(?:https?://|ftp://|www\.){_ADDRESS_END}"
    rf"|(?<![\w@.-])(?:[\w-]++\.)+(?:com|org|net|edu|gov|io)\b(?:/{_ADDRESS_END})?",
    "email_address": r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++",
    "markup": r"</?[a-zA-Z][^<>\n]*+>|&(?:[a-zA-Z]++|#\d++);",
    "number": _NUMBER,
    "number_with_unit": rf"[$£€¥₹] ?{_NUMBER}(?: ?(?:thousand|million|billion|trillion|[kmb]n?)\b)?"
    rf"|(?<![\w.])(?<!\d[,:]){_NUMBER}[- ]?(?:{_UNITS})(?!\w)",
    "year": r"(?<![\w.,:$£€¥₹])(?:1[5-9]|20)\d\d(?:s\b|(?!\w))(?![.,:]\d)",
    "hyphenated_word": r"(?<![\w-])[^\W\d_]\w*+(?:[-‐‑]\w++)++",
    "ellipsis": r"…|\.{3,}+",
    "dash": r"[–—―]|--++|(?<!\S)-(?!\S)",
    "hyphen": r"(?<=\w)[-‐‑](?=\w)",
    "line_end": r"\r?\n",
    "blank_line": r"\n(?:[^\S\n]*+\n)++",
    "heading": r"^[^\S\n]*+(?:#{1,6}+[^\S\n]++\S.*+|=++[^\S\n][^\n]*=[^\S\n]*+)$",
}
_COMPILED = {name: re.compile(pattern, re.MULTILINE) for name, pattern in _PATTERNS.items()}
_LINE = re.compile(r"^([^\S\n]*+)(\w++|[^\w\s]++)", re.MULTILINE)
_ITEM = re.compile(r"^[^\S\n]*+([-*+•‣◦·]|\d{1,3}\.|\(?(?:\d{1,3}|[a-z])\))[^\S\n]++(?=\S).*+", re.MULTILINE)
_QUOTE = re.compile(r"[\"“”„«»]|\n[^\S\n]*+\n")
_QUOTE_CLOSED_BY = {'"': '"', "“": "”", "„": "“”", "«": "»"}
_SINGLE_QUOTED = re.compile(
    r"(?<![\w'‘’])['‘](?=[^\s'‘’])((?:[^'‘’\n]|\n(?!\s*\n)|(?<=\w)['’](?=\w))++)(?<!\s)['’](?!\w)"
)
_BRACKET = re.compile(r"[()\[\]{}]|\n[^\S\n]*+\n")
_BRACKET_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_STOP = re.compile(
    r"(?<![.!?…])([.!?…]++)[\"'”’»)\]]*+(?=(\s*+)[\"'“‘«(\[]*+(.?))|([。！？｡]++)[」』”’）]*+", re.DOTALL
)
_LAST_WORD = re.compile(r"[^\W\d_][\w.]*$")
_INITIALS = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
_ABBREVIATIONS = {
    "Mr", "Mrs", "Ms", "Dr", "Prof", "Rev", "Hon", "St", "Sgt", "Capt", "Lt", "Col", "Gen", "Gov", "Sen", "Rep", "Pres",
    "Messrs", "Mme", "cf", "vs", "viz", "approx", "Dept", "Vol", "Fig", "Eq",
    "Jan", "Feb", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec",
}  # fmt: skip
_NOT_BLANK = re.compile(r"\S")


def mark_spans(text: str) -> dict[str, Spans]:
    """Label to the spans of characters that have it, for labels of runs of characters, in order.

    Beside the labels: ``list_mark``, the mark that begins an item of a list; ``sentence``, from where each begins to the next.
    """
    spans = {name: [match.span() for match in pattern.finditer(text)] for name, pattern in _COMPILED.items()}
    with_unit = {start for start, _ in spans["number_with_unit"]}
    spans["year"] = [span for span in spans["year"] if span[0] not in with_unit]
    items = [(item.span(1), item.end()) for item in _ITEM.finditer(text)]
    spans["list_mark"] = [mark for mark, _ in items]
    spans["list_item"] = [(mark[0], end) for mark, end in items]
    marks = set(spans["list_mark"])
    spans["dash"] = [span for span in spans["dash"] if span not in marks]
    lines = list(_LINE.finditer(text))
    spans["line_start"] = [line.span(2) for line in lines]
    spans["indentation"] = [line.span(1) for line in lines if line[1]]
    first = [line.start(2) for line in lines]
    spans["paragraph_start"] = [
        spans["line_start"][line]
        for line in sorted({0, *(bisect_left(first, end) for _, end in spans["blank_line"])})
        if line < len(lines)
    ]
    single = [match.span(1) for match in _SINGLE_QUOTED.finditer(text)]
    spans["inside_quotes"] = single + _inside_quotes(text)
    spans["quotation_mark"] = [edge for start, end in single for edge in ((start - 1, start), (end, end + 1))]
    spans["inside_brackets"] = _inside_brackets(text)
    return spans | _sentences(text, spans)


def paragraphs_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a text that decides the labels of the characters from ``start`` to ``end``: the paragraphs they are in."""
    first, last = max(start - CONTEXT, 0), min(end + CONTEXT, len(text))
    before, after = text.rfind("\n\n", first, start), text.find("\n\n", end, last)
    return first if before < 0 else before, last if after < 0 else after + 2


def _inside_quotes(text: str) -> Spans:
    """What stands between double quotation marks. One before a blank opens nothing (12" and the like)."""
    found: Spans = []
    opened, closing = 0, ""
    for mark in _QUOTE.finditer(text):
        sign, at = mark[0], mark.start()
        if closing and (sign in closing or sign[0] == "\n"):
            found.append((opened, at))
            closing = ""
        elif not closing and not text[at + 1 : at + 2].isspace():
            opened, closing = at + 1, _QUOTE_CLOSED_BY.get(sign, "")
    return [*found, (opened, len(text))] if closing else found


def _inside_brackets(text: str) -> Spans:
    """What stands between brackets, from the outermost opening one on. A bracket that closes none is passed over."""
    found: Spans = []
    opened, closing = 0, list[str]()
    for mark in _BRACKET.finditer(text):
        sign, at = mark[0], mark.start()
        if sign in _BRACKET_CLOSED_BY:
            opened = opened if closing else at + 1
            closing.append(_BRACKET_CLOSED_BY[sign])
        elif closing and (sign == closing[-1] or sign[0] == "\n"):
            closing = [] if sign[0] == "\n" else closing[:-1]
            if not closing:
                found.append((opened, at))
    return [*found, (opened, len(text))] if closing else found


def _sentences(text: str, spans: dict[str, Spans]) -> dict[str, Spans]:
    """``sentence``, ``sentence_end`` and ``question``."""
    lines = spans["list_item"] + spans["heading"]
    breaks = sorted({0, *(end for _, end in spans["blank_line"]), *(edge for line in lines for edge in line)})
    mark_ends = {end for _, end in spans["list_mark"]}
    starts, ends, questions = set(breaks), [], []
    last = 0
    for stop in _STOP.finditer(text):
        group = 1 if stop[1] else 4
        if stop.end(group) in mark_ends or not (group == 4 or _ends_sentence(text, stop, breaks)):
            continue
        ends.append(stop.span(group))
        if "?" in stop[group] or "？" in stop[group]:
            start = max(last, breaks[bisect_right(breaks, stop.start()) - 1])
            first = _NOT_BLANK.search(text, start)
            questions.append((first.start() if first else start, stop.end(group)))
        last = stop.end()
        starts.add(last)
    ordered = sorted(starts)
    sentences = list(zip(ordered, [*ordered[1:], len(text)], strict=True))
    return {"sentence": sentences, "sentence_end": ends, "question": questions}


def _ends_sentence(text: str, stop: re.Match[str], breaks: list[int]) -> bool:
    """Whether . ! or ? (a match of ``_STOP``) ends its sentence; ``breaks`` is where paragraphs, headings and items begin."""
    after, following = stop.end(2), stop[3]
    next_break = bisect_left(breaks, stop.end(1))
    if after == len(text) or (next_break < len(breaks) and breaks[next_break] <= after):
        return True
    if not stop[2] or not following.isalpha() or following.islower():
        return False
    word = _LAST_WORD.search(text, max(stop.start() - 12, 0), stop.start())
    if stop[1] != "." or not word:
        return True
    is_initial = len(word[0]) == 1 and word[0].isupper() and word[0] != "I"
    return not (is_initial or word[0] in _ABBREVIATIONS or _INITIALS.fullmatch(word[0]))
