"""How the documentation is built."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parent))

import commands_page
import interfaces_page
import settings_page

import broker
import broker.interfaces

project = "txbroker"
author = "the txbroker authors"
release = version = broker.__version__
html_theme = "furo"  # light and dark, as the reader's system is
html_title = f"txbroker {version}"
html_static_path = ["_static"]
html_css_files = ["txbroker.css"]
html_js_files = ["tables.js"]
html_show_copyright = False
html_show_sphinx = False
exclude_patterns = ["_build"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
# What is copied is what can be pasted: no prompts, and none of what was printed.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
# `make links` looks at what stands in this repository; a page of somebody else's may be away.
linkcheck_ignore = [r"https?://", r"tcp:"]  # the latter are endpoints, which only look like links
autodoc_member_order = "bysource"
napoleon_use_ivar = True
autodoc_typehints = "signature"


class Settings(SphinxDirective):
    """Puts the table of all settings here, made from the class itself."""

    def run(self) -> list[nodes.Node]:
        lines = StringList(settings_page.table().splitlines(), source="broker/config/settings.py")
        section = nodes.section()
        self.state.nested_parse(lines, self.content_offset, section, match_titles=True)
        return section.children


class Commands(SphinxDirective):
    """Puts the reference of ``txbroker`` here, made from the commands themselves."""

    def run(self) -> list[nodes.Node]:
        lines = StringList(commands_page.page().splitlines(), source="broker/app/command.py")
        section = nodes.section()
        self.state.nested_parse(lines, self.content_offset, section, match_titles=True)
        return section.children


class Interfaces(SphinxDirective):
    """Puts the contracts of all interfaces here, made from their source."""

    def run(self) -> list[nodes.Node]:
        for source in Path(broker.interfaces.__file__).parent.glob("*.py"):
            self.env.note_dependency(str(source))
        text = interfaces_page.page(broker.interfaces, _converted)
        lines = StringList(text.splitlines(), source="broker/interfaces")
        section = nodes.section()
        self.state.nested_parse(lines, self.content_offset, section, match_titles=True)
        return section.children


def _converted(docstring: str) -> list[str]:
    return str(GoogleDocstring(docstring, Config())).splitlines()  # its lines() may hold several


def setup(app: Sphinx) -> None:
    app.add_directive("settings", Settings)
    app.add_directive("commands", Commands)
    app.add_directive("interfaces", Interfaces)
