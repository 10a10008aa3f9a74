"""Folders of finished runs, as far as tables need them."""

import json

from cutpaste_tf.choices import CATEGORIES
from cutpaste_tf.config import Config
from cutpaste_tf.report import paper


def add_run(root, category, seed, auroc, scores=None, normal=None, results=None, **settings):
    """Writes what a finished run leaves; returns its folder."""
    dataset = "mvtec_ad" if category in CATEGORIES["mvtec_ad"] else "folder"
    defaults = {"dataset": dataset, "data_dir": "x", "workdir": str(root)} | paper.FLAGFILES
    config = Config(**defaults | settings, category=category, seed=seed)
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.json").write_text(config.to_json())
    content = {"image_auroc": auroc, "pixel_auroc": None, "pixel_aupro": None} | (results or {})
    (config.run_dir / "results.json").write_text(json.dumps(content))
    if scores is not None:
        lines = [f"{i}.png,{int(i > 1)},x,{s}" for i, s in enumerate(scores)]
        text = "\n".join(["path,label,defect_type,score", *lines])
        (config.run_dir / "scores.csv").write_text(text)
        lines = [f"{i}.png,{s}" for i, s in enumerate(normal)]
        (config.run_dir / "normal_scores.csv").write_text("\n".join(["path,score", *lines]))
    return config.run_dir
