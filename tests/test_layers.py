"""Who may import whom.

A module imports from rows of the table above its own, never from one beside it, except
that the modules of the first row import each other, and those of a package their siblings.
No modules import each other, for types either.
The core knows neither the libraries of the network and of Redis nor the dialects.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    "broker broker.arenas broker.remembered broker.messages broker.errors broker.interfaces broker.jobs broker.patterns"
    " broker.arrays broker.objects broker.jsontext broker.plugins broker.separators broker.answers broker.schemas"
    " broker.speedups broker.versions broker.config.options",
    "broker.core broker.access broker.config broker.observe broker.redis broker.sessions",
    "broker.streams",
    "broker.stores broker.buses broker.cluster broker.web protocols",  # blind to each other
    "broker.peer",
    "broker.core.service",
    "broker.observe.admin broker.testing",
    "broker.client",  # of the broker it has the first row alone: see below
    "broker.app",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
FOREIGN = ("autobahn", "twisted.web", "txredisapi", "hiredis", "httptools", "websockets", "sqlite3")
# Handed its store, its bus and its dialects, the rest is the core, and knows no more of them.
OUTSIDE = ("broker.client", "broker.redis", "broker.stores", "broker.buses", "broker.web", "broker.app", "protocols")
MAX_FUNCTION_LINES = 60
pytestmark = pytest.mark.unmeasured


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("broker", "protocols"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def part(module: str) -> str:
    """Return the longest name of the table that *module* is or is in; ``broker`` is itself alone."""
    words = module.split(".")
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        if name in LEVEL and (name != "broker" or module == name):
            return name
    return ""


def package(module: str) -> str:
    """Return what the siblings of *module* have in common; "" for a module without any."""
    words = module.split(".")
    whole = ".".join(words[:2])
    return whole if len(words) > 2 or (ROOT / Path(*words)).is_dir() else ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path, *, typing: bool = False) -> list[str]:
    """Return the modules that *path* imports, wherever in the file; those for types alone only when *typing*."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # "from broker.web import site" imports broker.web.site.
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if (ROOT / Path(*whole.split("."))).with_suffix(".py").exists() else str(node.module)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return list(walk(parsed(path)))


def offence(module: str, imported: str) -> str:
    """Return what is wrong with *module* importing *imported*, or ""."""
    own = LEVEL.get(part(module))
    if own is None:
        return f"{module} stands in no layer"
    if imported.partition(".")[0] not in ("broker", "protocols"):
        alien = imported.startswith(FOREIGN) and not part(module).startswith(OUTSIDE)
        return f"{module} of the core imports {imported}" if alien else ""
    theirs = LEVEL.get(part(imported), len(LAYERS))
    siblings = own == theirs and package(module) and package(module) == package(imported)
    if own == theirs == 0 or theirs < own or siblings:
        return ""
    return f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_module_imports_from_above_only(module, path):
    found = [offence(module, imported) for imported in imports(path)]
    assert [problem for problem in found if problem] == []


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, by whatever way (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in graph[module]:
            if imported not in order:
                visit(imported)
            if imported in stack:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            start = stack.index(module)
            found.append(set(stack[start:]))
            del stack[start:]

    for module in graph:
        if module not in order:
            visit(module)
    return [component for component in found if len(component) > 1]


def test_no_modules_import_each_other_for_types_either():
    paths = dict(modules())
    graph = {module: {name for name in imports(path, typing=True) if name in paths} for module, path in paths.items()}
    for module, imported in graph.items():
        assert module not in imported
        # A package's __init__ names what is in it: that is no circle of two modules.
        imported -= {name for name in imported if module.startswith(f"{name}.")}
    assert [sorted(circle) for circle in circles(graph)] == []


def test_circles_are_found_however_long():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"d", "a"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["e", "f"]]


def long_functions(module: ast.Module) -> Iterator[str]:
    """Yield the functions of more than MAX_FUNCTION_LINES lines, from ``def`` to their end."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{node.name}: {length} lines"


@pytest.mark.parametrize("folder", ["broker", "protocols", "twisted"])
def test_no_function_is_longer_than_a_screen(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert [f"{path.name} {found}" for path in paths for found in long_functions(parsed(path))] == []


def test_a_function_that_is_too_long_is_found():
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES))
    module = ast.parse(f"async def f():\n{body}\ndef g():\n{body[:-10]}")
    assert list(long_functions(module)) == ["f: 61 lines"]


def test_a_peer_needs_no_more_than_the_parts_of_the_core():
    found = {name for module, path in modules() if module.startswith("broker.peer") for name in imports(path)}
    unfit = ("broker.core.service", "broker.cluster", "broker.stores", "broker.buses", "broker.web")
    assert [name for name in found if name.startswith(unfit)] == []


def test_every_name_of_the_table_is_there():
    there = {part(module) for module, _ in modules()}
    assert set(LEVEL) <= there


CLIENT = [module for module, _ in modules() if part(module) == "broker.client"]
DRIVERS = [f"broker.client.{name}" for name in ("twisted", "asyncio")]


@pytest.mark.parametrize("module", CLIENT)
def test_the_client_has_the_first_row_of_the_broker_alone(module):
    words = {name for name in imports(dict(modules())[module]) if name.startswith(("broker", "protocols"))}
    assert {part(name) for name in words} <= {*LAYERS[0].split(), "broker.client"}
    assert "broker.interfaces" not in words


@pytest.mark.parametrize("module", [module for module in CLIENT if not module.startswith(tuple(DRIVERS))])
def test_the_client_without_its_drivers_knows_nothing_of_input_and_output(module):
    io = ("twisted", "asyncio", "autobahn", "websockets", "aiohttp", "socket", "time")
    assert [name for name in imports(dict(modules())[module]) if name.partition(".")[0] in io] == []


def test_namespace_package_of_the_dialects_stays_open():
    assert not (ROOT / "protocols" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "imported", "fine"),
    [
        ("broker.core.topics", "broker.messages", True),
        ("broker.core.topics", "broker.core.registry", True),
        ("broker.core.topics", "broker.access.tokens", False),
        ("broker.core.topics", "broker.core.service", False),
        ("broker.core.topics", "autobahn.websocket", False),
        ("broker.core.service", "twisted.web.http", False),
        ("broker.observe.admin.port", "twisted.web.http", False),
        ("broker.web.ws.link", "autobahn.websocket", True),
        ("broker.web.site", "broker.web.http.channel", True),
        ("broker.web.site", "broker.stores.sqlite", False),
        ("broker.stores.redis", "broker.redis.connection", True),
        ("broker.stores.redis", "broker.buses.redis", False),
        ("broker.core.service", "broker.core.topics", True),
        ("broker.core.service", "broker.peer", True),
        ("broker.core.service", "broker.app.tap", False),
        ("broker.peer.calls", "broker.core.service", False),
        ("broker.app.tap", "broker.core.service", True),
        ("protocols.thinws", "broker.interfaces", True),
        ("protocols.thinws", "broker.peer", False),
        ("protocols.thinws", "protocols.hpkv", False),
        ("protocols.microstream.hub", "protocols.microstream.engineio", True),
        ("broker.client.twisted", "autobahn.websocket", True),
        ("broker.core.topics", "broker.client.core", False),
        ("broker.strange", "broker.messages", False),
        ("broker.core.topics", "broker.strange", False),
    ],
)
def test_table_tells_right_from_wrong(module, imported, fine):
    assert (offence(module, imported) == "") is fine
