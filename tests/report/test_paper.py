"""The paper's experiments by name, and that the flag files say what the tables expect."""

import json

import pytest
from conftest import ROOT

from cutpaste_tf import choices, cli, config
from cutpaste_tf.files import UserError
from cutpaste_tf.report import paper, tables

SHARED_TABLES = ROOT.parent / "shared" / "paper" / "tables.json"
FLAGFILES = sorted((ROOT / "experiments").glob("*.flags"))
EXPERIMENTS = paper.BY_NAME
OWN = ("demo", "resnet18_demo", "lite0", "lite0_pretrained")  # not the paper's


def flags_of(file):
    """The values of a flag file's flags by name, those of the files that it includes too."""
    lines = cli._with_flagfiles([f"--flagfile={file}"])
    return {name[2:]: value for name, _, value in (line.partition("=") for line in lines)}


def runs_of(experiment):
    flagfile = experiment.flagfile
    packaged = flags_of(flagfile)["dataset"] == "elpv"
    data = [] if packaged else ["--data_dir=MVTEC_AD"]
    if flags_of(flagfile)["dataset"] == "folder":
        data.append("--dataset=mvtec_ad")
    return cli.parse_runs([f"--flagfile={flagfile}", *experiment.flags, *data])


def belongs(run, column):
    required = all(getattr(run, name) == value for name, value in column.required.items())
    return required and not tables.differences(run, column)


@pytest.mark.skipif(not SHARED_TABLES.is_file(), reason="the paper's tables are not beside this")
def test_the_papers_numbers_are_those_handed_over():
    assert json.loads(SHARED_TABLES.read_text(encoding="utf-8")) == paper.PRINTED


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_has_its_runs_and_the_papers_head_and_batch(name):
    """Section 4: "an MLP projection head"; the companion code counts images, rotation's too."""
    assert f"`{name}`" in (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    runs = runs_of(EXPERIMENTS[name])
    if name in OWN:
        return
    categories = choices.CATEGORIES["cifar10" if name.startswith("cifar10") else "mvtec_ad"]
    assert {run.category for run in runs} == set(categories)
    assert len(runs) == len(categories) * (1 if name == "effnet_b4_pretrained" else 5)
    if runs[0].steps:
        assert len(runs[0].head_dims) > 1
        assert runs[0].batch_size == (8 if runs[0].backbone.startswith("efficientnet") else 32)


# How it is computed, and what is looked at: numbers change by rounding at most.
HOW = config.NOT_IN_RESULTS | {"mixed_precision", "jit_compile", "maps"}
TRAINING = {"task", "head_dims", "batch_size", "learning_rate", "weight_decay", "translation"}
TRAINING |= {"view_jitter"}
TWO_STAGES = {"head_steps", "finetune_steps", "finetune_learning_rate"}


def needed(run):
    """The flags that a run's numbers depend on."""
    ranges = {name for ranges in choices.TASKS.values() for name in ranges}
    unused = [
        (True, HOW),
        (True, ranges - (set(choices.TASKS[run.task]) if run.steps else set())),
        (True, {"steps"} if run.staged else TWO_STAGES),
        (not run.steps, TRAINING),
        (not run.steps or run.weights == "none", {"keep_pretrained"}),
        (run.backbone != "resnet18", {"width", "stem"}),
        (not run.patch_size, {"dense_stride"}),
        (run.maps != "features", {"map_levels", "image_score"}),
        (run.maps not in ("features", "patches"), {"location_density"}),
    ]
    return set(config.FIELDS) - set().union(*(names for applies, names in unused if applies))


@pytest.mark.parametrize("file", FLAGFILES, ids=lambda path: path.stem)
def test_flagfiles_pin_all_that_their_numbers_depend_on_and_say_how_to_run_them(file):
    """A default that changes changes no table."""
    text = file.read_text(encoding="utf-8")
    own = [line.partition("=")[0] for line in text.splitlines() if line.startswith("--")]
    assert len(own) == len(set(own)), "a flag is there twice"
    if file.stem == "paper":  # what others include
        return
    assert f"python -m cutpaste_tf.main --flagfile=experiments/{file.name}" in text
    values = flags_of(file)
    names = set(config.FIELDS)
    pinned = {name if name in names else name.removeprefix("no") for name in values}
    experiment = EXPERIMENTS[file.stem]
    run = runs_of(experiment)[0]
    assert needed(run) - pinned == set()
    for name in set(values) & names - {"dataset", "category", "seed"}:
        assert run.flag(name) == f"--{name}={values[name] or 'true'}"


@pytest.mark.parametrize("table", sorted(set(paper.EXPERIMENTS) - {"others"}))
def test_each_column_of_ours_is_one_experiment_with_the_papers_settings(table):
    runs = {experiment: runs_of(experiment)[0] for experiment in paper.EXPERIMENTS[table]}
    _, columns = paper.TABLES[table.removeprefix("table")]
    own = [column for column in columns if column.experiment]
    for column in own:
        assert belongs(runs[column.experiment], column), column.name
    for run in runs.values():
        assert any(belongs(run, column) for column in own), run


def test_experiments_are_chosen_by_table_name_and_file_each_once(tmp_path):
    own = tmp_path / "mine.flags"
    own.write_text("--dataset=textures\n")
    experiments = paper.choose(["table5", "resnet18_scar", str(own), "table5"])
    names = ["cutpaste", "cutpaste_scar", "cutpaste_union", "cutpaste_3way", "scar"]
    assert [e.name for e in experiments] == [*(f"resnet18_{name}" for name in names), "mine"]
    # Tables 1 and 6 share their trainings.
    both = paper.choose(["table1", "table6"])
    assert len({experiment.name for experiment in both}) == len(both) == 6
    tested = {x.name for x in both if "--test_anomalies=all" in x.flags}
    assert tested == {"resnet18_cutout", "resnet18_cutpaste_3way"}
    assert EXPERIMENTS["resnet18_cutout"].flags == ()
    # The defaults of the ablations are one experiment.
    assert list(map(len, map(paper.EXPERIMENTS.get, ("table7", "table8")))) == [8, 7]


def test_what_is_no_experiment_is_named(tmp_path):
    for name in ("table9", "resnet18_jigsaw", str(tmp_path / "none.flags")):
        with pytest.raises(UserError, match=name):
            paper.choose([name])
    files = [tmp_path / folder / "x.flags" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("")
    with pytest.raises(UserError, match="share the folder"):
        paper.choose(list(map(str, files)))


def test_experiments_are_found_from_any_folder_and_no_stray_file_takes_their_place(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.flags").write_text("--dataset=textures\n")
    (tmp_path / "paper.flags").write_text("--steps=1\n")
    assert flags_of(EXPERIMENTS["demo"].flagfile)["dataset"] == "elpv"
    (own,) = paper.choose(["demo.flags"])
    assert flags_of(own.flagfile) == {"dataset": "textures"}
    run = runs_of(EXPERIMENTS["resnet18_scar"])[0]  # whose file includes paper.flags
    assert (run.task, run.steps, run.batch_size) == ("scar", 65536, 32)
