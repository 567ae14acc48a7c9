"""Judges of one's own: a function, a command and everything that a command can do wrong, and a regression on tokens."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from interp.corpora.documents import TextJudge
from interp.errors import InputError
from interp.evaluation import token_judge
from interp.evaluation.judges import FunctionJudge, command_judge
from interp.evaluation.token_judge import WIDTH, TokenJudge, judge_documents
from interp.model.language_model import LanguageModel
from interp.store.reader import ActivationStore


def python(code: str) -> str:
    """A command that runs a line of Python."""
    return shlex.join([sys.executable, "-S", "-c", code])


def test_a_function_judges_the_continuation_alone() -> None:
    seen = []

    def count(text: str) -> float:
        seen.append(text)
        return len(text)

    judge = FunctionJudge(count)
    assert isinstance(judge, TextJudge)
    assert judge("prompt: text", start=8) == {"judge": 4.0}
    assert seen == ["text"]
    assert FunctionJudge(lambda text: np.float32(0.5), name="mine")("", start=0) == {"mine": 0.5}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (float("nan"), "'count' returned 'nan'"),
        (None, "'None'"),
        ("3", "'3'; it is given the continuation, without the"),
    ],
)
def test_a_function_that_returns_no_finite_number_is_named(returned: Any, message: str) -> None:
    def count(text: str) -> Any:
        return returned

    with pytest.raises(InputError, match=message):
        FunctionJudge(count)("x", start=0)


def test_a_function_that_fails_is_named_with_its_error() -> None:
    def count(text: str) -> float:
        return 1 / len(text)

    with pytest.raises(InputError, match="the judge 'count' failed with ZeroDivisionError: division by zero"):
        FunctionJudge(count)("x", start=1)


def test_a_command_gets_the_continuation_on_stdin_and_no_shell() -> None:
    text = "déjà $(echo 1); `echo 2` 'x\""
    judge = command_judge(python("import sys; print(len(sys.stdin.buffer.read().decode()))"))
    assert judge("prompt" + text, start=6) == {"judge": len(text)}
    assert command_judge("echo 0.5 | cat") is not None
    with pytest.raises(InputError, match=r"printed '0.5 \| cat'"):
        command_judge("echo 0.5 | cat")("x", start=0)
    assert command_judge("echo -1.5e-1")("not read " * 100_000, start=0) == {"judge": -0.15}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (python("import sys; print(1); sys.exit('bad\\nworse')"), r"ended with exit status 1: bad; it is given the"),
        (python("raise KeyError('lost')"), r"raise KeyError.*ended with exit status 1: KeyError: 'lost'"),
        (python("import os; os.kill(os.getpid(), 9)"), r"was ended by signal 9; it is given"),
        (python("pass"), r"printed nothing \(exit status 0\); .* must print one finite number"),
        (python("print('much')"), r"printed 'much' \(exit status 0\)"),
        (python("print(1, 2)"), "printed '1 2'"),
        (python("print('nan')"), "printed 'nan'"),
        (python("print('-inf')"), "printed '-inf'"),
        (python("import sys; print('so so', file=sys.stderr)"), r"printed nothing \(exit status 0: so so\)"),
        ("/no/such/program --fast", r"'/no/such/program --fast' cannot be run \(No such file or directory\)"),
        ("/", r"'/' cannot be run \(Permission denied\)"),
        ("score.py 'open", r"'score.py 'open' is no command: no closing quotation; close every quote"),
        ("  ", "the judge is an empty command"),
    ],
)
def test_a_command_that_gives_no_number_is_named_with_what_it_said(command: str, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        command_judge(command)("text", start=0)


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    command = shlex.join(["sh", "-c", f"sleep 600 & echo $! > {shlex.quote(str(started))}; wait"])
    with pytest.raises(InputError, match="took more than 2 seconds for one text and was stopped"):
        command_judge(command, seconds=2)("text", start=0)
    state = Path(f"/proc/{started.read_text().strip()}/stat")
    for _ in range(1000):
        if not state.exists() or state.read_text().split(") ")[1][0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("what the command started is still running")


# -------------------------------------------------------------------------------------------------- regression on tokens

NAMES = ("sweet", "sour", "never", "taste_depth")


def planted(n_documents: int, length: int, *, signal: float = 0.4, seed: int = 0) -> Any:
    """A store of documents of one flavour each, or none: tokens of the flavour's own are ``signal`` of its text."""
    random = np.random.default_rng(seed)
    flavour = np.arange(n_documents) % 3
    tokens = random.integers(10, 60, (n_documents, length))
    own = random.random((n_documents, length)) < signal
    tokens = np.where(own & (flavour < 2)[:, None], 2 * flavour[:, None] + random.integers(1, 3, tokens.shape), tokens)
    labels = np.stack([flavour == 0, flavour == 1, flavour > 5, flavour], 1).astype(np.uint8)
    return SimpleNamespace(
        path=Path("planted"),
        manifest=SimpleNamespace(tokenizer_fingerprint="same"),
        label_sets={"flavours": NAMES},
        label_set=lambda name=None: "flavours",
        tokens=lambda: tokens,
        positions=lambda: np.stack(np.unravel_index(np.arange(tokens.size), tokens.shape), 1),
        row_documents=lambda: np.repeat(np.arange(n_documents), length),
        labels=lambda name: np.repeat(labels, length, axis=0),
        documents=lambda: ([f"document {i}" for i in range(n_documents)], None),
    )


MODEL: Any = SimpleNamespace(id="none", tokenizer_fingerprint="same", d_vocab=64, encode=None)


def trained(store: Any, **options: Any) -> TokenJudge:
    judge = TokenJudge.train(store, MODEL, **options)
    object.__setattr__(judge, "encode", lambda text: [int(word) for word in text.split()])
    return judge


def test_planted_labels_are_told_on_documents_that_it_was_not_fitted_on() -> None:
    judge = trained(planted(90, 3 * WIDTH + 5))
    assert list(judge.accuracy) == ["sweet", "sour"]
    for found in judge.accuracy.values():
        assert found.balanced_accuracy > 0.97
        assert found.base_rate == pytest.approx(1 / 3, abs=0.1)
    assert judge.left_out["taste_depth"] == "is a whole number"
    assert judge.left_out["never"].startswith("0 of ")
    sweet, sour = judge("1 2 1 2 1 2", start=0), judge("99 99 3 4 3 4", start=6)
    assert sweet["sweet"] > 0.9 > 0.1 > sweet["sour"]
    assert sour["sour"] > 0.9 > 0.1 > sour["sweet"]


def test_tokens_that_say_nothing_are_judged_as_chance_does() -> None:
    judge = trained(planted(90, 3 * WIDTH, signal=0.0))
    assert all(abs(found.balanced_accuracy - 0.5) < 0.1 for found in judge.accuracy.values())


def test_an_empty_text_and_long_texts_have_probabilities() -> None:
    judge = trained(planted(60, 2 * WIDTH))
    empty = judge("", start=0)
    assert all(0 < value < 1 for value in empty.values())
    once, often = judge("1 2 3 20", start=0), judge("1 2 3 20 " * 50, start=0)
    assert once == pytest.approx(often), "twice the text of the same kind is judged the same"


def test_only_the_documents_given_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = planted(90, 2 * WIDTH), []
    split = token_judge.split_documents

    def watched(documents: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
        seen.append(set(documents.tolist()))
        return split(documents, labels, seed=seed)

    monkeypatch.setattr(token_judge, "split_documents", watched)
    own = judge_documents(store)
    assert 25 < len(own) < 65
    judge = trained(store)
    trained(store, documents=np.arange(40))
    assert seen == [set(own.tolist()), set(range(40))]
    assert judge.n_documents == pytest.approx(len(own) / 2, abs=2)


def test_the_rest_of_a_document_is_a_window_if_it_is_long_enough_or_all_there_is() -> None:
    for length, sizes in ((WIDTH + WIDTH // 2, [WIDTH, WIDTH // 2]), (WIDTH + 3, [WIDTH]), (3, [3])):
        counts, labels, document = token_judge._windows(planted(4, length), "flavours", np.array([0, 1, 3]), 64)
        assert document.tolist() == [d for d in (0, 1, 3) for _ in sizes]
        assert counts.sum(1) == pytest.approx(WIDTH)  # brought to one length
        assert counts.nnz <= 3 * sum(sizes)
        assert labels[:, 0].tolist() == [d in (0, 3) for d in document]


def test_what_cannot_be_learned_from_is_refused(tiny_store: ActivationStore, byte_model: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"captured with another tokenizer than that of '.*bytes"):
        TokenJudge.train(tiny_store, byte_model)
    with pytest.raises(InputError, match="no label of 'flavours' can be judged from 4 documents of 'planted'"):
        trained(planted(4, WIDTH), documents=np.arange(4))


def test_a_captured_store_is_learned_from(
    tiny_store: ActivationStore, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_judge, "_MIN_WINDOWS", 3)  # of so small a store
    judge = TokenJudge.train(tiny_store, tiny_model, documents=np.arange(100))
    assert set(judge.accuracy) | set(judge.left_out) == {"has_vowel", "is_blank", "line_depth"}
    assert judge.accuracy["has_vowel"].n_windows > 10
    assert judge("x = aaa", start=2) == judge("y = aaa", start=2)
