"""How an example becomes a prompt, and a reply a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blackbox_delta.errors import UnsupportedError
from blackbox_delta.tasks import Template, Verbalizer
from blackbox_delta.tasks.templates import escaped
from blackbox_delta.types import AnswerSlot, Backend, DecoderStart, Example, Head, Prompt, Words


@dataclass(frozen=True)
class Reader:
    """How an example becomes a prompt and a reply a label: template and label words.

    Attributes:
        template: The parsed template.
        verbalizer: Labels and their words.
    """

    template: Template
    verbalizer: Verbalizer

    @property
    def choices(self) -> tuple[str, ...]:
        """The c label words as they continue the prompt."""
        return self.verbalizer.choices(self.template.choice_prefix)

    def prompts(self, examples: Sequence[Example]) -> list[Prompt]:
        """One prompt per example."""
        return [self.template.render(example, self.verbalizer.words) for example in examples]

    def references(self, head: Head) -> list[Prompt]:
        """One prompt for each of the head's own texts; in templates of pairs it stands alone."""
        second = "" if self.template.uses_pair else None
        texts = head.references(self.verbalizer.words)
        return self.prompts([Example(text, second) for text in texts])

    def demonstrating(self, examples: Sequence[Example]) -> Reader:
        """The same, with labelled examples before every prompt, filled in.

        In-context learning (Brown et al. 2020, arXiv 2005.14165). They become part of the
        template, so that an artifact keeps them and a local model reads them once.
        """
        filled = "".join(self._filled(example) + "\n\n" for example in examples)
        source = escaped(filled) + self.template.source
        return replace(self, template=Template.parse(source))

    def _filled(self, example: Example) -> str:
        """The template as it reads with its texts and its label word."""
        word = self.choices[self.verbalizer.index(example.label)]
        prompt = self.template.render(example, self.verbalizer.words)
        # Where a decoder would begin, nothing but a space parts the label from what is before it.
        stands_in = {AnswerSlot(): word, DecoderStart(): " "}
        return "".join(
            each.text if isinstance(each, Words) else stands_in.get(each, "")
            for each in prompt.segments
        )

    def check(self, backend: Backend) -> None:
        """Checks that the backend can read this template.

        Raises:
            UnsupportedError: It cannot.
        """
        able = backend.capabilities
        if self.template.uses_decoder and not able.decoder_slot:
            raise UnsupportedError(
                f"the template has a {{decoder}} part, but {backend.name} has no decoder of its "
                "own; leave {decoder} out"
            )
        if self.template.text_after_answer and not able.text_after_answer:
            raise UnsupportedError(
                f"the template goes on after {{label}}, but {backend.name} reads from left to "
                "right and would not see it; put {label} last"
            )
