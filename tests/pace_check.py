#!/usr/bin/env python3
"""The bubble of a paced pipeline is the predicted one: python3 tests/pace_check.py build/bin/06_pipeline

Four stages and eight microbatches, each schedule. A machine that is busy with something else wakes sleepers late, so
a schedule has up to three runs to come within 0.03."""
import json
import os
import subprocess
import sys
import tempfile

ALLOWED = 0.03
PREDICTED = {"gpipe": 3 / 11, "1f1b": 3 / 11, "interleaved": 3 / 19, "zb-h1": 3 / 27}  # of the whole run


def measured(program, schedule, path):
    subprocess.run([program, "--ranks", "4", "--microbatches", "8", "--pace", "5ms", "--schedule", schedule, "--quiet",
                    "--json", path], check=True, stdout=subprocess.DEVNULL)
    with open(path) as file:
        pipeline = json.load(file)["pipeline"]
    if not abs(pipeline["bubble_predicted"] - PREDICTED[schedule]) < 1e-9:
        sys.exit(f"{schedule}: predicted {pipeline['bubble_predicted']}, not {PREDICTED[schedule]}")
    return pipeline["bubble_measured"]


def main():
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        for schedule, predicted in PREDICTED.items():
            runs = []
            while len(runs) < 3 and not (runs and abs(runs[-1] - predicted) <= ALLOWED):
                runs.append(measured(sys.argv[1], schedule, os.path.join(scratch, "run.json")))
            holds = abs(runs[-1] - predicted) <= ALLOWED
            faults += not holds
            print(f"{schedule}: predicted {predicted:.3f}, measured", *(f"{run:.3f}" for run in runs),
                  "" if holds else f"<- none within {ALLOWED}")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
