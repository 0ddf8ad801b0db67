"""The house holds: who may import whom, what stays unimported, how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SFL = Path(__file__).parent.parent / "sfl"
LEAVES = {
    "errors", "files", "units", "progress", "pictures", "shell", "stats", "torchrun",
    "host_memory", "locks", "cores",
}  # fmt: skip
# What each room may import of sfl, beside itself. A name stands for a room or a leaf, a dotted one
# for a single module.
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "config": {*LEAVES, "nn.models.graphs"},
    "runs": {*LEAVES, "config"},
    "data": LEAVES,
    "nn": set(),
    "learning": {"errors", "nn"},
    "training": {*LEAVES, "config", "runs", "data", "nn", "learning"},
    "plots": {*LEAVES, "config", "runs", "data", "nn"},
    "jobs": {*LEAVES, "config", "runs", "training", "data", "cli.exits"},
    "comparison": {*LEAVES, "config", "runs", "plots", "training", "data", "jobs"},
}
EVERYTHING = {"bench", "cli", "library", "returned", "__init__", "__main__"}
# The modules of comparison that train or test something.
TRAINS = {"comparison/plan.py", "comparison/results.py"}
HEAVY = {"torch", "torchvision", "scipy", "matplotlib", "PIL", "safetensors", "tensorboard"}
HEAVY_ROOMS = {"data", "nn", "learning", "training", "bench"}
MAX_FUNCTION, MAX_FILE = 60, 300

MODULES = sorted(path.relative_to(SFL).as_posix() for path in SFL.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module, as a dotted name.

    when: "start" (the module is imported), "call" (a function is called), "types" (never).
    """

    name: str
    when: str

    @property
    def of_sfl(self) -> str | None:
        """The module of sfl that is imported, "nn.spatial"; None for other packages."""
        package, _, rest = self.name.partition(".")
        return (rest or "__init__") if package == "sfl" else None


def imports_of(tree: ast.AST, when: str = "start") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            # `from sfl.nn import spatial` imports sfl.nn.spatial
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if is_module(inner) else node.module, when)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (Import(found.name, "types") for found in imports_of(node))
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(node, "call" if inside else when)


def is_module(name: str) -> bool:
    package, *parts = name.split(".")
    path = SFL.joinpath(*parts)
    return package == "sfl" and (path.with_suffix(".py").is_file() or path.is_dir())


def imports(module: str) -> list[Import]:
    return list(imports_of(ast.parse((SFL / module).read_text(encoding="utf-8"))))


def room(module: str) -> str:
    """The room of a module, given as a path or a dotted name; or its own name beside the rooms."""
    return module.replace("/", ".").removesuffix(".py").split(".")[0]


def of(*rooms: str) -> list[str]:
    return [module for module in MODULES if room(module) in rooms]


def breaches(modules: Iterable[str], forbidden: Callable[[Import], bool]) -> list[str]:
    modules = list(modules)
    assert modules
    return [
        f"sfl/{module} imports {found.name} ({found.when})"
        for module in modules
        for found in imports(module)
        if forbidden(found)
    ]


def test_the_reader_of_imports_sees_them_all() -> None:
    code = (
        "import a.b\nfrom sfl import units, nn\nfrom sfl.data.dataset import x\n"
        "if TYPE_CHECKING:\n    from sfl.training import fit\n"
        "class C:\n    import c\n    def f(self):\n        import d\n"
        "try:\n    import e\nexcept ImportError:\n    pass\n"
    )
    found = {(i.name, i.when) for i in imports_of(ast.parse(code))}
    assert found == {
        ("a.b", "start"),
        ("sfl.units", "start"),
        ("sfl.nn", "start"),
        ("sfl.data.dataset", "start"),
        ("sfl.training.fit", "types"),
        ("c", "start"),
        ("d", "call"),
        ("e", "start"),
    }


def test_every_room_has_its_rule() -> None:
    assert {room(module) for module in MODULES} == MAY_IMPORT.keys() | EVERYTHING


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))  # a set's order varies by process
def test_a_room_imports_only_what_it_may(name: str) -> None:
    """Not even inside a function, nor for types."""
    allowed = {name, *MAY_IMPORT[name]}

    def forbidden(found: Import) -> bool:
        of_sfl = found.of_sfl
        return of_sfl is not None and of_sfl not in allowed and room(of_sfl) not in allowed

    assert breaches(of(name), forbidden) == []


def test_only_what_trains_in_the_comparison_imports_training() -> None:
    """And only when it is called: a comparison of finished runs needs no torch."""

    def training(found: Import) -> bool:
        return found.of_sfl is not None and room(found.of_sfl) == "training"

    modules = set(of("comparison"))
    assert breaches(modules - TRAINS, training) == []
    assert breaches(TRAINS, lambda found: training(found) and found.when == "start") == []


def test_nn_needs_torch_alone() -> None:
    """And, of the engine for GPUs, Triton, which PyTorch brings where it has GPUs."""
    own = sys.stdlib_module_names | {"torch", "sfl"}
    gpu = {module for module in of("nn") if module.startswith("nn/engine/gpu/")}
    for modules, allowed in ((gpu, own | {"triton"}), (set(of("nn")) - gpu, own)):
        assert breaches(modules, lambda found: found.name.split(".")[0] not in allowed) == []  # noqa: B023


def test_the_graphs_need_no_torch() -> None:
    for module in ("nn/__init__.py", "nn/models/__init__.py", "nn/models/graphs.py"):
        assert {found.name for found in imports(module)} <= {"typing"}


def test_the_idea_calls_only_the_face_of_the_engine() -> None:
    modules = [module for module in of("nn") if not module.startswith("nn/engine/")]

    def forbidden(found: Import) -> bool:
        return (found.of_sfl or "").startswith("nn.engine.")

    assert breaches(modules, forbidden) == []


def test_the_engine_knows_of_nn_the_window_alone() -> None:
    modules = [module for module in of("nn") if module.startswith("nn/engine/")]

    def forbidden(found: Import) -> bool:
        of_sfl = found.of_sfl
        return of_sfl is not None and not of_sfl.startswith(("nn.engine", "nn.window"))

    assert breaches(modules, forbidden) == []


def test_reading_runs_needs_no_heavy_package_at_the_start() -> None:
    """torch and such are imported inside functions where a room is not made for them."""
    light = [module for module in MODULES if room(module) not in HEAVY_ROOMS]

    def forbidden(found: Import) -> bool:
        of_sfl = found.of_sfl
        heavy = found.name.split(".")[0] in HEAVY
        if of_sfl is not None and of_sfl != "nn.models.graphs":
            heavy |= room(of_sfl) in HEAVY_ROOMS
        return heavy and found.when == "start"

    assert breaches(light, forbidden) == []


def test_no_two_modules_import_each_other() -> None:
    """Nor do three in a ring."""

    def path_of(name: str) -> str:
        path = name.replace(".", "/")
        return f"{path}/__init__.py" if (SFL / path).is_dir() else f"{path}.py"

    graph = {
        module: {
            path_of(found.of_sfl)
            for found in imports(module)
            if found.of_sfl is not None and found.when != "types"
        }
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_files_are_short(module: str) -> None:
    text = (SFL / module).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse((SFL / module).read_text(encoding="utf-8")))


def test_what_only_reads_runs_needs_no_torch(
    tmp_path: Path, tiny: Path, made_run: Callable[..., Path]
) -> None:
    """`import sfl`, --help and the commands that read, each after the other in one process."""
    conv = tmp_path / "conv.yaml"
    conv.write_text(tiny.read_text().replace("SimpleModel", "SimpleModel, layer: conv"))
    made_run(tmp_path / "runs" / "a", tiny.read_text())
    made_run(tmp_path / "runs" / "b", conv.read_text())
    code = f"""
import sys

heavy = {HEAVY!r}

def check(what):
    assert not heavy & set(sys.modules), what + ": " + str(heavy & set(sys.modules))

import sfl
check("import sfl")
import sfl.cli.main
runs = ["--runs", {str(tmp_path / "runs")!r}]
for arguments in (
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["runs", *runs],
    ["runs", *runs, "--json"],
    ["train", "--config", "none"],
    ["evaluate", *runs],
    ["compare", {str(tiny)!r}, {str(conv)!r}, "--no-train", *runs],
    ["runs", "rm", "a", "--yes", *runs],
):
    sys.argv = ["sfl", *arguments]
    try:
        sfl.cli.main.main()
    except SystemExit as exit:
        expected = {{"train": 2, "evaluate": 4}}.get(arguments[0], 0)
        assert "--help" in arguments or exit.code == expected, (arguments, exit.code)
    if "compare" in arguments:
        heavy -= {{"scipy"}}  # it gives the distributions
    check(str(arguments))
print("all light")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all light\n")
