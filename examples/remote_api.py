"""Tune a model that is called through an OpenAI-compatible API.

Run it with ``python examples/remote_api.py http://127.0.0.1:8000/v1``; ``make vllm`` starts a
server to try it on and prints its URL. It sends some 120 short queries.
"""

import argparse

from blackbox_delta import tune
from blackbox_delta.api import forecast
from blackbox_delta.backends import open_backend
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.tasks import task_from_lists, train_on_all

PRAISE = """A joy from the first minute to the last
The best thing I have bought this year
Works as promised and looks lovely
I would order it again at once
Friendly staff and quick delivery
My children love it and so do I
Better than the one that cost twice as much
Fits well and feels good"""
BLAME = """It broke on the second day
Nobody answers when you call for help
The colour is nothing like the picture
I want my money back
Too small and badly made
Three weeks late and the box was open
A waste of time and money
The manual is of no use at all"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", help="base URL of the API, such as https://api.openai.com/v1")
parser.add_argument("--model", help="its name there; not needed where there is only one")
parser.add_argument("--key-env", help="environment variable that holds the API key")
given = parser.parse_args()

# The server is asked first what it offers; the key itself is never an argument.
endpoint = Endpoint(base_url=given.url, key_env=given.key_env)
backend = open_backend(given.model, endpoint=endpoint)
print(f"{backend.name} is used in the tier '{backend.address['access']['tier']}'")

texts, labels = PRAISE.splitlines() + BLAME.splitlines(), ["praise"] * 8 + ["blame"] * 8
data = train_on_all(task_from_lists(texts, labels), seed=0)
settings = {"label_words": {"praise": "good", "blame": "bad"}, "budget": "100 queries"}
expected = forecast(backend, data, **settings).starts[-1].search
print(f"expected: about {expected.queries} queries, {expected.tokens} prompt tokens")

tuned = tune(backend, data, **settings)
result = tuned.result
print(f"spent: {result['queries']} queries, {result['tokens']} prompt tokens")
print(f"kept: {len(result['views'])} views, right on an estimated {result['estimate']:.0%}")
for text in ("I am so happy with it", "It never worked"):
    print(f"{text!r} is {tuned.predict([text])[0]}")
backend.close()
