"""The house holds: who may import whom, what stays unimported, how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SFL = Path(__file__).parent.parent / "sfl"
ROOMS = {"nn", "data", "training", "analysis", "bench"}
# The hall without those that call rooms: UPPER_HALL (tables for types alone), sfl.
GROUND = {
    "errors", "files", "workers", "display", "ram", "yamlfile", "settings", "mistakes", "config",
    "rundir", "runs", "units", "pictures",
}  # fmt: skip
COMMANDS = {"cli", "cli_options", "cli_runs", "cli_compare", "cli_plot"}
UPPER_HALL = {
    "experiments",
    "comparisons",
    "missing",
    "tables",
    "exits",
    *COMMANDS,
}  # what calls the rooms
HEAVY = {"torch", "torchvision", "scipy", "matplotlib", "PIL", "safetensors", "tensorboard"}
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
        """The room, or module of the hall, that is imported; None for other packages."""
        package, _, rest = self.name.partition(".")
        return rest.split(".")[0] if package == "sfl" else None


def imports_of(tree: ast.AST, when: str = "start") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            # `from sfl import runs` imports sfl.runs
            parts = [node.module] if node.module != "sfl" else []
            yield from (Import(name, when) for name in parts)
            if not parts:
                yield from (Import(f"sfl.{alias.name}", when) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (Import(found.name, "types") for found in imports_of(node))
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(node, "call" if inside else when)


def imports(module: str) -> list[Import]:
    return list(imports_of(ast.parse((SFL / module).read_text(encoding="utf-8"))))


def home(module: str) -> str:
    """The room of a module, or its own name if it stands in the hall."""
    return module.split("/")[0].removesuffix(".py")


def of(*homes: str) -> list[str]:
    return [module for module in MODULES if home(module) in homes]


def test_every_room_and_module_is_known() -> None:
    """A new module must be given its place here, or no rule would hold for it."""
    hall = (
        GROUND
        | COMMANDS
        | {"exits", "experiments", "comparisons", "missing", "tables", "__init__", "__main__"}
    )
    assert {home(module) for module in MODULES} <= hall | ROOMS
    assert {home(module) for module in MODULES} >= GROUND


def test_the_reader_of_imports_sees_them_all() -> None:
    code = (
        "import a.b\nfrom sfl import runs, nn\nfrom sfl.data import x\n"
        "if TYPE_CHECKING:\n    from sfl.training import y\n"
        "class C:\n    import c\n    def f(self):\n        import d\n"
        "try:\n    import e\nexcept ImportError:\n    pass\n"
    )
    found = {(i.name, i.when) for i in imports_of(ast.parse(code))}
    assert found == {
        ("a.b", "start"),
        ("sfl.runs", "start"),
        ("sfl.nn", "start"),
        ("sfl.data", "start"),
        ("sfl.training", "types"),
        ("c", "start"),
        ("d", "call"),
        ("e", "start"),
    }


Rule = Callable[[Import], bool]


def breaches(modules: list[str], forbidden: Rule) -> list[str]:
    assert modules
    return [
        f"sfl/{module} imports {found.name} ({found.when})"
        for module in modules
        for found in imports(module)
        if forbidden(found)
    ]


def test_the_ground_of_the_hall_imports_no_room() -> None:
    """Not even inside a function: whoever reads a config or lists runs stays light."""
    allowed = GROUND | {None}
    assert breaches(of(*GROUND), lambda found: found.of_sfl not in allowed) == []


def test_nn_imports_torch_and_nothing_else_of_sfl() -> None:
    own = sys.stdlib_module_names | {"torch", "sfl"}

    def forbidden(found: Import) -> bool:
        return found.of_sfl not in ("nn", None) or found.name.split(".")[0] not in own

    assert breaches(of("nn"), forbidden) == []


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("data", {"nn", "training", "analysis", "bench", *UPPER_HALL}),
        ("training", {"analysis", "bench", *UPPER_HALL}),
        ("analysis", {"training", "bench", *UPPER_HALL}),
    ],
)
def test_data_flows_one_way(room: str, others: set[str]) -> None:
    assert breaches(of(room), lambda found: found.of_sfl in others) == []


def test_analysis_needs_models_and_data_only_inside_functions() -> None:
    """And torch, scipy and matplotlib as well: comparing finished runs is reading text files."""

    def forbidden(found: Import) -> bool:
        heavy = found.of_sfl in ("nn", "data") or found.name.split(".")[0] in HEAVY
        return heavy and found.when == "start"

    assert breaches(of("analysis"), forbidden) == []


def test_the_hall_imports_rooms_and_heavy_packages_only_inside_functions() -> None:
    hall = [module for module in MODULES if home(module) not in ROOMS]

    def forbidden(found: Import) -> bool:
        heavy = found.of_sfl in ROOMS or found.name.split(".")[0] in HEAVY
        return heavy and found.when == "start"

    assert breaches(hall, forbidden) == []


def test_only_the_command_line_and_experiments_import_rooms_at_all() -> None:
    """exits looks up whether torch ran out of memory; sfl itself names its public things."""
    others = of("tables", "__init__", "__main__")
    assert breaches(others, lambda found: found.of_sfl in ROOMS and found.when != "types") == []
    assert {f.name for f in imports("exits.py") if f.of_sfl in ROOMS} <= {"sfl.training.memory"}
    everything = set(MODULES) - set(of(*COMMANDS, "__main__"))
    assert breaches(sorted(everything), lambda found: found.of_sfl in COMMANDS) == []


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
import sfl.cli
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
        sfl.cli.main()
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


def test_training_does_not_import_pytorchs_compiler(tmp_path: Path, tiny: Path) -> None:
    """160 MB and a second, which optimizers and tensors without memory would cost by themselves."""
    code = f"""
import sys
import sfl.cli
sys.argv = ["sfl", "train", "--config", {str(tiny)!r}, "--runs", {str(tmp_path / "runs")!r}]
try:
    sfl.cli.main()
except SystemExit as exit:
    assert exit.code == 0
found = {{"torch._dynamo", "sympy", "triton", "torch.utils.flop_counter"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
