"""The house: files and functions stay short, names are unique, and tensors say their shapes."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tokenlab"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, USUAL_FUNCTION = 350, 60, 25
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
TENSORS = {"Tensor", "torch.Tensor", "np.ndarray"}


def functions(tree: ast.AST) -> Iterator[FUNCTIONS]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_files_are_short():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_are_short():
    lengths = {
        f"{path.relative_to(PACKAGE)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in functions(parsed(path))
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}
    assert sorted(lengths.values())[int(0.95 * len(lengths))] <= USUAL_FUNCTION


def test_public_names_are_unique():
    """No public class or function is defined in two files; commands' entry points and rows of tables apart."""
    counts = Counter(
        node.name
        for path in FILES
        if "commands" not in path.parts
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef | FUNCTIONS) and not node.name.startswith("_") and node.name != "main"
    )
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensor_parameters_say_their_shapes(path):
    """A bare tensor in a parameter says nothing of its axes: jaxtyping's annotations do."""
    bare = [
        f"{node.name}({argument.arg})"
        for node in functions(parsed(path))
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if argument.annotation is not None and names_bare_tensor(argument.annotation)
    ]
    assert bare == []


def names_bare_tensor(annotation: ast.expr) -> bool:
    """Whether an annotation is a tensor, or a tensor or something else, outside jaxtyping's brackets."""
    match annotation:
        case ast.BinOp(left=left, right=right):
            return names_bare_tensor(left) or names_bare_tensor(right)
        case ast.Subscript(value=value, slice=inner):
            container = ast.unparse(value) in {"list", "tuple", "Sequence", "Mapping", "dict", "Iterable"}
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return container and any(map(names_bare_tensor, parts))
        case _:
            return ast.unparse(annotation) in TENSORS
