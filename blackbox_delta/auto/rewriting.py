"""Rewritings: words for further views, proposed by the model that is being tuned.

The model reads a few labelled examples and the words that the pool has already, as a list to be
continued with one more line (instructions from demonstrations: Honovich et al. 2022, arXiv
2205.10782; Zhou et al. 2022, "Large language models are human-level prompt engineers"). A backend
only scores, so a line is drawn token by token from the likeliest tokens of a reply, a query each.
What comes of it is only proposed: the race decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blackbox_delta.auto.asking import Asker
from blackbox_delta.auto.views import View
from blackbox_delta.budget import Need
from blackbox_delta.errors import TemplateError
from blackbox_delta.problem import Part, Problem, Reader
from blackbox_delta.tasks import Template
from blackbox_delta.tasks.templates import in_words
from blackbox_delta.types import (
    AnswerSlot,
    EmbeddingTable,
    Example,
    IntArray,
    Prompt,
    Segment,
    Vector,
    Words,
)

#: Tokens of a line at most. So many requests are sent.
MOST_TOKENS = 12
#: Likeliest tokens that a line goes on with, and how even their chances are made.
LIKELIEST, TEMPERATURE = 20, 0.8
#: Probability that these have together at least. A server that tells tokens near the label words
#: in place of the likeliest ones shows next to nothing here, and no line can be drawn from those.
LEAST_MASS = 0.1
#: Labelled examples that are shown at most, one a class, and words of each.
SHOWN, SHOWN_WORDS = 6, 30

_ASKED = 'Other ways to say "Answer:" above, each to be completed by one of the answers:'
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def rewritten_views(asker: Asker, problem: Problem, count: int, seed: int) -> list[View]:
    """Views with words that the model proposes, in plain words; nothing is asked under them yet.

    The words were proposed in sight of a few labels, one a class at most. As with the weights of a
    pool, that is not held out; the heads behind the views are.

    Args:
        asker: Asks.
        problem: The task, its rivals being the same with other words.
        count: How many at most.
        seed: Determines who is shown and what is drawn.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    proposed = propose(asker, problem, count, _drawing(seed))
    base = _slotted(problem)
    starts = [_with_words(base, words) for words in proposed] if base else []
    rows = np.arange(len(problem.train))
    return [View(str(each.words).strip(), each.reader, rows, start=each) for each in starts]


def rewriting_need(asker: Asker, problem: Problem, count: int, seed: int) -> Need | None:
    """What it takes at most to have so many words proposed; ``None`` where none would be."""
    found = _writing(asker, problem, count, _drawing(seed))
    return None if found is None else found[1]


def _drawing(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 5])


def propose(asker: Asker, problem: Problem, count: int, rng: np.random.Generator) -> list[str]:
    r"""Words that may stand between a text and its label, none of them in the problem already.

    Each begins with a new line and ends with a word or a colon, as in ``"\nIn one word, it is"``.
    It takes ``MOST_TOKENS`` requests and ``count * MOST_TOKENS`` queries at most, all of which the
    budget must afford beforehand.

    None are proposed where the words are the user's own, where the head asks for no top tokens,
    where the model answers turns of a chat, is not causal or has no table to read tokens with, and
    where its context is too short for the question.

    Args:
        asker: Asks.
        problem: Words and training examples.
        count: How many at most. Often fewer come: not every line is of use.
        rng: Determines who is shown and what is drawn.

    Raises:
        BackendError: No sound reply could be had.
        SpentError: Replies were lost, and the budget ran out over it.
    """
    found = _writing(asker, problem, count, rng)
    if found is None:
        return []
    writer, need = found
    if not asker.budget.affords(need):
        return []
    words = problem.reader.verbalizer.words
    lines = [cleaned(draft.line, words) for draft in writer.drafts(count)]
    return ["\n" + line for line in _new(lines, _known(problem))]


def _writing(
    asker: Asker, problem: Problem, count: int, rng: np.random.Generator
) -> tuple[_Writer, Need] | None:
    """Who proposes words, and what that takes at most; ``None`` where none are proposed."""
    table, base = asker.backend.embedding_table, _slotted(problem)
    if table is None or base is None or count < 1 or not _goes_on(asker):
        return None
    writer = _Writer(asker, base.reader, table, _question(problem, rng), rng)
    try:
        return writer, writer.need(count)
    except TemplateError:
        return None


def cleaned(line: str, label_words: Sequence[str]) -> str:
    """A line as words to be followed by a label; empty if it is of no use.

    White space and marks around it go, and so does a label at its end. A question is followed by
    ``"Answer:"``.
    """
    if _NO_CHARACTER in line:  # half a character
        return ""
    labels = "|".join(re.escape(word) for word in label_words)
    line = _trimmed(re.sub(rf"\b(?:{labels})\W*$", "", _trimmed(line), flags=re.IGNORECASE))
    if not re.search(r"[^\W\d_]", line):
        return ""
    return f"{line.rstrip(' ?')}? Answer:" if line.endswith("?") else line


def _trimmed(line: str) -> str:
    return re.sub(r"^\W+|[^\w:?]+$", "", " ".join(line.split()))


def _new(lines: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those lines that say something new, marks and capitals apart."""
    seen = {_plain(words) for words in known} | {""}
    result = []
    for line in lines:
        if _plain(line) not in seen:
            seen.add(_plain(line))
            result.append(line)
    return result


def _plain(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.casefold()))


def _known(problem: Problem) -> list[str]:
    return [start.words for start in (problem, *problem.rivals) if start.words is not None]


def _goes_on(asker: Asker) -> bool:
    """Whether replies tell how the words of a prompt might go on."""
    able = asker.backend.capabilities
    causal = not (able.chat or able.decoder_slot or able.text_after_answer)
    return causal and asker.head.top_k > 1


def _slotted(problem: Problem) -> Problem | None:
    """The first start with a slot that holds words, where there are several to choose from."""
    starts = (problem, *problem.rivals) if problem.rivals else ()
    slotted = (start for start in starts if start.words and start.reader.template.slots)
    return next(slotted, None)


def _with_words(problem: Problem, words: str) -> Problem:
    """The same task with other words in the slot, as plain text."""
    template = Template.parse(in_words(problem.reader.template.source, words))
    reader = Reader(template, problem.reader.verbalizer)
    train, dev, test = (
        Part(reader.prompts(part.examples), part.labels, part.examples)
        for part in (problem.train, problem.dev, problem.test)
    )
    return replace(
        problem,
        reader=reader,
        train=train,
        dev=dev,
        test=test,
        frame=None,
        words=words,
        rivals=(),
    )


# ------------------------------------------------------------------------- the question


def _question(problem: Problem, rng: np.random.Generator) -> tuple[Segment, ...]:
    """Labelled examples, and the list of words that wants one more line."""
    labels, words = problem.train.labels, problem.reader.verbalizer.words
    shown = [rng.choice(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    segments: list[Segment] = []
    for row in rng.permutation(shown)[:SHOWN]:
        segments += _shown(problem.train.examples[row], words[labels[row]])
    known = _known(problem)
    listed = "".join(f"- {known[at].strip()}\n" for at in rng.permutation(len(known)))
    return (*segments, Words(f"{_ASKED}\n{listed}-"))


def _shown(example: Example, word: str) -> list[Segment]:
    segments: list[Segment] = []
    for text in filter(None, (example.text, example.text_pair)):
        short = " ".join(text.split()[:SHOWN_WORDS])
        segments += [Words("Text: "), Words(short, truncatable=True), Words("\n")]
    return [*segments, Words(f"Answer: {word}\n\n")]


# -------------------------------------------------------------------------- the drawing


@dataclass
class _Draft:
    """A line that is being written.

    Attributes:
        ids: Its tokens.
        text: What they say.
        done: Whether its end has come.
    """

    ids: tuple[int, ...] = ()
    text: str = ""
    done: bool = False

    @property
    def line(self) -> str:
        """Its text as far as the first new line."""
        return self.text.partition("\n")[0]

    def extended(self, token: int, table: EmbeddingTable) -> _Draft:
        """With one token more; one that says nothing, or a new line, is its end."""
        ids = (*self.ids, token)
        text = table.detokenize(ids)
        return _Draft(ids, text, done="\n" in text or text == self.text)


@dataclass(frozen=True)
class _Writer:
    """Draws lines that go on where a question ends.

    Attributes:
        asker: Asks.
        reader: Its label words are asked about beside the top tokens.
        table: Reads tokens.
        question: All lines begin behind it, so that a model can read it once.
        rng: Draws.
    """

    asker: Asker
    reader: Reader
    table: EmbeddingTable
    question: tuple[Segment, ...]
    rng: np.random.Generator

    def need(self, count: int) -> Need:
        """What so many lines take at most."""
        first = self._need([_Draft()])
        later = count * (MOST_TOKENS - 1)
        total = first.times(1 + later, first.what)
        grown = count * sum(range(1, MOST_TOKENS))
        return replace(total, tokens=total.tokens + grown)

    def drafts(self, count: int) -> list[_Draft]:
        """Lines of different first tokens, unfinished ones among them if the budget runs out."""
        [tokens] = self._drawn([_Draft()], count)
        drafts = [_Draft().extended(token, self.table) for token in tokens]
        for _ in range(1, MOST_TOKENS):
            going = [at for at, draft in enumerate(drafts) if not draft.done]
            asked = [drafts[at] for at in going]
            # The text so far may come out as more tokens than were drawn.
            if not asked or not self.asker.budget.affords(self._need(asked)):
                break
            for at, tokens in zip(going, self._drawn(asked, 1), strict=True):
                if tokens:
                    drafts[at] = drafts[at].extended(tokens[0], self.table)
                else:
                    drafts[at] = replace(drafts[at], done=True)
        return drafts

    def _drawn(self, drafts: Sequence[_Draft], each: int) -> list[list[int]]:
        """Up to so many different tokens that each draft may go on with."""
        evidence = self.asker.evidence_on(self._view, self._prompts(drafts), "rewritings")
        rows = zip(evidence.top_ids, evidence.top_logprobs.astype(np.float64), strict=True)
        return [self._some_of(ids, logprobs, each) for ids, logprobs in rows]

    def _some_of(self, ids: IntArray, logprobs: Vector, each: int) -> list[int]:
        # Servers that tell fewer tokens than asked for fill up with ids that stand for nothing.
        real = np.flatnonzero(ids < self.table.vocabulary_size)[:LIKELIEST]
        if np.exp(logprobs[real]).sum() < LEAST_MASS:
            return []
        # The largest of these sums are a sample without replacement (Gumbel top-k).
        keys = logprobs[real] / TEMPERATURE + self.rng.gumbel(size=len(real))
        return [int(token) for token in ids[real[np.argsort(-keys)[:each]]]]

    def _need(self, drafts: Sequence[_Draft]) -> Need:
        return self.asker.need_of(self._view, self._prompts(drafts), "rewritings")

    def _prompts(self, drafts: Sequence[_Draft]) -> list[Prompt]:
        return [Prompt((*self.question, Words(draft.text), AnswerSlot())) for draft in drafts]

    @property
    def _view(self) -> View:
        """Whose delta and choices go with the prompts: none, and the label words."""
        return View("rewritings", self.reader, np.zeros(0, dtype=np.int64))
