"""Everything a run can be told, with defaults measured to be the same for all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from blackbox_delta.errors import ConfigError
from blackbox_delta.prices import Prices
from blackbox_delta.types import IN_SLOTS

#: What can be tuned.
DELTA_KINDS: dict[str, tuple[str, ...]] = {
    "soft-prompt": (),
    "deep-prompt": (),
    "prefix": ("tokens", "layers"),
    "lora": ("rank", "targets"),
    "tiny-lora": ("rank", "targets"),
    "adapter": ("rank", "targets"),
    "bitfit": ("targets",),
    "ia3": ("targets",),
    "last-layer": ("targets",),
    "selective": ("targets",),
    "sparse": ("entries", "targets"),
}
"""Kinds of delta, and what each can be told."""
#: Settings that one recipe reads, beside those that all do.
_OF_RECIPE: dict[str, tuple[str, ...]] = {
    "auto": ("without", "max_queries_per_example"),
    "search": ("objective", "population"),
}
#: What ``auto`` can do without.
PARTS = ("words", "anchors", "demonstrations", "search", "rewritings")


class Settings(BaseModel):
    r"""How a model is to be tuned. Immutable; a run folder keeps them.

    Attributes:
        recipe: ``"auto"`` pools several views of every example, as many as the budget pays for;
            ``"search"`` searches one delta and chooses on development examples.
        shots: k, labelled examples per class for training; ``search`` needs as many again for
            development.
        seed: Determines the split, the subspace and the search.
        budget: What the search may spend: ``"300"`` calls, ``"9600 queries"``, ``"2M tokens"``,
            ``"10 min"`` of the model's time, ``"$2.50"``.
        price_in: $ per million prompt tokens; ``None`` where it is not known.
        price_out: $ per million tokens that the model writes, likewise.
        template: Where the text, the soft prompt and the answer stand; ``None`` for a default.
        label_words: Label to the word that stands for it; ``None`` for the label names.
        delta: What is tuned on the input side or inside the model: ``"soft-prompt"``, or, with a
            local model, ``"deep-prompt"``, ``"prefix"``, ``"lora"``, ``"tiny-lora"``,
            ``"adapter"``, ``"bitfit"``, ``"ia3"``, ``"last-layer"``, ``"selective"`` or
            ``"sparse"``; several at the same time with ``+``, as in ``"lora+bitfit"``; one stage
            after the other with commas, as in ``"soft-prompt,lora"``, each with an equal share of
            the budget and the earlier ones frozen.
        delta_settings: Settings of the delta: ``rank``, ``targets`` (which modules, as PEFT's
            ``target_modules``), ``tokens`` and ``layers`` (of prefixes); ``"lora.rank"`` says it
            to one kind of several.
        soft_tokens: Length of soft slots that do not give their own; ``None`` for as many as
            ``soft_init`` has words' tokens, else 10.
        soft_init: What the soft prompt starts from: ``"random"``, ``"zero"``, ``"text:WORDS"``,
            where ``{options}`` stands for the label words and ``\n`` for a new line; of several
            slots each its own with ``|`` between them, as in ``"text:It was | random"``;
            ``None`` for the default template's own words, else random.
        dimension: d, the search dimension; ``None`` for 500, or D where the delta is smaller.
        subspace: The projection: ``"gaussian"`` or ``"uniform"`` (dense), ``"fastfood"`` or
            ``"sparse"`` (which take no memory), ``"blocks"``, one for each layer, module or
            slot with numbers of its own, or ``"low-rank"``, which moves every matrix along
            products of signs and takes no memory; ``None`` for a dense one, or sparse where that
            would take more than 256 MB, or the blocks that ``"divide-and-conquer"`` and
            ``"adaptive-allocation"`` tell apart, or the low rank of ``"eggroll"``.
        subspace_from: Folders of earlier runs whose deltas span the subspace: of the same model
            and with the same kind of delta, on other tasks. ``dimension`` is then their number,
            or larger, where the rest of the directions are random.
        scale: α, size of the search's first steps relative to the embeddings' deviation, or to
            what the modules put out; ``None`` for 0.3, or less where a few probes find that so
            large a step does harm. ``search`` probes if that takes a tenth of the budget at most.
        optimizer: ``"cma-diagonal"``, ``"cma"``, ``"es"``, ``"eggroll"`` (the same along
            directions of low rank, each pair its own), ``"spsa"``, ``"divide-and-conquer"``
            (block after block), ``"adaptive-allocation"`` (half of the numbers at a time, more of
            them in blocks that matter), ``"two-stage"`` (CMA-ES, then a local search around its
            mean), ``"random"`` or ``"nevergrad:NAME"``.
        population: λ, candidates per generation of ``search``.
        head: ``"anchored"``, ``"discriminant"``, ``"ridge"``, ``"logistic"``, ``"prototypes"``,
            ``"nearest"``, ``"calibrated"``, ``"contextual"`` or ``"plain"``; ``None`` for the
            recipe's own, ``anchored`` for ``auto`` and ``ridge`` for ``search``.
        without: Parts that ``auto`` leaves out, separated by commas: ``words`` (other words than
            the template's or the default's), ``anchors``, ``demonstrations``, ``search``,
            ``rewritings`` (words that the model proposes).
        max_queries_per_example: The most views that ``auto`` may ask about a text it answers.
        objective: ``"cross-entropy"``, ``"hinge"`` or ``"error-rate"``, taken through the head on
            held-out predictions; of ``search``.
        max_test: Score a seeded sample of this many test examples; ``None`` for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipe: Literal["auto", "search"] = "auto"
    shots: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)
    budget: str = "300 calls"
    price_in: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    price_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    template: str | None = None
    label_words: dict[str, str] | None = None
    delta: str = "soft-prompt"
    delta_settings: dict[str, str | int] | None = None
    soft_tokens: int | None = Field(default=None, ge=1)
    soft_init: str | None = None
    dimension: int | None = Field(default=None, ge=1)
    subspace: str | None = None
    subspace_from: list[str] | None = Field(default=None, min_length=1)
    scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    optimizer: str = "cma-diagonal"
    population: int = Field(default=20, ge=2)
    head: str | None = None
    without: str | None = None
    max_queries_per_example: int = Field(default=16, ge=1)
    objective: str = "cross-entropy"
    max_test: int | None = Field(default=None, ge=1)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Checked settings from plain values, numpy's too; ``None`` stands for the default.

        Raises:
            ConfigError: A name is unknown or a value makes no sense.
        """
        given = {name: _plain(value) for name, value in values.items() if value is not None}
        if isinstance(given.get("budget"), int):
            given["budget"] = str(given["budget"])
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None

    @field_validator("subspace_from", mode="before")
    @classmethod
    def _as_texts(cls, value: object) -> object:
        """Folders as they are written."""
        if isinstance(value, list | tuple):
            return [str(each) if isinstance(each, Path) else each for each in value]
        return value

    @field_validator("label_words", mode="before")
    @classmethod
    def _as_named(cls, value: object) -> object:
        """Labels that are numbers by the names that they have in the data."""
        if not isinstance(value, Mapping):
            return value
        plain = {_plain(label): word for label, word in value.items()}
        return {str(key) if isinstance(key, int) else key: word for key, word in plain.items()}

    @field_validator("delta_settings", mode="before")
    @classmethod
    def _flat(cls, value: object) -> object:
        """``lora.rank`` in TOML is a table in a table; here it is one name."""
        if not isinstance(value, dict):
            return value
        flat: dict[str, object] = {}
        for name, own in value.items():
            if isinstance(own, dict):
                flat |= {f"{name}.{each}": _plain(told) for each, told in own.items()}
            else:
                flat[str(name)] = _plain(own)
        for name, told in flat.items():
            if not isinstance(told, str | int) or isinstance(told, bool):
                raise ValueError(f"{name} = {told!r} is neither a whole number nor a text")
        return flat

    @model_validator(mode="after")
    def _one_subspace(self) -> Self:
        if self.subspace is not None and self.subspace_from is not None:
            raise ValueError(
                f"subspace = '{self.subspace}' is drawn by chance, and subspace_from names runs "
                "that span it; give one of the two"
            )
        return self

    @model_validator(mode="after")
    def _known_kinds(self) -> Self:
        for kind in self.delta_kinds:
            if kind not in DELTA_KINDS:
                raise ValueError(
                    f"there is no delta '{kind}'; choose among {', '.join(DELTA_KINDS)}, with + "
                    "between those that are tuned together and commas between stages"
                )
        if len(set(self.delta_kinds)) < len(self.delta_kinds):
            raise ValueError(f"delta = '{self.delta}' names a kind twice")
        if self.soft_tokens is not None and not set(IN_SLOTS).intersection(self.delta_kinds):
            raise ValueError(f"soft_tokens is for {' and '.join(IN_SLOTS)}, not for {self.delta}")
        for name in self.delta_settings or {}:
            whom, _, own = name.rpartition(".")
            meant = self.delta_kinds if whom in ("", "delta") else (whom,)
            if not set(meant) <= set(self.delta_kinds):
                raise ValueError(f"'{name}' is about {whom}, but the delta is '{self.delta}'")
            known = [setting for kind in meant for setting in DELTA_KINDS[kind]]
            if own not in known:
                raise ValueError(
                    f"{'+'.join(meant)} has no setting '{own}'; it has "
                    f"{', '.join(dict.fromkeys(known)) or 'none'}"
                )
        return self

    @field_validator("without")
    @classmethod
    def _known_parts(cls, value: str | None) -> str | None:
        unknown = {part.strip() for part in (value or "").split(",")} - {*PARTS, ""}
        if unknown:
            raise ValueError(
                f"without = {value!r}: there is no part {min(unknown)!r}; known are "
                f"{', '.join(PARTS)}"
            )
        return value

    @model_validator(mode="after")
    def _known_to_the_recipe(self) -> Self:
        """What the recipe would not look at is refused rather than left unheard."""
        if self.recipe == "auto" and len(self.delta_stages) > 1:
            raise ValueError(
                f"delta = '{self.delta}': stages are for the recipe 'search'; for 'auto' join "
                "them with +"
            )
        for recipe, names in _OF_RECIPE.items():
            for name in names if recipe != self.recipe else ():
                # "" leaves nothing out, which is the default too.
                default = type(self).model_fields[name].default
                if (getattr(self, name) or default) != default:
                    raise ValueError(
                        f"{name} is for the recipe '{recipe}'; leave it out for '{self.recipe}'"
                    )
        return self

    @property
    def uses_development(self) -> bool:
        """Whether the recipe looks at development examples."""
        return self.recipe == "search"

    @property
    def delta_stages(self) -> tuple[tuple[str, ...], ...]:
        """The kinds of delta that are tuned together, stage by stage."""
        return tuple(
            tuple(kind.strip() for kind in stage.split("+")) for stage in self.delta.split(",")
        )

    @property
    def delta_kinds(self) -> tuple[str, ...]:
        """The kinds of delta of all stages."""
        return tuple(kind for stage in self.delta_stages for kind in stage)

    def told(self, kind: str) -> dict[str, str | int]:
        """What the delta settings say to one kind; what names it alone goes before the rest."""
        given = self.delta_settings or {}
        return {
            own: given[name]
            for whom in ("", "delta.", f"{kind}.")
            for own in DELTA_KINDS[kind]
            if (name := whom + own) in given
        }

    @property
    def left_out(self) -> frozenset[str]:
        """The parts that ``auto`` leaves out."""
        return frozenset(part.strip() for part in (self.without or "").split(",")) - {""}

    @property
    def head_name(self) -> str:
        """The head that is asked for, or the recipe's own."""
        return self.head or {"auto": "anchored", "search": "ridge"}[self.recipe]

    @property
    def prices(self) -> Prices | None:
        """What tokens cost; ``None`` where it is not known.

        Raises:
            ConfigError: One of the two prices is missing.
        """
        if self.price_in is None and self.price_out is None:
            return None
        if self.price_in is None or self.price_out is None:
            missing = "price_in" if self.price_in is None else "price_out"
            raise ConfigError(f"{missing} is missing: give both prices, 0 for what is not billed")
        return Prices(self.price_in, self.price_out)


def _plain(value: object) -> object:
    """numpy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "value_error":  # our own sentence, which names the settings
            lines.append(problem["msg"].removeprefix("Value error, "))
        elif problem["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            lines.append(f"there is no setting '{name}'; the settings are {known}")
        else:
            lines.append(f"{name} = {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(lines)
