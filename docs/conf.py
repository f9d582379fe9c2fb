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
import frames_page
import interfaces_page
import openapi_page
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


class Generated(SphinxDirective):
    """Puts what a function writes as reStructuredText here; ``source`` is what that is made from."""

    source = ""

    def text(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        lines = StringList(self.text().splitlines(), source=self.source)
        section = nodes.section()
        self.state.nested_parse(lines, self.content_offset, section, match_titles=True)
        return section.children


class Settings(Generated):
    source = "broker/config/settings.py"

    def text(self) -> str:
        return settings_page.table()


class Commands(Generated):
    source = "broker/app/command.py"

    def text(self) -> str:
        return commands_page.page()


class Frames(Generated):
    source = "docs/wire_schemas.py"
    required_arguments = 1

    def text(self) -> str:
        return frames_page.page(self.arguments[0])


class OpenApi(Generated):
    source = "protocols/http/openapi.py"

    def text(self) -> str:
        return openapi_page.page()


class Interfaces(Generated):
    source = "broker/interfaces"

    def text(self) -> str:
        for source in Path(broker.interfaces.__file__).parent.glob("*.py"):
            self.env.note_dependency(str(source))
        return interfaces_page.page(broker.interfaces, _converted)


def _converted(docstring: str) -> list[str]:
    return str(GoogleDocstring(docstring, Config())).splitlines()  # its lines() may hold several


def setup(app: Sphinx) -> None:
    app.add_directive("settings", Settings)
    app.add_directive("commands", Commands)
    app.add_directive("interfaces", Interfaces)
    app.add_directive("frames", Frames)
    app.add_directive("openapi", OpenApi)
