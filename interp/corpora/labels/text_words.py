"""What a word or a character of a text is by itself: its form, and the lists it is in.

    kinds_of_word("Don't")     # {"capitalised_word", "contraction", "negation", "auxiliary_verb"}

A word is a run of letters, digits and underscores, with the apostrophes between them. A contraction counts as what it is made
of: "don't" is a negation and an auxiliary verb. Words of several classes have the labels of all: no list knows whether "that"
points or joins. What each label covers is said in ``interp.corpora.labels.text.MEANINGS``.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

_PERSONS = {
    "first_person": "i me my mine myself we us our ours ourselves",
    "second_person": "you your yours yourself yourselves",
    "third_person": (
        "he him his himself she her hers herself it its itself they them their theirs themself themselves"
    ),
}
_CLOSED_CLASSES = {
    "article": "a an the",
    **_PERSONS,
    "pronoun": " ".join(_PERSONS.values())
    + " one oneself someone somebody something anyone anybody anything everyone everybody everything nobody nothing none",
    "demonstrative": "this that these those",
    "quantifier": (
        "all any some no none every each few little many much more most less least several both either neither another enough"
    ),
    "preposition": (
        "about above across after against along amid among around as at before behind below beneath beside besides between "
        "beyond by despite down during except for from in inside into like near of off on onto out outside over past per "
        "since than through throughout till to toward towards under underneath unlike until up upon via with within without"
    ),
    "conjunction": (
        "and or but nor so yet if unless because although though while whereas whether since as than until till once lest"
    ),
    "auxiliary_verb": "be am is are was were been being have has had having do does did",
    "modal_verb": "can could may might must shall should will would ought cannot",
    "negation": "not no never none nobody nothing nowhere neither nor cannot",
    "question_word": "who whom whose what which when where why how",
    "number_word": (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion "
        "first second third fourth fifth sixth seventh eighth ninth tenth dozen half"
    ),
}
_OF_WORD: dict[str, frozenset[str]] = {
    word: frozenset(kind for kind, words in _CLOSED_CLASSES.items() if word in words.split())
    for word in " ".join(_CLOSED_CLASSES.values()).split()
}
_DAYS_AND_MONTHS = {
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
}  # fmt: skip
_CUT_SHORT = {"wo": "will", "ca": "can", "sha": "shall", "ai": "is"}
_NO_PRONOUN = {"US", "IT"}

WORD_KINDS = (
    *("capitalised_word", "all_capitals_word", "mixed_case_word", "long_word", "contraction", "day_or_month"),
    *_CLOSED_CLASSES,
)
"""Every label that ``kinds_of_word`` may give."""

SIGNS = {
    "full_stop": ".。",
    "comma": ",，、",
    "colon": ":：",
    "semicolon": ";；",
    "question_mark": "?？",
    "exclamation_mark": "!！",
    "apostrophe": "'’‘ʼ",
    "quotation_mark": '"“”„«»‟「」『』',
    "bracket": "()[]{}（）",
    "symbol": "@#$%&*+=<>/\\^_|~`",
}
"""Label to the signs that have it; ``symbol`` is also what Unicode calls one."""
CHARACTER_KINDS = (*SIGNS, "non_ascii", "non_latin", "emoji")
"""Every label that ``kinds_of_character`` may give."""

LONG = 10

# Vowel signs and accents that are characters of their own: \w leaves them out, and would cut words of Hindi at each.
_MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
WORD = re.compile(rf"[^\W\d_](?:\.[^\W\d_])++(?!\w)|[\w{_MARKS}]++(?:['’][\w{_MARKS}]++)*+")
"""One word of a text; letters with a stop between each (U.S, i.e) are one."""


def kinds_of_word(word: str) -> set[str]:
    """The labels of a word."""
    base, apostrophe, rest = word.replace("’", "'").partition("'")
    n_letters = sum(map(str.isalpha, base))
    kinds = set(_closed_classes(base, rest))
    if base.isupper() and n_letters > 1:
        kinds.add("all_capitals_word")
    elif base[0].isupper():
        kinds.add("capitalised_word")
    if any(a.islower() and b.isupper() for a, b in pairwise(base)):
        kinds.add("mixed_case_word")
    if n_letters >= LONG:
        kinds.add("long_word")
    if apostrophe:
        kinds.add("contraction")
    return kinds


def _closed_classes(base: str, rest: str) -> set[str]:
    """The closed classes of a word whose first apostrophe stands between ``base`` and ``rest``."""
    if base in _NO_PRONOUN:
        return set()
    if base.capitalize() in _DAYS_AND_MONTHS and base[0].isupper():
        return {"day_or_month"}
    word, kinds = base.lower(), set()
    if rest == "t" and word.endswith("n"):
        word = _CUT_SHORT.get(word[:-1], word[:-1])
        kinds.add("negation")
    kinds |= _OF_WORD.get(word, frozenset())
    if rest in ("m", "re", "ve") or (rest == "s" and kinds & {"pronoun", "demonstrative", "question_word"}):
        kinds.add("auxiliary_verb")
    elif rest in ("ll", "d"):
        kinds.add("modal_verb")
    return kinds


def kinds_of_character(character: str) -> set[str]:
    """The labels of a character."""
    kinds = {kind for kind, signs in SIGNS.items() if character in signs}
    if character <= "\x7f":
        return kinds
    category, code = unicodedata.category(character), ord(character)
    kinds.add("non_ascii")
    if category[0] == "L" and "LATIN" not in unicodedata.name(character, ""):
        kinds.add("non_latin")
    if 0x1F000 <= code < 0x20000 or (category == "So" and 0x2600 <= code < 0x2800):
        kinds.add("emoji")
    elif category[0] == "S":
        kinds.add("symbol")
    return kinds
