"""What every token of any text is: word forms, digits, punctuation, sentences, closed-class words, lines, repeats.

    TEXT.label_tokens(Document("one.txt", "Why not?"), [[0, 3], [3, 7], [7, 8]])[:, TEXT.labels.index("question_word")]
    # 1 0 0

For text of any kind and any model, computed by rules (``text_marks``, ``text_words``) without one. Words of closed classes are
English; all else holds for other languages as far as they write alike. No text raises. A label depends on the paragraph around
it and no further, so that a long text is labelled in parts, in time that grows with its length alone: about 1.4 seconds per
megabyte (Python 3.11, one core at 2.8 GHz), as Python's labels take.

Two labels are of tokens instead of characters, ``repeated_token`` and ``induction``, and know the tokens of one call alone: a
long document comes in pieces of a quarter of a million characters, and the first tokens of a piece do not see the piece before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from interp.corpora.documents import Document, LabelSet
from interp.corpora.labels.characters import CharacterLabels, codes_of
from interp.corpora.labels.text_marks import mark_spans, paragraphs_around
from interp.corpora.labels.text_words import (
    CHARACTER_KINDS,
    SIGNS,
    WORD,
    WORD_KINDS,
    kinds_of_character,
    kinds_of_word,
)

SEEN = 256
"""Tokens that ``repeated_token`` and ``induction`` look back: about as many as small models see at once."""

MEANINGS: dict[str, str] = {
    "capitalised_word": "a word that starts with a capital, but is not written in capitals",
    "all_capitals_word": "a word of two or more letters, all of them capitals",
    "mixed_case_word": "a word with a capital right after a small letter (iPhone)",
    "long_word": "a word of ten letters or more",
    "hyphenated_word": "words joined by hyphens (well-known), with the hyphens",
    "contraction": "a word with an apostrophe in it (don't, John's)",
    "word_start": "a token in which a word starts",
    "word_continuation": "a token that goes on with a word begun before it",
    "number": "digits, with the points, commas and colons between them",
    "year": "a number from 1500 to 2099 in four digits without a unit (also 1990s)",
    "number_with_unit": "a number with its unit or currency (5 km, 20 %, $3 million)",
    "number_word": "zero to twenty, the tens, hundred to trillion, first to tenth, dozen, half",
    "day_or_month": "the name of a day or month, capitalised",
    "full_stop": "a full stop, but in a number or an address and of three dots or more",
    "comma": "a comma, but in a number or an address",
    "colon": "a colon, but in a number or an address",
    "semicolon": "a semicolon",
    "question_mark": "a question mark",
    "exclamation_mark": "an exclamation mark",
    "ellipsis": "three dots or more, or their one sign",
    "dash": "a dash, two hyphens or more, or a hyphen between blanks",
    "hyphen": "a hyphen between two letters or digits",
    "apostrophe": "an apostrophe, also where it looks like a quotation mark",
    "quotation_mark": "a quotation mark, single ones if they are a pair",
    "bracket": "one of ( ) [ ] { }",
    "symbol": "any other sign, such as & % $ # / + = and those of mathematics and currencies",
    "inside_quotes": "between quotation marks, to the paragraph's end where they are not closed",
    "inside_brackets": "between brackets, to the paragraph's end where they are not closed",
    "sentence_start": "the first word of a sentence",
    "sentence_end": "the . ! or ? that ends a sentence",
    "question": "a sentence that ends in a question mark",
    "article": "a an the",
    "pronoun": "a personal, possessive or indefinite pronoun (I, yours, her, itself, someone)",
    "first_person": "I me my mine myself, we us our ours ourselves",
    "second_person": "you your yours yourself yourselves",
    "third_person": "he she it they, with him his her its them their and the rest",
    "demonstrative": "this that these those",
    "quantifier": "all any some no none every each few many much more most and the like",
    "preposition": "of in on at by for with from to and the like, also to before a verb",
    "conjunction": "and or but nor so yet if because although while as than and the like",
    "auxiliary_verb": "a form of be, have or do, also in I'm, we're, it's, they've",
    "modal_verb": "can could may might must shall should will would ought, also in I'll, she'd",
    "negation": "not no never none nobody nothing nowhere neither nor cannot, and words in n't",
    "question_word": "who whom whose what which when where why how, also where they ask nothing",
    "url": "a web address",
    "email_address": "an e-mail address",
    "markup": "a tag in angle brackets or an entity, as in HTML",
    "list_item": "a line that begins with a list's mark (- * • 1. 1) a)), with the mark",
    "heading": "a line that begins with # to ###### or stands between equals signs",
    "line_start": "the first word, or run of signs, of a line",
    "line_end": "the newline (\\n or \\r\\n) that ends a line",
    "paragraph_start": "the first word, or run of signs, of the text and after each blank line",
    "blank_line": "the newlines around and of blank lines, which part paragraphs",
    "indentation": "the blanks before the first word of a line",
    "non_ascii": "a character outside ASCII",
    "non_latin": "a letter of another script than Latin",
    "emoji": "an emoji or pictograph",
    "word_in_sentence_depth": "words of the sentence up to and with this one, at most 255; signs count with the word before",
    "repeated_token": f"a token that also occurred among the {SEEN} before it",
    "induction": (
        f"a token that follows the same token as the one before it did the last time, at most {SEEN} tokens ago"
    ),
}
"""What each label covers, the order being that of the columns."""

PROMPTS = (
    "The next morning we went back to the house.",
    "There is one thing that most people do not know about",
    "In the years that followed, the town",
    "When I opened the door, she",
    "Here is what you need to know:\n\n",
    "According to the report,",
    "My grandmother used to say that",
    "The company said on Monday that it",
    "Nobody could explain why the lights",
    "To begin with, take a large bowl and",
    "The results of the study show that",
    "He looked at the map again.",
    "After the war, many families",
    "What happens if",
    "The first chapter of the book is about",
    "On the other side of the river,",
)
"""What steered text goes on from: ends of sentences, of clauses and of lines."""

_OF_TOKENS = ("repeated_token", "induction")


def _columns(document: Document) -> Iterator[tuple[str, UInt8[np.ndarray, " n_chars"]]]:
    """(label, its value for each character) for each label but those of tokens: 0 or 1, or a number up to 255."""
    text = document.text
    marked = mark_spans(text)
    spans = {name: _painted(found, len(text)) for name, found in marked.items() if name != "sentence"}
    is_address = spans["url"] | spans["email_address"]
    is_no_sign = dict.fromkeys((*SIGNS, "dash", "hyphen"), is_address) | {
        "full_stop": is_address | spans["number"] | spans["ellipsis"],
        "comma": is_address | spans["number"],
        "colon": is_address | spans["number"],
        "apostrophe": is_address | spans["quotation_mark"],
    }
    signs = _flags_of(codes_of(text))
    words = _words(
        text, marked["sentence"], is_list_mark=spans["list_mark"] > 0, is_word=(is_address | spans["markup"]) == 0
    )
    for name in MEANINGS:
        if name in words:
            yield name, words[name]
        elif name not in _OF_TOKENS:
            values = spans.get(name, np.zeros(len(text), np.uint8))
            if name in CHARACTER_KINDS:
                values = values | (signs >> CHARACTER_KINDS.index(name) & 1).astype(np.uint8)
            yield name, values & ~is_no_sign[name] if name in is_no_sign else values


def _painted(spans: Iterable[tuple[int, int]], n: int) -> UInt8[np.ndarray, " n"]:
    values = np.zeros(n, np.uint8)
    for start, end in spans:
        values[start:end] = 1
    return values


def _flags_of(codes: UInt32[np.ndarray, " n_chars"]) -> Int[np.ndarray, " n_chars"]:
    """The kinds of each character, a bit for each of ``CHARACTER_KINDS``."""
    counts = np.bincount(codes, minlength=1)
    flags = np.zeros(len(counts), np.int64)
    for code in np.flatnonzero(counts).tolist():
        flags[code] = _flags(kinds_of_character(chr(code)), CHARACTER_KINDS)
    return flags[codes]


@functools.lru_cache(1 << 16)
def _word_flags(word: str) -> int:
    return _flags(kinds_of_word(word), WORD_KINDS)


def _flags(kinds: set[str], order: tuple[str, ...]) -> int:
    return sum(1 << order.index(kind) for kind in kinds)


def _words(
    text: str,
    sentences: Sequence[tuple[int, int]],
    *,
    is_list_mark: Bool[np.ndarray, " n"],
    is_word: Bool[np.ndarray, " n"],
) -> dict[str, UInt8[np.ndarray, " n"]]:
    """The columns of labels of words. What is no word (an address) has none of a word's kinds, but begins and goes on."""
    found = [(match.start(), match.end(), match[0]) for match in WORD.finditer(text)]
    start, end = (np.array([word[i] for word in found], np.int64) for i in (0, 1))
    is_start = np.zeros(len(text), np.uint8)
    is_start[start] = 1
    last = np.cumsum(is_start, dtype=np.int64) - 1  # the last word that starts at or before a character; -1 for none
    is_in_word = np.arange(len(text)) < np.append(end, 0)[last]
    word = np.where(is_in_word, last, -1)  # tables of words have one entry more, for -1

    opens = np.array([sentence[0] for sentence in sentences])
    sentence_of_character = np.repeat(np.arange(len(opens)), np.diff(opens, append=len(text)))
    sentence = np.append(sentence_of_character[start], -1)
    n_counted = np.append(0, np.cumsum(~is_list_mark[start]))
    place = np.append(n_counted[1:] - n_counted[np.searchsorted(start, opens)][sentence[:-1]], 0)
    place[:-1][is_list_mark[start]] = 0
    depth = np.where(sentence[last] == sentence_of_character, np.minimum(place, 255)[last], 0)

    flags = np.fromiter((_word_flags(name) for _, _, name in found), np.int64, len(found)) * is_word[start]
    columns = {kind: flags >> i & 1 for i, kind in enumerate(WORD_KINDS)} | {"sentence_start": place[:-1] == 1}
    return {kind: np.append(values, 0).astype(np.uint8)[word] for kind, values in columns.items()} | {
        "word_start": is_start,
        "word_continuation": (is_in_word & (is_start == 0)).astype(np.uint8),
        "word_in_sentence_depth": depth.astype(np.uint8),
    }


def _label_tokens(document: Document, spans: Int[np.ndarray, "n_tokens 2"]) -> UInt8[np.ndarray, "n_tokens n_labels"]:
    by_character = TEXT_CHARACTERS.label_tokens(document, spans)
    return np.column_stack([by_character, *repeats(document.text, spans)])


def repeats(
    text: str, spans: Int[np.ndarray, "n_tokens 2"]
) -> tuple[Bool[np.ndarray, " n_tokens"], Bool[np.ndarray, " n_tokens"]]:
    """Whether each token is a repeated one, and whether it completes a pair of tokens again (see ``MEANINGS``).

    Tokens are the same if their characters are, blanks included; of tokens that are bytes of one character, the first is
    compared with firsts, the second with seconds. Tokens without characters are neither.
    """
    numbers: dict[str, int] = {}
    start, end = np.asarray(spans, np.int64).T
    pieces = [text[first:last] for first, last in zip(start.tolist(), end.tolist(), strict=True)]
    ids = np.fromiter((numbers.setdefault(piece, len(numbers)) for piece in pieces), np.int64, len(pieces))
    place, is_part = np.arange(len(ids)), np.zeros(len(ids), bool)
    is_part[1:] = (np.diff(start) == 0) & (np.diff(end) == 0)  # another byte of the character before
    part = place - np.maximum.accumulate(np.where(is_part, 0, place))
    ids = np.where(end > start, ids * (part.max(initial=0) + 1) + part, -1 - place)
    order = np.argsort(ids, kind="stable")
    before = np.full(len(ids), -1)  # the last place of the same token
    is_again = ids[order[1:]] == ids[order[:-1]]
    before[order[1:][is_again]] = order[:-1][is_again]
    is_repeated = (before >= 0) & (place - before <= SEEN)
    is_completed = np.zeros(len(ids), bool)
    is_completed[1:] = is_repeated[:-1] & (ids[before[:-1] + 1] == ids[1:])
    return is_repeated, is_completed


TEXT_CHARACTERS = CharacterLabels(
    _columns,
    rules={
        "word_start": "any",
        "word_continuation": "first",
        "line_end": "any",
        "blank_line": "any",
        "indentation": "any if blank",
    },
    context=paragraphs_around,
)
TEXT = LabelSet(
    name="text",
    meanings=MEANINGS,
    label_tokens=_label_tokens,
    judge=TEXT_CHARACTERS.share_of_text,
    prompts=PROMPTS,
)
