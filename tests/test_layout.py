"""The rules of the house, checked on the files themselves."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"unlearn_plugin": ROOT / "unlearn_plugin", "unlearn_hooks": ROOT / "hooks" / "unlearn_hooks"}
TESTS = {"unlearn_plugin": ROOT / "tests" / "plugin", "unlearn_hooks": ROOT / "tests" / "hooks"}
SOURCES = [(name, path) for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]
IDS = [path.relative_to(ROOT).as_posix() for _, path in SOURCES]


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return (first.end_lineno or 0) - first.lineno + 1 if is_text else 0


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_a_file_has_at_most_400_lines(package: str, path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_a_function_has_at_most_40_lines_without_its_docstring(package: str, path: Path) -> None:
    long = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node)
            if lines > 40:
                long[node.name] = lines
    assert not long


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_no_assert_no_pickle_no_catch_all_and_no_print_in_package_code(package: str, path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assert):
            found.append(f"assert in line {node.lineno}")
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        ):
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            if not reraises:
                found.append(f"catch-all in line {node.lineno}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.save",
            "pickle.dump",
            "pickle.dumps",
            "print",
        ):
            found.append(f"{ast.unparse(node.func)} in line {node.lineno}")
    assert not found


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_a_source_file_has_its_test_file_at_the_same_path(package: str, path: Path) -> None:
    if path.name in ("__init__.py", "__main__.py"):
        pytest.skip("re-exports only")
    relative = path.relative_to(PACKAGES[package])
    mirrored = TESTS[package] / relative.parent / f"test_{relative.stem.lstrip('_')}.py"
    assert mirrored.exists(), f"{mirrored.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_at_least_0_8_test_lines_for_a_source_line(package: str) -> None:
    source = sum(len(path.read_text().splitlines()) for name, path in SOURCES if name == package)
    shared = [path for path in (ROOT / "tests").glob("*.py")]
    own = sum(len(path.read_text().splitlines()) for path in [*TESTS[package].rglob("*.py"), *shared])
    assert own >= 0.8 * source


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=IDS)
def test_every_name_in_all_exists(package: str, path: Path) -> None:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    name = ".".join([package, *[part for part in parts if part != "__init__"]])
    if name.endswith("__main__"):
        pytest.skip("runs the command line when imported")
    module = importlib.import_module(name)
    assert all(hasattr(module, public) for public in getattr(module, "__all__", []))


@pytest.mark.parametrize(
    "page",
    sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("hooks/*.md")]),
    ids=lambda p: p.name,
)
def test_relative_links_in_the_docs_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_help_appears_without_loading_torch() -> None:
    code = (
        "import sys, unlearn_plugin.cli; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'numpy', 'scipy')))"
    )
    environment_path = [str(ROOT), str(ROOT / "hooks")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {environment_path!r}; {code}"], check=False
    )
    assert done.returncode == 0


def test_the_layers_hold() -> None:
    linter = pytest.importorskip("importlinter.cli", reason="import-linter is in the lint extra")
    assert linter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0
