"""Label anchors: what the model says of the label words themselves.

A label word is put to the model as if it were a text ("something positive"), in several phrases,
under the same template as the examples. The replies of one class, averaged, less those of all
classes, say without a single example which tokens a class makes likelier: an automatic
verbalizer over every token, where the label's own log-probability looks at one token alone. It
takes c queries a phrase, once.

A relative of DecT's prototypes (Cui et al. 2023), which need labelled examples, and of automatic
label words (Gao et al. 2021, arXiv 2012.15723, section 5.1; BBT-RGB, Sun et al. 2023), which need
examples too.
"""

from __future__ import annotations

from collections.abc import Sequence

from blackbox_delta.errors import ConfigError
from blackbox_delta.types import Vector

#: Phrases that hold a label word and hardly anything else.
PHRASES = ("{word}", "It is {word}.", "something {word}", "Very {word}")


def anchor_texts(words: Sequence[str]) -> tuple[str, ...]:
    """Every phrase with each of the c label words, phrase by phrase."""
    return tuple(phrase.replace("{word}", word) for phrase in PHRASES for word in words)


def anchor_directions(features: Vector, choices: int) -> Vector:
    """The direction of each class in feature space, of shape (p, c).

    Args:
        features: (phrases·c, p) features of :func:`anchor_texts`'s replies.
        choices: c.

    Raises:
        ConfigError: There are more or fewer rows.
    """
    wanted = len(PHRASES) * choices
    if len(features) != wanted:
        raise ConfigError(
            f"The 'anchored' head needs the replies to its {wanted} anchor texts, in order, and "
            f"got {len(features)}. Score the texts of `references` and pass them as `reference`."
        )
    means = features.reshape(-1, choices, features.shape[1]).mean(axis=0)  # over phrases
    directions: Vector = (means - means.mean(axis=0)).T
    return directions
