"""The paper's experiments by name, and that the flag files say what the tables expect."""

import dataclasses

import pytest
from conftest import ROOT

from cutpaste_tf import choices, cli, config
from cutpaste_tf.files import UserError
from cutpaste_tf.report import experiments, tables


def runs_of(experiment):
    argv = [f"--flagfile={experiments.find_flagfile(experiment)}", *experiment.flags]
    of_folders = ["--dataset=mvtec_ad"] if experiment.name.startswith("lite") else []
    return cli.parse_runs([*argv, *of_folders, "--data_dir=MVTEC_AD"])


@pytest.mark.parametrize("name", sorted(experiments.all_experiments()))
def test_every_experiment_is_a_command_that_can_be_typed(name):
    experiment = experiments.all_experiments()[name]
    if name in ("demo", "resnet18_demo", "lite0", "lite0_pretrained"):  # not the paper's data
        return
    runs = runs_of(experiment)
    dataset = "cifar10" if name.startswith("cifar10") else "mvtec_ad"
    categories = choices.CATEGORIES[dataset]
    assert {run.category for run in runs} == set(categories)
    assert len(runs) == len(categories) * (1 if name == "effnet_b4_pretrained" else 5)
    readme = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in readme


# How it is computed, and what is looked at: numbers change by rounding at most.
HOW = config.NOT_IN_RESULTS | {"mixed_precision", "jit_compile", "maps"}
TRAINING = {
    "task", "head_dims", "batch_size", "learning_rate", "weight_decay",
    "translation", "view_jitter", "independent_views",
}  # fmt: skip
OF_TWO_STAGES = {"head_steps", "finetune_steps", "finetune_learning_rate"}


def needed(run):
    """The flags that a run's numbers depend on."""
    names = {field.name for field in dataclasses.fields(run)} - HOW
    ranges = {name for ranges in choices.TASKS.values() for name in ranges}
    names -= ranges - (set(choices.TASKS[run.task]) if run.steps else set())
    names -= {"steps"} if run.staged else OF_TWO_STAGES
    if not run.steps:
        names -= TRAINING
    if run.weights == "none" or not run.steps:
        names -= {"keep_pretrained"}
    if run.backbone != "resnet18":
        names -= {"width", "stem"}
    if not run.patch_size:
        names -= {"dense_stride"}
    if run.maps != "features":
        names -= {"map_levels", "image_score"}
    if run.maps not in ("features", "patches"):
        names -= {"location_density"}
    return names


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments").glob("*.flags")), ids=lambda p: p.stem
)
def test_flagfiles_pin_all_that_their_numbers_depend_on(file):
    """A default that changes changes no table."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("--")]
    pinned = {line[2:].partition("=")[0] for line in lines}
    known = {field.name for field in dataclasses.fields(config.Config)}
    pinned = {name if name in known else name.removeprefix("no") for name in pinned}
    data = [] if "--dataset=elpv" in lines else ["--dataset=mvtec_ad", "--data_dir=x"]
    run = cli.parse_runs([f"--flagfile={file}", *data])[0]
    assert needed(run) - pinned == set()
    assert len(pinned) == len(lines), "a flag is there twice"


@pytest.mark.parametrize("table", sorted(experiments.TABLES))
def test_each_column_of_ours_is_one_experiment_with_the_papers_settings(table):
    settings = [runs_of(experiment)[0] for experiment in experiments.TABLES[table]]
    columns = tables.build(table.removeprefix("table"), []).columns
    own = [column for column in columns if column.settings is not None]
    for column in own:
        matching = [
            run
            for run in settings
            if all(getattr(run, name) == value for name, value in column.chosen.items())
            and not tables.differences(run, column)
        ]
        assert len(matching) >= 1, column.name
    for run in settings:
        assert any(
            all(getattr(run, name) == value for name, value in column.chosen.items())
            and not tables.differences(run, column)
            for column in own
        ), run


def test_table7_and_8_list_each_value_once_and_the_default_as_itself():
    seven = [experiment.name for experiment in experiments.TABLES["table7"]]
    assert len(seven) == len(set(seven)) == 8  # 4 + 5, the default counted once
    assert len(experiments.TABLES["table8"]) == 7
    assert seven.count("resnet18_cutpaste_3way") == 1
    epochs = experiments.all_experiments()["resnet18_epochs_128"]
    assert runs_of(epochs)[0].steps == 128 * 256
    assert runs_of(experiments.all_experiments()["resnet18_size_0.3"])[0].area_ratio == (0.02, 0.3)


def test_choosing_by_table_name_and_file(tmp_path):
    own = tmp_path / "mine.flags"
    own.write_text("--dataset=textures\n")
    found = experiments.choose(["table5", "resnet18_scar", str(own), "table5"])
    assert [e.name for e in found] == [
        "resnet18_cutpaste",
        "resnet18_cutpaste_scar",
        "resnet18_cutpaste_union",
        "resnet18_cutpaste_3way",
        "resnet18_scar",
        "mine",
    ]


def test_what_is_not_known_is_named(tmp_path, monkeypatch):
    for name in ("table9", "resnet18_jigsaw", str(tmp_path / "none.flags")):
        with pytest.raises(UserError) as error:
            experiments.choose([name])
        assert name in str(error.value)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.flags").write_text("")
    with pytest.raises(UserError, match="share the folder"):
        experiments.choose([str(tmp_path / "a" / "x.flags"), str(tmp_path / "b" / "x.flags")])
    gone = experiments.Experiment("gone", "gone.flags")
    monkeypatch.setattr(experiments, "all_experiments", lambda: {"gone": gone})
    with pytest.raises(UserError, match="checkout"):
        experiments.find_flagfile(gone)


def test_a_stray_file_does_not_take_the_place_of_an_experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.flags").write_text("--dataset=textures\n")
    found = experiments.find_flagfile(experiments.all_experiments()["demo"])
    assert found == str(ROOT / "experiments" / "demo.flags")
    (own,) = experiments.choose(["demo.flags"])
    assert experiments.find_flagfile(own) == str(tmp_path / "demo.flags")


def test_tables_1_and_6_share_their_trainings():
    both = experiments.choose(["table1", "table6"])
    names = [experiment.name for experiment in both]
    assert len(names) == len(set(names)) == 6
    tested = {x.name for x in both if "--test_anomalies=all" in x.flags}
    assert tested == {"resnet18_cutout", "resnet18_cutpaste_3way"}
    assert experiments.all_experiments()["resnet18_cutout"].flags == ()


@pytest.mark.parametrize("name", sorted(experiments.all_experiments()))
def test_the_papers_trainings_have_an_mlp_head_and_as_many_images_a_step(name):
    """Section 4: "an MLP projection head"; the companion code counts images, rotation's too."""
    if name.endswith("demo"):
        return
    run = runs_of(experiments.all_experiments()[name])[0]
    if run.steps:
        assert len(run.head_dims) > 1
        assert run.batch_size == (8 if run.backbone.startswith("efficientnet") else 32)
