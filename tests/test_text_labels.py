"""Labels of any text: each on text written for it, and on text that only looks like it."""

from __future__ import annotations

import itertools
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import interp.demo
from interp.corpora.documents import Corpus, Document
from interp.corpora.labels import text as text_module
from interp.corpora.labels import text_marks
from interp.corpora.labels.characters import CharacterLabels
from interp.corpora.labels.text import SEEN, TEXT, TEXT_CHARACTERS, repeats
from interp.corpora.labels.text_marks import paragraphs_around
from interp.corpora.labels.text_words import CHARACTER_KINDS, WORD_KINDS

NAMES = TEXT.labels
OF_TOKENS = ("word_start", "word_continuation", "repeated_token", "induction")


def characters(text: str) -> np.ndarray:
    return TEXT_CHARACTERS.label_characters(Document("", text))


def having(label: str, text: str) -> list[str]:
    """The runs of characters that carry a label, in order."""
    column = characters(text)[:, NAMES.index(label)].tolist()
    marked = "".join(character if value else "\0" for character, value in zip(text, column, strict=True))
    return [run for run in marked.split("\0") if run]


EXAMPLES: dict[str, list[tuple[str, list[str]]]] = {
    "capitalised_word": [
        ("The cat saw NASA and McDonald's. I left.", ["The", "McDonald's", "I"]),
        ("Éa ran to ÉCOLE at 3B", ["Éa"]),
    ],
    "all_capitals_word": [
        ("NASA's IT and COVID19, but A and U.S. Rock-N-ROLL 42", ["NASA's", "IT", "COVID19", "U.S", "ROLL"])
    ],
    "mixed_case_word": [("iPhone JavaScript McDonald's USA Paris O'Neill", ["iPhone", "JavaScript", "McDonald's"])],
    "long_word": [
        ("nine_long, abcdefghi, abcdefghij, 12345678901, internationally", ["abcdefghij", "internationally"])
    ],
    "hyphenated_word": [
        ("a well-known state-of-the-art fix - not 3-4, --x-y or 1939-45", ["well-known", "state-of-the-art"])
    ],
    "contraction": [("don't, John’s dogs' 'tis 'quoted'", ["don't", "John’s"])],
    "number": [("3.14 and 1,234 at 10:30, 2nd A4. End 7.", ["3.14", "1,234", "10:30", "2", "4", "7"])],
    "year": [("In 1984, the 1990s (2024). 1066 12345 1999.5 $2000 1500 km 2100 v2000", ["1984", "1990s", "2024"])],
    "number_with_unit": [
        (
            "5 km, 20%, 3.5 per cent, $3 million, €20, a 10-year plan",
            ["5 km", "20%", "3.5 per cent", "$3 million", "€20", "10-year"],
        ),
        ("5 kmx, 7 cats, v5 km, the km", []),
    ],
    "number_word": [("Two of the three hundred came first, none last", ["Two", "three", "hundred", "first"])],
    "day_or_month": [("On Monday in May or march, you may MARCH.", ["Monday", "May", "MARCH"])],
    "full_stop": [("It is 3.5. See a.com... e.g. this. 終わり。", [".", ".", ".", ".", "。"])],
    "comma": [("one, two, 1,000、x https://a.com/b,c", [",", ",", "、"])],
    "colon": [("Note: at 10:30 http://a.com ：", [":", "："])],
    "semicolon": [("a; b； &amp;", [";", "；", ";"])],
    "question_mark": [("Why? http://a.com/?q=1 What？", ["?", "？"])],
    "exclamation_mark": [("No! Go！!", ["!", "！!"])],
    "ellipsis": [("Wait... what…. so.. end....", ["...", "…", "...."])],
    "dash": [("one – two—three -- four - five well-known -6\n- item", ["–", "—", "--", "-"])],
    "hyphen": [("well-known 1939-45 a - b -6 a--b a-b.com", ["-", "-"])],
    "apostrophe": [("don't ’tis dogs' 'so he said' 'n", ["'", "’", "'", "'"])],
    "quotation_mark": [("\"a\" “b” «c» 'd e' don't ‘f’", ['"', '"', "“", "”", "«", "»", "'", "'", "‘", "’"])],
    "bracket": [("f(x)[1] {a} <b> （c）", ["(", ")[", "]", "{", "}", "（", "）"])],
    "symbol": [("a & b = 5% #1 €3 ≠ → @you . , - ' \"", ["&", "=", "%", "#", "€", "≠", "→", "@"])],
    "inside_quotes": [
        ("He said \"go\" and “come now”. 'The dog's bone' «oui»", ["go", "come now", "The dog's bone", "oui"]),
        ('A 12" disc, dogs\' tails, "left open\n\nnot here', ["left open"]),
        ("'Tis so. The '90s, rock 'n roll", []),
    ],
    "inside_brackets": [
        ("a (b [c] d) e :) [f", ["b [c] d", "f"]),
        ("(open {here\n\nbut not (here) or ) there", ["open {here", "here"]),
    ],
    "sentence_end": [
        ('Mr. X left... He did! Really?! "Yes." It is 3.5', ["...", "!", "?!", "."]),
        ("1. One. Two\n2. Three", ["."]),
    ],
    "question": [
        ("I know. Do you (too)? “Is it?” he said. Why not?!", ["Do you (too)?", "Why not?!"]),
        ("A\n\n- why?", ["- why?"]),
    ],
    "article": [("The cat, an owl and a dog: THE end. Athens", ["The", "an", "a", "THE"])],
    "pronoun": [
        ("I saw her; someone told the US it's ours, i.e. mine", ["I", "her", "someone", "it's", "ours", "mine"])
    ],
    "first_person": [("I'm here, we said. My my, US", ["I'm", "we", "My", "my"])],
    "second_person": [("You know yourself: you're it", ["You", "yourself", "you're"])],
    "third_person": [("He'll see them, IT staff said it itself", ["He'll", "them", "it", "itself"])],
    "demonstrative": [("This and that's those thesis", ["This", "that's", "those"])],
    "quantifier": [("All of them, each one, most", ["All", "each", "most"])],
    "preposition": [("Of mice in the into-house to go within", ["Of", "in", "into", "to", "within"])],
    "conjunction": [("And so but although android", ["And", "so", "but", "although"])],
    "auxiliary_verb": [
        (
            "It's been done; John's isn't; we've has-been; who's",
            ["It's", "been", "isn't", "we've", "has", "been", "who's"],
        )
    ],
    "modal_verb": [
        ("You can't; I'll, she'd; May will may shan't", ["can't", "I'll", "she'd", "will", "may", "shan't"])
    ],
    "negation": [("Not now, never don’t nor know; cannot won't", ["Not", "never", "don’t", "nor", "cannot", "won't"])],
    "question_word": [("Who knows what? However, where's why", ["Who", "what", "where's", "why"])],
    "url": [
        (
            "See https://a.org/b?c=d. Or (www.x.net), x.com/y, and me@x.com: e.g. a.b",
            ["https://a.org/b?c=d", "www.x.net", "x.com/y"],
        )
    ],
    "email_address": [("Ask me.too@a-b.co.uk, not @you or a@b", ["me.too@a-b.co.uk"])],
    "markup": [('<p class="a">x</p> &amp; &#39; 3 < 4 > 2 R&D;', ['<p class="a">', "</p>", "&amp;", "&#39;", "&D;"])],
    "list_item": [
        ("Buy:\n- milk\n 2. eggs and\n* \n(a) tea\n-5\n3.5 kg\n• ham", ["- milk", "2. eggs and", "(a) tea", "• ham"]),
    ],
    "heading": [("# One\ntext # no\n##no\n = = Two = = \nx = 3", ["# One", " = = Two = = "])],
    "line_start": [("One two\n  three\n\n...four", ["One", "three", "..."])],
    "line_end": [("a\nb\r\nc\n\n", ["\n", "\r\n", "\n\n"])],
    "paragraph_start": [("\nOne two\nthree\n \n\n “Four”", ["One", "“"])],
    "blank_line": [("a\nb\n\nc\n  \nd", ["\n\n", "\n  \n"])],
    "indentation": [("a b\n  c\n\td", ["  ", "\t"])],
    "non_ascii": [("naïve “日本” ok", ["ï", "“日本”"])],
    "non_latin": [("naïve Ａ 日本 Привет α1 שלום ok", ["日本", "Привет", "α", "שלום"])],
    "emoji": [("ok 🙂🚀 ☀ → ©", ["🙂🚀", "☀"])],
    "sentence_start": [("Hi there. “So it is,” he said.\n\n1) then\n2) go", ["Hi", "So", "then", "go"])],
}


@pytest.mark.parametrize(
    ("label", "text", "runs"), [(label, *case) for label, cases in EXAMPLES.items() for case in cases]
)
def test_every_label_covers_what_its_definition_says(label: str, text: str, runs: list[str]) -> None:
    assert having(label, text) == runs


def test_every_label_has_a_meaning_and_an_example() -> None:
    assert len(NAMES) == 60
    assert all(TEXT.meanings.values())
    assert set(EXAMPLES) | set(OF_TOKENS) | {"word_in_sentence_depth"} == set(NAMES)
    columns = [name for name, _ in TEXT_CHARACTERS.columns(Document("", "a"))]
    assert columns == [name for name in NAMES if name not in ("repeated_token", "induction")]
    assert {*WORD_KINDS, *CHARACTER_KINDS} <= set(NAMES)


@pytest.mark.parametrize(
    ("text", "first_words"),
    [
        ("One. Two! Three? Four", ["One", "Two", "Three", "Four"]),
        ("It is 3.5 m. long, see a.b. and so on.", ["It"]),
        ("Mr. Smith met Dr. Who, e.g. Fig. A and J. K. Rowling of the U.S. Army.", ["Mr"]),
        ("So am I. Then (see p. 3). We left etc. All of us.", ["So", "Then", "We", "All"]),
        ("He said “No.” She left. “Is it?” he asked. (Yes.) [No!] “Ok”", ["He", "She", "Is", "Yes", "No", "Ok"]),
        ("Wait... what? No... Yes.", ["Wait", "No", "Yes"]),
        ("a heading\n\nno stop\nbefore it. and after", ["a", "no"]),
        ("# Title one\nText goes\n- an item\n- another. Two\nend", ["Title", "Text", "an", "another", "Two", "end"]),
        ("日本語です。英語 です！はい", ["日本語です", "英語", "はい"]),
        ("Да. Нет. नमस्ते. हिंदी", ["Да", "Нет", "नमस्ते", "हिंदी"]),
        ("Ends with Dr.\n\nSmith", ["Ends", "Smith"]),
        ("...", []),
    ],
)
def test_sentences_start_where_a_reader_says(text: str, first_words: list[str]) -> None:
    assert having("sentence_start", text) == first_words


def test_words_of_a_sentence_are_counted() -> None:
    text = "We met. (It's: well-known)\n- No, no"
    depth = characters(text)[:, NAMES.index("word_in_sentence_depth")]
    expected = ["111", "2222", "00", "1111", "11", "2222", "2", "33333", "33", "00", "11", "11", "22"]
    assert "".join(map(str, depth)) == "".join(expected)
    many = characters("a " * 300)[:, NAMES.index("word_in_sentence_depth")]
    assert many[::2].tolist() == [*range(1, 256), *[255] * 45]


def test_a_word_starts_in_one_token_and_goes_on_in_others() -> None:
    text = " don't (stop now\n  a"
    spans = np.array([(0, 3), (3, 4), (4, 6), (6, 9), (9, 12), (12, 16), (16, 19), (19, 20), (20, 20)])
    labels = TEXT.label_tokens(Document("", text), spans)
    assert [text[a:b] for a, b in spans] == [" do", "n", "'t", " (s", "top", " now", "\n  ", "a", ""]
    assert labels[:, NAMES.index("word_start")].tolist() == [1, 0, 0, 1, 0, 1, 0, 1, 0]
    assert labels[:, NAMES.index("word_continuation")].tolist() == [0, 1, 1, 0, 1, 0, 0, 0, 0]
    assert labels[:, NAMES.index("indentation")].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert labels[:, NAMES.index("line_end")].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert labels[:, NAMES.index("word_in_sentence_depth")].tolist() == [1, 1, 1, 1, 2, 3, 3, 4, 0]


# ------------------------------------------------------------------------------------------------------------ of tokens


def bundled(text: str) -> tuple[list[str], np.ndarray]:
    """The tokens of the bundled model and their spans."""
    from tokenizers import Tokenizer

    encoding = Tokenizer.from_file(str(Path(interp.demo.__file__).parent / "model/tokenizer.json")).encode(text)
    return [text[a:b] for a, b in encoding.offsets], np.array(encoding.offsets).reshape(-1, 2)


def test_repeated_tokens_and_inductions_of_the_bundled_tokenizer() -> None:
    text = "def run(self): run(self) not run(it)"
    tokens, spans = bundled(text)
    assert tokens == ["def", " run", "(", "self", "):", " run", "(", "self", ")", " not", " run", "(", "it", ")"]
    labels = TEXT.label_tokens(Document("", text), spans)
    #       def run ( self ): run ( self ) not run ( it )
    again = [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1]
    pairs = [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0]
    assert labels[:, NAMES.index("repeated_token")].tolist() == again
    assert labels[:, NAMES.index("induction")].tolist() == pairs


def test_it_is_the_last_time_that_an_induction_follows() -> None:
    """When the second b comes, the a before it was last followed by c; the a after it follows b as it did."""
    text = "abacabac"
    spans = np.stack([np.arange(8), np.arange(8) + 1], 1)
    assert repeats(text, spans)[1].astype(int).tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_bytes_of_one_character_are_no_repeats_of_each_other() -> None:
    text = "éaé"
    spans = np.array([(0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 3), (3, 3)])
    again, pairs = repeats(text, spans)
    assert again.tolist() == [False, False, False, True, True, False, False]
    assert pairs.tolist() == [False, False, False, False, True, False, False]


def test_tokens_further_back_than_can_be_seen_do_not_count() -> None:
    for gap, is_seen in ((SEEN - 2, True), (SEEN - 1, False)):
        spans = np.stack([np.arange(gap + 4), np.arange(gap + 4) + 1], 1)
        text = "ab" + "".join(chr(0x4E00 + i) for i in range(gap)) + "ab"
        again, pairs = repeats(text, spans)
        assert again[-2:].all() == is_seen
        assert pairs[-1] == is_seen


def test_repeats_are_those_of_the_slow_definition() -> None:
    rng = random.Random(0)
    text = "".join(rng.choice("abcd é") for _ in range(900))
    cuts = [0, *sorted(rng.sample(range(1, 900), 600)), 900]
    spans = np.array(list(itertools.pairwise(cuts)))
    tokens = [text[a:b] for a, b in spans]
    again, pairs = repeats(text, spans)
    for i, token in enumerate(tokens):
        seen = tokens[max(i - SEEN, 0) : i]
        assert again[i] == (token in seen)
        before = [j for j in range(max(i - 1 - SEEN, 0), i - 1) if tokens[j] == tokens[i - 1]]
        assert pairs[i] == bool(before and tokens[before[-1] + 1] == token)


# ------------------------------------------------------------------------------------------------- anything is labelled


def test_no_text_raises_and_labels_keep_their_range() -> None:
    rng = random.Random(0)
    signs = "aB9 \n\t\r.,!?'\"“”‘’()[]{}<>&-–…:;=#*@/。é日🙂\ud83d\0\u0301"
    for length in [*range(8), *[rng.randrange(200) for _ in range(60)]]:
        drawn = (rng.choice(signs) if rng.random() < 0.9 else chr(rng.randrange(0x110000)) for _ in range(length))
        text = "".join(drawn)
        cuts = sorted(rng.choices(range(length + 1), k=9))
        spans = np.array(list(itertools.pairwise(cuts)))
        labels = TEXT.label_tokens(Document("", text), spans)
        assert labels.shape == (8, len(NAMES))
        assert labels.dtype == np.uint8
        flags = [i for i, name in enumerate(NAMES) if not name.endswith("_depth")]
        assert labels[:, flags].max() <= 1
        assert characters(text).shape == (length, len(NAMES) - 2)
        assert all(0 <= share <= 1 for share in TEXT.judge(text, start=length // 2).values())


def test_every_category_of_unicode_is_labelled() -> None:
    one_of_each = {unicodedata.category(chr(code)): chr(code) for code in range(0x30000)}
    assert len(one_of_each) == 30
    assert characters("".join(one_of_each.values())).any()


def test_no_tokens_have_no_labels() -> None:
    assert TEXT.label_tokens(Document("", "a"), np.zeros((0, 2), int)).shape == (0, len(NAMES))


# ------------------------------------------------------------------------------------------------- long texts, in parts

LONG = ("She said: “Go (now)!” Is it 3.5 km? Yes.\n- an item\n\nThe 'next one' begins here " * 40 + "\n\n") * 3


def test_a_text_labelled_in_parts_has_the_labels_of_the_whole() -> None:
    spans = np.stack([np.arange(0, len(LONG), 3), np.minimum(np.arange(0, len(LONG), 3) + 3, len(LONG))], 1)
    whole = CharacterLabels(TEXT_CHARACTERS.columns, TEXT_CHARACTERS.rules).label_tokens(Document("", LONG), spans)
    for size in (1, 50, 700):
        parts = [
            TEXT_CHARACTERS.label_tokens(Document("", LONG), spans[i : i + size]) for i in range(0, len(spans), size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_no_more_is_read_than_the_paragraphs_of_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "One. Two\n\nThree. Four\n\nFive"
    assert [text[slice(*paragraphs_around(text, a, a + 1))] for a in (3, 12, 25)] == [
        "One. Two\n\n",
        "\n\nThree. Four\n\n",
        "\n\nFive",
    ]
    assert paragraphs_around(text, 0, len(text)) == (0, len(text))
    monkeypatch.setattr(text_marks, "CONTEXT", 5)
    assert paragraphs_around("x" * 50, 20, 22) == (15, 27)
    read: list[int] = []
    real = text_module.mark_spans
    monkeypatch.setattr(text_module, "mark_spans", lambda part: read.append(len(part)) or real(part))
    labels = TEXT.label_tokens(Document("", "(" + "word " * 1000), np.array([(2001, 2006), (2006, 2011)]))
    assert read == [20]
    assert labels[:, NAMES.index("word_start")].tolist() == [1, 1]


# -------------------------------------------------------------------------------------------------------------- a judge


def test_the_judge_says_what_share_of_a_continuation_has_a_label() -> None:
    prompt, written = 'He said "', 'no (not me), OK?" 42 times'
    shares = TEXT.judge(prompt + written, start=len(prompt))
    n = len(written.replace(" ", ""))
    assert shares["inside_quotes"] == pytest.approx(len("no(notme),OK?") / n)
    assert shares["inside_brackets"] == pytest.approx(5 / n)
    assert shares["negation"] == pytest.approx(5 / n)
    assert shares["number"] == pytest.approx(2 / n)
    assert shares["article"] == 0
    left_out = {*OF_TOKENS, "word_in_sentence_depth", "line_end", "blank_line", "indentation"}
    assert set(shares) == set(NAMES) - left_out


def test_the_prompts_are_neutral() -> None:
    assert len(set(TEXT.prompts)) >= 6
    for prompt in TEXT.prompts:
        assert prompt.isascii()
        assert TEXT.judge(prompt, start=0)["question"] == 0


def test_the_rule_of_the_first_character() -> None:
    """A label of places is that of the token's first character that is no blank."""
    columns = CharacterLabels(lambda d: iter([("b", np.array([c == "b" for c in d.text], np.uint8))]), {"b": "first"})
    spans = np.array([(0, 2), (2, 4), (4, 6), (6, 6)])
    assert columns.label_tokens(Document("", "bab  b"), spans)[:, 0].tolist() == [1, 1, 1, 0]


def test_a_token_of_blanks_has_the_labels_that_most_of_it_has() -> None:
    labels = TEXT.label_tokens(Document("", '"a   b" '), np.array([(0, 2), (2, 4), (4, 6), (6, 8)]))
    assert labels[:, NAMES.index("inside_quotes")].tolist() == [0, 1, 1, 0]


def test_packing_puts_the_labels_beside_the_tokens(tiny_tokenizer: object) -> None:
    from interp.corpora.packing import pack

    document = Document("a", "The dog ran. The dog ran.")
    corpus = Corpus("one", [document], (TEXT,))
    [block] = pack(corpus, tiny_tokenizer, bos_id=0, n_ctx=64, n_tokens=None, block=1)
    starts = block.offset[block.is_row]
    spans = np.stack([starts, [*starts[1:], len(document.text)]], 1)
    np.testing.assert_array_equal(block.labels[block.is_row], TEXT.label_tokens(document, spans))
    assert block.labels[block.is_row][:, NAMES.index("induction")].sum() > 5
