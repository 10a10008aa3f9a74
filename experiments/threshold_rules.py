"""Compares rules that choose a threshold, on finished runs with labelled test images.

    python experiments/threshold_rules.py runs/lite0_pretrained/*/seed_0

Each rule chooses thresholds for false-positive rates of 1, 2, 5 and 10%, by the scores of normal
training images alone. The columns of the table are, in percent, the mean share of normal test
images above the threshold, the worst run's share, the mean distance of this share from the rate,
the mean share of anomalous images found, and the worst run's.
"""

import pathlib
import sys

import numpy as np
import pandas as pd
import scipy.stats

from cutpaste_tf import run_folder, threshold


def gumbel(scores: np.ndarray, rate: float) -> float:
    """The threshold by a Gumbel distribution of largest values, fitted by maximum likelihood."""
    return scipy.stats.gumbel_r(*scipy.stats.gumbel_r.fit(scores)).isf(rate)


def gumbel_by_deciles(scores: np.ndarray, rate: float) -> float:
    """The same, fitted to the deciles, which single odd images do not change."""
    shares = np.arange(0.1, 0.95, 0.1)
    slope, offset = np.polyfit(scipy.stats.gumbel_r.ppf(shares), np.quantile(scores, shares), 1)
    return offset + slope * scipy.stats.gumbel_r.isf(rate)


RULES = {
    "conformal": lambda scores, rate: threshold.by_normal(scores, rate, "conformal").value,
    "robust": lambda scores, rate: threshold.by_normal(scores, rate, "robust").value,
    "Gumbel": gumbel,
    "Gumbel by deciles": gumbel_by_deciles,
}


def main(run_dirs: list[str]) -> None:
    """Prints the table."""
    rows = []
    for run_dir in run_dirs:
        normal = run_folder.read_normal_scores(run_dir)
        scores = pathlib.Path(run_dir) / run_folder.SCORES
        tested = pd.read_csv(scores, float_precision="round_trip")
        for rate in threshold.RATES:
            for name, rule in RULES.items():
                shares = (tested.score > rule(normal, rate)).groupby(tested.label).mean()
                rows.append((rate, name, 100 * shares[0], 100 * shares[1]))
    table = pd.DataFrame(rows, columns=["rate", "rule", "false", "found"])
    table["missed by"] = (table.false - 100 * table.rate).abs()
    groups = table.groupby(["rate", "rule"], sort=False)
    columns = {
        "normal above": groups.false.mean(),
        "worst run": groups.false.max(),
        "missed by": groups["missed by"].mean(),
        "found": groups.found.mean(),
        "least found": groups.found.min(),
    }
    print(f"{len(run_dirs)} runs, %\n")
    print(
        pd.DataFrame(columns)
        .reset_index()
        .to_markdown(index=False, floatfmt=("g", "", *5 * [".1f"]))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
