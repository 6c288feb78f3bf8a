"""What `make docs` adds to MkDocs: pages that lie outside docs/, and the reference of every public module.

A hook of MkDocs (https://www.mkdocs.org/user-guide/configuration/#hooks); it writes no file into the sources.
"""

from __future__ import annotations

import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from public_api import ROOT, public_modules  # MkDocs looks for modules beside a hook


def outside() -> dict[str, str]:
    """Return where a page of the site comes from, if that is not docs/: its path on the site by its path here."""
    pages = {"README.md": "index.md"}
    pages |= {name: name.lower() for name in ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")}
    for readme in sorted(ROOT.glob("examples/*/README.md")):
        pages[readme.relative_to(ROOT).as_posix()] = f"examples/{readme.parent.name}.md"
    return pages


def on_config(config: MkDocsConfig) -> None:
    """Put the reference and the decisions into the navigation."""
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"].append({"Modules": [{name: f"reference/{name}.md"} for name in public_modules()]})
        if "Decisions" in section:
            section["Decisions"] = [f"decisions/{path.name}" for path in sorted(ROOT.glob("docs/decisions/*.md"))]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in outside().items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for name in public_modules():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site, and turn the file names of code blocks into their titles."""
    source = {page_path: path for path, page_path in outside().items()}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )
    markdown = re.sub(r"^(```\w+) ([\w./-]+)$", r'\1 title="\2"', markdown, flags=re.MULTILINE)
    return re.sub(
        r"(?<!!)\[([^\[\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]+)?\)",
        lambda link: _on_the_site(source, page.file.src_uri, files, *link.groups(default="")),
        markdown,
    )


def _on_the_site(source: str, page: str, files: Files, text: str, target: str, anchor: str) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    known = outside()
    found = known.get(path) or known.get(f"{path}/README.md") or path.removeprefix("docs/")
    if files.get_file_from_path(found) is None:
        if not (ROOT / path).exists():
            return f"[{text}]({target}{anchor})"  # MkDocs says that it leads nowhere
        return f"{text} (`{path}`)" if text.strip("`") != path else text
    return f"[{text}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"
