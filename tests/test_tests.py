"""The tests themselves: each one can fail by what it says, not only by an error on the way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CHECKS = {"check_env", "check_env_specs", "gradcheck", "gradgradcheck", "raises", "warns"}
"""Calls that fail by themselves; also everything whose name begins with assert_."""


def called(node: ast.AST) -> set[str]:
    """Returns the last names of what is called inside: `torch.testing.assert_close` gives assert_close."""
    functions = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return {ast.unparse(function).rpartition(".")[2] for function in functions}


def functions_of(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def asserts(function: ast.FunctionDef, helpers: set[str]) -> bool:
    names = called(function)
    return (
        any(isinstance(node, ast.Assert) for node in ast.walk(function))
        or bool(names & (CHECKS | helpers))
        or any(name.startswith("assert_") for name in names)
    )


def without_assert(sources: list[str]) -> list[str]:
    """Returns the names of the tests that neither assert nor call a check, nor a helper of these files that does."""
    functions = [function for source in sources for function in functions_of(ast.parse(source))]
    helpers: set[str] = set()
    while found := {f.name for f in functions if not f.name.startswith("test_") and asserts(f, helpers)} - helpers:
        helpers |= found
    return [f.name for f in functions if f.name.startswith("test_") and not asserts(f, helpers)]


def test_every_test_has_an_assert():
    assert not without_assert([path.read_text() for path in sorted(FOLDER.rglob("*.py"))])


@pytest.mark.parametrize(
    ("body", "fine"),
    [
        ("x = 1", False),
        ("print('assert')", False),
        ("assert x", True),
        ("with pytest.raises(ValueError): f()", True),
        ("np.testing.assert_allclose(x, y)", True),
        ("check_env_specs(env)", True),
        ("by_another(x)", True),
        ("harmless(x)", False),
    ],
)
def test_what_counts_as_an_assert(body, fine):
    helper = "def by_another(x):\n    compare(x)\ndef compare(x):\n    assert x\ndef harmless(x):\n    return x\n"
    assert without_assert([helper, f"def test_it():\n    {body}\n"]) == ([] if fine else ["test_it"])
