"""Who may import whom.

Modules of the lowest layer import each other only; each other module imports
from layers below its own, never from one beside it, except that the modules of
a package import their siblings.  The core knows neither the libraries of the
network and of Redis nor the dialects.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    "broker messages errors interfaces patterns registry deadlines options aliases addresses jsontext sessions pages",
    "redis",  # connections, for its store and its bus
    "topics calls channels queues keys access presence memberships tokens metrics settings"
    " stores buses web protocols dialects logs process greeting admin",
    "indices exposition remote",  # derived channels; what shows the metrics; other nodes
    "peer service testing daemon importer",
    "tap command",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
FOREIGN = ("autobahn", "twisted.web", "txredisapi", "hiredis", "httptools", "websockets", "sqlite3")
# Handed its store, its bus and its dialects, the rest is the core, and knows no more of them.
OUTSIDE = {"redis", "stores", "buses", "web", "protocols", "admin", "tap"}


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("broker", "protocols"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def part(module: str) -> str:
    """Return the word of the table for *module*: ``web`` for ``broker.web.site``."""
    first, _, rest = module.partition(".")
    return first if first == "protocols" or not rest else rest.partition(".")[0]


def package(module: str) -> str:
    """Return what the siblings of *module* have in common; "" for a module without any."""
    words = module.split(".")
    if words[0] == "protocols":
        return ".".join(words[:2])
    return ".".join(words[:2]) if len(words) > 2 or (ROOT / Path(*words)).is_dir() else ""


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that *path* imports at run time, wherever in the file."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
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

    yield from walk(ast.parse(path.read_text("utf-8")))


def offences(module: str, imported: str) -> str:
    own = LEVEL.get(part(module))
    if own is None:
        return f"{module} stands in no layer"
    if imported.partition(".")[0] not in ("broker", "protocols"):
        alien = imported.startswith(FOREIGN)
        return f"{module} of the core imports {imported}" if alien and part(module) not in OUTSIDE else ""
    if package(module) and package(module) == package(imported):
        return ""
    theirs = LEVEL.get(part(imported), 0)
    if own == theirs == 0 or theirs < own:
        return ""
    # The door and the parts it opens to name each other in annotations only.
    if own == theirs and imported in ("broker.peer", "broker.service"):
        return ""
    return f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_module_imports_from_below_only(module, path):
    found = [offences(module, imported) for imported in imports(path)]
    assert [offence for offence in found if offence] == []


def test_every_name_of_the_table_is_a_module():
    there = {part(module) for module, _ in modules()}
    assert set(LEVEL) <= there


def test_namespace_package_of_the_dialects_stays_open():
    assert not (ROOT / "protocols" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "imported", "fine"),
    [
        ("broker.topics", "broker.messages", True),
        ("broker.topics", "broker.channels", False),
        ("broker.topics", "broker.service", False),
        ("broker.topics", "autobahn.websocket", False),
        ("broker.web.link", "autobahn.websocket", True),
        ("broker.web.site", "broker.web.http", True),
        ("broker.web.site", "broker.stores.sqlite", False),
        ("broker.service", "broker.topics", True),
        ("broker.service", "broker.tap", False),
        ("broker.tap", "broker.service", True),
        ("protocols.thinws", "broker.interfaces", True),
        ("protocols.thinws", "broker.peer", False),
        ("protocols.thinws", "protocols.hpkv", False),
        ("protocols.microstream.hub", "protocols.microstream.engineio", True),
        ("broker.strange", "broker.messages", False),
    ],
)
def test_table_tells_right_from_wrong(module, imported, fine):
    assert (offences(module, imported) == "") is fine
