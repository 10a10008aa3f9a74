"""The settings: their defaults, their checks, and the JSON form."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import sys

import pytest
from conftest import ROOT, assert_user_error, command

import cutpaste_tf
from cutpaste_tf import choices, cli
from cutpaste_tf.augment import paste, proxy
from cutpaste_tf.config import Config
from cutpaste_tf.files import UserError
from cutpaste_tf.train import classifier


def parse(*arguments):
    return cli.parse_runs(["--dataset=textures", *arguments])


def test_defaults_are_the_papers_and_the_librarys():
    settings = Config(data_dir="x")
    assert (settings.learning_rate, classifier.MOMENTUM) == (0.03, 0.9)
    assert settings.weight_decay == 0.00003
    assert settings.steps == 256 * 256 == 65536
    assert settings.batch_size * 2 == 64
    assert settings.batch_size * 3 == 96
    assert settings.size == (256, 256)
    assert (settings.jitter, settings.area_ratio) == (0.1, (0.02, 0.15))
    for field in dataclasses.fields(proxy.Settings):
        assert getattr(settings, field.name) == field.default
    assert settings.area_ratio == paste.AREA_RATIO
    assert set(choices.TASKS) == set(proxy.TASKS)


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("dataset", "imagenet", "one of mvtec_ad, folder, elpv, textures"),
        ("task", "jigsaw", "one of rotation, cutout, cutout_mean, cutout_color, confetti, scar, "),
        ("seed", "-1 0,x", "a whole number from 0"),
        ("steps", "-1 1.5", "a whole number, at least 0"),
        ("batch_size", "none 0", "a whole number, at least 1"),
        ("image_size", "8 8x48 32x48x64 32x 32,48", "from 32 to 4096, or two, HEIGHTxWIDTH"),
        ("resize", "stretch", "one of squash, pad"),
        ("tiles", "0x2 2 2x65 2x2x2 axb", "ROWSxCOLUMNS, whole numbers from 1 to 64"),
        ("width", "0 4.1", "above 0, at most 4"),
        ("learning_rate", "nan inf 0", "a number above 0"),
        ("weight_decay", "-1 2", "from 0 to 1"),
        ("head_dims", "512,0 x", "one or more whole numbers"),
        ("jitter", "0.6 -0.1", "from 0 to 0.5"),
        ("area_ratio", "0.2,0.1 0.02,0.5 0.1 0.1,x", "two numbers LOW,HIGH with 0.0001 <= LOW <="),
        ("patch_size", "20", "0 or a whole number from 32 to 1024"),
        ("stem", "medium", "one of large, small"),
        ("backbone", "vgg", "one of resnet18, efficientnet_b0, "),
        ("weights", "b4.h5", "none, imagenet, or a file ending in .weights.h5 or .keras"),
        ("features", "level6", "one of pool, level7, level8"),
        ("view_jitter", "0.1,0.2 0.6 0.1,0.2,0.6", "one number from 0 to 0.5, or three"),
        ("density", "flow gmm2 gde,", "one or more of gde, gmm, kde, separated by commas"),
        ("map_levels", "conv9", "auto, or some of block1, "),
        ("augment", "gpu", "one of device, pipeline"),
    ],
)
def test_a_bad_value_is_named_with_flag_value_and_what_is_allowed(name, values, allowed):
    for value in values.split():
        with pytest.raises(UserError) as error:
            parse(f"--{name}={value}")
        start, _, rule = str(error.value).partition(": must be ")
        assert start == f"--{name}={value.split(',')[-1] if name == 'seed' else value}"
        assert allowed in rule
        assert "\n" not in rule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--stepz=3", "stepz"),
        ("brick", "brick"),
        ("--workdir=", "--workdir=: must be a text that is not empty"),
        ("--head_dims=", "--head_dims=: must be one or more whole numbers"),
        ("--category=wool", "--category=wool: must be all or one of brick, grass, gravel"),
        ("--category=brick,wool", "--category=wool"),
        ("--category=", "--category="),
        ("--data_dir=/tmp", "--data_dir=/tmp: is only for data sets without a package"),
        ("--weights=imagenet", "--weights=imagenet: has no weights for --backbone=resnet18"),
        ("--features=level7", "--features=level7: is only for EfficientNets; leave it out"),
        ("--backbone=efficientnet_b4 --width=0.5", "--width=0.5: is only for --backbone=resnet18"),
        ("--backbone=efficientnet_b4 --stem=small", "--stem=small: is only for"),
        ("--backbone=efficientnet_b0 --patch_size=64", "--patch_size=64: is only for"),
        ("--backbone=efficientnet_lite3 --weights=imagenet", "--backbone=efficientnet_lite3"),
        ("--keep_pretrained", "--keep_pretrained=true: is only for --weights"),
        ("--keep_pretrained --weights=a.keras --steps=0", "is only for runs with --steps above 0"),
        ("--keep_pretrained --weights=a.keras --patch_size=64", "is only for whole images"),
        ("--head_steps=3 --steps=5", "--steps=5: the stages have 3 steps together"),
        ("--finetune_learning_rate=0.1", "is only for --finetune_steps"),
        ("--dense_stride=8", "--dense_stride=8: is only for --patch_size"),
        ("--patch_size=300", "--patch_size=300: must fit into --image_size=256"),
        ("--patch_size=48 --image_size=64x40", "--patch_size=48: must fit"),
        ("--patch_size=64 --dense_stride=5", "--dense_stride=5: leaves 4 pixels"),
        ("--patch_size=64 --image_size=128x130", "--dense_stride=4: leaves 2 pixels"),
        ("--patch_size=64 --density=gmm", "--density=gmm: is only for whole images"),
        ("--patch_size=64 --tiles=2x3", "--tiles=2x3: is only for whole images"),
        ("--patch_size=64 --roi=auto", "--roi=auto: is only for whole images"),
        ("--patch_size=64 --resize=pad", "--resize=pad: is only for whole images"),
        ("--patch_size=64 --maps=gradcam", "--maps=gradcam: --maps=patches needs --patch_size"),
        ("--patch_size=64 --location_density=nearby", "must be auto, shared or separate"),
        ("--maps=patches", "--maps=patches: --maps=patches needs --patch_size"),
        ("--maps=gradcam --map_levels=conv3", "--map_levels=conv3: is only for"),
        ("--maps=gradcam --density=kde", "--density=kde: --maps=gradcam needs"),
        ("--maps=features --map_levels=block3", "--map_levels=block3: --backbone=resnet18"),
        ("--location_density=shared", "is only for --maps=features or patches"),
        ("--image_score=map", "--image_score=map: is only for --maps=features"),
        ("--jit_compile --distribution=mirrored", "--jit_compile=true: is only for"),
        ("--mixed_precision --distribution=mirrored", "--mixed_precision=true: is only for"),
        ("--task=rotation --jitter=0.2", "--jitter=0.2: is only for --task=cutpaste, "),
        ("--task=scar --area_ratio=0.1,0.2", "--area_ratio=0.1,0.2: is only for --task=cut"),
        (
            "--task=rotation --image_size=32x48",
            "32x48: --task=rotation needs a square",
        ),
        ("--tiles=2x2 --test_anomalies=square", "is only for runs without --tiles"),
        ("--roi=auto --test_anomalies=square", "is only for runs without --roi"),
        ("--tiles=2x2 --density=gde,kde", "--density=gde,kde: --tiles allows only one density"),
        ("--dataset=mvtec_ad", "--data_dir=: --dataset=mvtec_ad needs the folder"),
        ("--dataset=folder --data_dir=/missing", "/missing"),
    ],
)
def test_other_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(*arguments.split())


@pytest.mark.parametrize("name", ["workdir", "data_dir"])
def test_a_folder_whose_name_is_not_utf8_is_named(name):
    with pytest.raises(UserError, match=f"--{name}=.*not UTF-8"):
        Config(dataset="folder", **{"data_dir": "x", name: os.fsdecode(b"caf\xe9")})


def test_aligned_objects_have_a_density_for_each_location():
    def separate(category, **more):
        values = {"dataset": "mvtec_ad", "data_dir": "x", "category": category, "patch_size": 64}
        return Config(**values | more).separate_locations

    # Appendix A.5's list.
    assert [c for c in choices.CATEGORIES["mvtec_ad"] if separate(c)] == [
        "bottle", "cable", "capsule", "metal_nut", "pill", "toothbrush", "transistor", "zipper"
    ]  # fmt: skip
    assert separate("screw", location_density="separate")
    assert not separate("pill", location_density="shared")
    assert not separate("brick", dataset="textures", data_dir="")


def test_sizes_of_two_sides_and_tiles_are_numbers_between_crosses():
    (settings,) = parse("--category=brick", "--image_size=64x96", "--tiles=2x3")
    assert (settings.size, settings.tiles) == ((64, 96), (2, 3))
    assert settings.input_shape == (64, 96)
    assert (settings.map_locations, settings.masked) == ("nearby", False)
    padded = dataclasses.replace(settings, tiles=(1, 1), resize="pad")
    assert (padded.map_locations, padded.masked) == ("nearby", True)
    (square,) = parse("--category=brick", "--image_size=64")
    for size in (64, [64], (64, 64)):
        assert square == dataclasses.replace(square, image_size=size)


def test_two_stages_take_the_sum_of_their_steps():
    (settings,) = parse("--category=brick", "--head_steps=3", "--finetune_steps=4")
    assert (settings.staged, settings.steps) == (True, 7)
    assert Config.from_json(settings.to_json()) == settings
    assert not parse("--category=brick", "--steps=7")[0].staged


def test_one_run_for_each_category_and_seed():
    runs = parse("--category=brick,gravel", "--seed=0,3,3", "--workdir=w")
    pairs = [("brick", 0), ("brick", 3), ("gravel", 0), ("gravel", 3)]
    assert [(r.category, r.seed) for r in runs] == pairs
    assert runs[1].run_dir == pathlib.Path("w/brick/seed_3")
    assert [r.category for r in parse("--category=all")] == ["brick", "grass", "gravel"]


def test_a_folders_name_may_have_a_comma(tmp_path):
    for name in ("a", "b", "c", "a,b"):
        (tmp_path / name / "train" / "good").mkdir(parents=True)
    for asked, categories in (
        ("a,b", ["a,b"]),
        ("b,c", ["b", "c"]),
        ("b,a", ["b", "a"]),
        ("all", ["a", "a,b", "b", "c"]),
    ):
        runs = parse("--dataset=folder", f"--data_dir={tmp_path}", f"--category={asked}")
        assert [run.category for run in runs] == categories


def test_json_keeps_everything():
    flags = ("--head_dims=64,32", "--area_ratio=0.1,0.2", "--jit_compile", "--image_size=64x96")
    (run,) = parse("--category=brick", *flags)
    assert Config.from_json(run.to_json()) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 1}, "holds no settings of a run"),
        ({"steps": "many"}, "--steps=many"),
        ({"steps": True}, "--steps=true"),
        ({"head_dims": None}, "holds no settings of a run"),
        ({"head_dims": [5, "x"]}, "--head_dims=5,x"),
        ({"tiles": "2x2"}, "--tiles="),
        ({"tiles": [2.5, 2]}, "--tiles=2.5x2"),
        ({"tiles": [True, 2]}, "--tiles=Truex2"),
        ({"tiles": 2}, "--tiles=2"),
        ({"format": 1}, "another version wrote this"),
        ("", "holds no settings"),
        ("{", "holds no settings"),
        ("[1]", "holds no settings"),
    ],
)
def test_json_is_checked_like_flags(change, message):
    values = json.loads(parse("--category=brick")[0].to_json())
    text = change if isinstance(change, str) else json.dumps(values | change)
    with pytest.raises(UserError, match=f"^some/config.json: .*{re.escape(message)}"):
        Config.from_json(text, "some/config.json")


def test_differences_ignore_what_does_not_change_the_result():
    (run,) = parse("--category=brick")
    moved = dataclasses.replace(run, workdir="elsewhere", eval_every=1, augment="pipeline")
    assert (run.differences(moved), run.fingerprint()) == ([], moved.fingerprint())
    shorter = dataclasses.replace(run, steps=1)
    assert run.differences(shorter) == ["steps"]
    assert run.fingerprint() != shorter.fingerprint()


def test_every_flag_is_used():
    """A flag that nothing reads would promise what it does not do."""
    paths = (ROOT / "cutpaste_tf").rglob("*.py")
    own = ("config.py", "choices.py")
    code = "".join(path.read_text(encoding="utf-8") for path in paths if path.name not in own)
    elsewhere = {"image_size", "location_density", "map_levels", "test_anomalies"}  # by properties
    elsewhere |= {field.name for field in dataclasses.fields(proxy.Settings)}
    names = {field.name for field in dataclasses.fields(Config)} - elsewhere
    assert [name for name in names if f"config.{name}" not in code] == []


def test_help_and_mistakes_answer_without_tensorflow():
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for field in dataclasses.fields(Config):
        assert f"--{field.name}" in done.stdout
    assert_user_error(command("--steps=-3"), "--steps=-3")
    code = (
        "import sys; from cutpaste_tf import main; main.main(['main', '--steps=x']); "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    assert command(program=(sys.executable, "-c", code)).returncode == 0


@pytest.mark.parametrize(("user", "expected"), [("", "1"), ("0", "0")])
def test_onednn_is_switched_on_unless_the_user_chose(user, expected, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if user:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", user)
    importlib.reload(cutpaste_tf)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected
