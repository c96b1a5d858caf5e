"""What mkdocs asks while it builds the site: the pages made from the code, and links that lead out of docs/.

Pages are read in the repository too, where a link to `../results/README.md` is right. The site holds docs/ alone, so
there a picture from elsewhere in the repository is brought along, and any other link out becomes the file's name.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from docs.make_reference import REFERENCE

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
PICTURES = {".png", ".svg"}


def on_files(files: Any, config: Any) -> Any:
    """The pages of reference/ are files like any other."""
    from mkdocs.structure.files import File  # Of the group docs, which tests of this module do without.

    for name, page in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}", content=page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's text with links that hold on the site."""

    def on_the_site(link: re.Match[str]) -> str:
        mark, words, target, _ = link.groups()
        path = outside(page.file.src_uri, target)
        if path is None:
            return link[0]
        if Path(path).suffix not in PICTURES:
            return words if Path(path).name in words else f"{words} (`{path}`)"
        brought = f"pictures/{path}"
        _bring(path, brought, config, files)
        return f"{mark}[{words}]({posixpath.relpath(brought, posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(on_the_site, markdown)


def _bring(path: str, brought: str, config: Any, files: Any) -> None:
    """Make a picture of the repository a file of the site, once."""
    from mkdocs.structure.files import File

    if files.get_file_from_path(brought) is None:
        files.append(File.generated(config, brought, abs_src_path=str(ROOT / path)))


def outside(page: str, target: str) -> str | None:
    """The path in the repository that a link of a page of docs/ leads to; None where it stays in docs/, is an address,
    or leads to nothing, which mkdocs says."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    is_inside = path.startswith(("docs/", "../"))
    return None if is_inside or not (ROOT / path).exists() else path
