"""The house: no module imports from a room above its own."""

import ast
import graphlib

from conftest import ROOT

PACKAGE = ROOT / "cutpaste_tf"
# From top to bottom. A room is a module or a package; what it imports lies below it.
ROOMS = (
    "sweep", "main", "app", "export", "predict", "figures", "doctor", "refit",
    "run",
    "train", "report",
    "scoring",
    "cluster", "cli", "machine", "run_folder",
    "data", "models",
    "augment", "draw",
    "threshold",
    "config", "choices", "files",
)  # fmt: skip


def imported_modules(path):
    """Yields the modules of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("cutpaste_tf."))


def imports():
    """Yields pairs of rooms: one that imports, and another that is imported."""
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported_modules(path):
            other = name.split(".")[1]
            if room not in (other, "__init__"):  # the front door leads to every room
                yield room, other


def test_rooms_are_listed_once_and_few_and_their_modules_short():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("_")}
    assert sorted(ROOMS) == sorted(rooms)
    assert len(rooms) <= 24
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(lines.values()) <= 450, max(lines, key=lines.get)


def test_no_import_runs_upwards():
    upwards = [pair for pair in imports() if ROOMS.index(pair[0]) > ROOMS.index(pair[1])]
    assert upwards == []


def test_no_modules_import_each_other():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {}
    for module, path in modules.items():
        names = {name for name in imported_modules(path) if name in modules}
        # `from package.module import thing` names the module before the last dot.
        names |= {name.rpartition(".")[0] for name in imported_modules(path)} & set(modules)
        graph[module] = names - {module}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a circle


def test_the_front_door_is_lazy():
    import cutpaste_tf
    from cutpaste_tf.augment.proxy import make_views
    from cutpaste_tf.scoring.detector import Detector

    assert cutpaste_tf.Detector is Detector
    assert cutpaste_tf.make_views is make_views
    assert not hasattr(cutpaste_tf, "nothing")
