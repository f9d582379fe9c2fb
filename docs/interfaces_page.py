"""Makes reStructuredText of the interfaces in ``broker/interfaces``.

Sphinx documents classes; the interfaces of zope are objects of another kind,
which know neither their annotations nor their keyword-only arguments.  So the
source itself is read.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType

# What authors of plugins use comes first, and of a peer the verbs they begin with.
MODULES = (
    "dialects sessions links peer client topics calls keys credentials history memberships jobs clocks stores buses"
).split()


def page(package: ModuleType, convert: Callable[[str], list[str]]) -> str:
    """Return all interfaces of *package*, module by module, in the order of their source.

    *convert* makes reStructuredText lines of a docstring in Google's style.
    """
    return "\n".join(line for name in MODULES for line in _module(package, name, convert))


def _module(package: ModuleType, name: str, convert: Callable[[str], list[str]]) -> Iterator[str]:
    module = importlib.import_module(f"{package.__name__}.{name}")
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            yield from _interface(package.__name__, node, convert)


def _interface(package: str, node: ast.ClassDef, convert: Callable[[str], list[str]]) -> Iterator[str]:
    yield from (node.name, "-" * len(node.name), "")
    bases = ", ".join(ast.unparse(base) for base in node.bases if ast.unparse(base) != "Interface")
    yield from (f".. py:class:: {package}.{node.name}" + (f"({bases})" if bases else ""), "")
    yield from _indented(convert(ast.get_docstring(node) or ""), 3)
    for member in node.body:
        if isinstance(member, ast.FunctionDef):
            returns = f" -> {ast.unparse(member.returns)}" if member.returns else ""
            yield from (f"   .. py:method:: {member.name}({ast.unparse(member.args)}){returns}", "")
            yield from _indented(convert(ast.get_docstring(member) or ""), 6)
        elif isinstance(member, ast.AnnAssign) and isinstance(member.value, ast.Call):
            yield f"   .. py:attribute:: {ast.unparse(member.target)}"
            yield from (f"      :type: {ast.unparse(member.annotation)}", "")
            yield from _indented([ast.literal_eval(member.value.args[0])], 6)


def _indented(lines: list[str], spaces: int) -> Iterator[str]:
    yield from (" " * spaces + line if line else "" for line in lines)
    yield ""
