"""A page as one file that opens anywhere: styles, scripts and data inside, nothing outside.

Takes a page as it is served and rewrites it, so a page needs no second template. A kept page's
scripts may not import each other, since a file has no addresses to import from.
"""

import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser

from starlette.responses import Response

from astuner.errors import AstunerError
from astuner.logview.web.site import static_text

_STATIC = "/static/"
_OUTSIDE = frozenset(
    {
        *("src", "srcset", "href", "xlink:href", "action", "formaction", "poster", "data", "ping"),
        *("data-whole", "data-at"),
    }
)
"""Attributes that name something to load or to go to; the last two are our scripts' own."""
_VOID = frozenset({"img", "input", "br", "hr", "meta", "link", "wbr", "use"})
_IMPORT = re.compile(r"^\s*(?:import|export)\b.*?\bfrom\b|^\s*import\s*[\"'(]", re.MULTILINE)
_FILE_SIGN = re.compile(r"[^\w.-]+", re.ASCII)


def kept_page(page: str) -> str:
    """The page without anything that lies elsewhere.

    Links to places in the page stay; of others their text. What is marked `data-keep="no"`, which
    serves the viewer alone, and forms are left out. Raises AstunerError for a script that imports.
    """
    rewriter = _Rewriter()
    rewriter.feed(page)
    rewriter.close()
    return rewriter.result()


def as_kept_file(page: str, name: str) -> Response:
    """What a browser saves as `name`.html; see `kept_page`."""
    return Response(
        kept_page(page).encode("utf-8", "backslashreplace"),
        media_type="text/html; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{file_name(name)}"'},
    )


def file_name(name: str) -> str:
    """A name that every file system takes, as in step12-0-7.html."""
    return f"{_FILE_SIGN.sub('_', name).strip('._')[:100] or 'page'}.html"


class _Rewriter(HTMLParser):
    """Copies a page as it stands, but for what points outside."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self._parts: list[str] = []
        self._hashes: dict[str, list[str]] = {"style-src": [], "script-src": []}
        self._head = 0
        """Where the policy is put in, once all scripts are known."""
        self._left_out: list[str] = []
        """The elements that are open within one that is left out, that one first."""
        self._renamed: list[tuple[str, str]] = []
        """Elements that are open, and under which name they were written."""
        self._skips_script = False

    def result(self) -> str:
        policy = "; ".join(
            ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
            + [f"{name} {' '.join(hashes)}" for name, hashes in self._hashes.items() if hashes]
        )
        meta = f'\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
        return "".join([*self._parts[: self._head], meta, *self._parts[self._head :]])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self._left_out or _is_viewers(tag, given):
            self._left_out += [tag] if tag not in _VOID else []
        elif tag == "link":
            self._inline_style(given)
        elif tag == "script" and "src" in given:
            self._inline_script(given["src"])
        else:
            self._copy(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._left_out and dict(attrs).get("data-keep") != "no":
            self._write(tag, attrs, closing="/>")

    def handle_endtag(self, tag: str) -> None:
        if self._left_out:
            if tag in self._left_out:
                while self._left_out.pop() != tag:
                    pass
        elif tag == "script" and self._skips_script:
            self._skips_script = False
        else:
            self._parts.append(f"</{self._name_of(tag)}>")

    def handle_data(self, data: str) -> None:
        if not self._left_out and not self._skips_script:
            self._parts.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self._parts.append(f"<!{decl}>")

    def _copy(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        written = tag
        if tag == "a":
            is_inside = any(name.endswith("href") and _is_inside(value) for name, value in attrs)
            # Within a drawing, a span is unknown; a group is what stands for it there.
            is_drawn = any(
                name == "class" and "drawn" in (value or "").split() for name, value in attrs
            )
            written = "a" if is_inside else "g" if is_drawn else "span"
        if tag not in _VOID:
            self._renamed.append((tag, written))
        self._write(written, attrs)
        if tag == "head":
            self._head = len(self._parts)

    def _write(self, tag: str, attrs: list[tuple[str, str | None]], closing: str = ">") -> None:
        kept = "".join(
            f" {name}" if value is None else f' {name}="{escape(value)}"'
            for name, value in attrs
            if (name not in _OUTSIDE or _is_inside(value)) and name not in ("data-live", "download")
        )
        self._parts.append(f"<{tag}{kept}{closing}")

    def _name_of(self, tag: str) -> str:
        for place in range(len(self._renamed) - 1, -1, -1):
            if self._renamed[place][0] == tag:
                written = self._renamed[place][1]
                del self._renamed[place:]
                return written
        return tag

    def _inline_style(self, given: dict[str, str]) -> None:
        address = given.get("href", "")
        if given.get("rel") == "stylesheet" and address.startswith(_STATIC):
            self._inline("style", "style-src", static_text(address.removeprefix(_STATIC)))

    def _inline_script(self, address: str) -> None:
        self._skips_script = True
        if not address.startswith(_STATIC):
            return
        text = static_text(address.removeprefix(_STATIC))
        if _IMPORT.search(text):
            raise AstunerError(
                f"the page cannot be kept: its script {address} imports another one, and a file "
                'has no other; mark its element with data-keep="no", or write it without the import'
            )
        self._inline('script type="module"', "script-src", text)

    def _inline(self, element: str, directive: str, text: str) -> None:
        name = element.partition(" ")[0]
        if f"</{name}" in text.lower():
            raise AstunerError(f"a file of ours cannot stand in a page: it holds </{name}")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        self._hashes[directive].append(f"'sha256-{digest}'")
        self._parts.append(f"<{element}>{text}</{name}>")


def _is_viewers(tag: str, given: dict[str, str]) -> bool:
    """Whether an element does nothing without the viewer. A dialog's form only closes it."""
    is_sent = tag == "form" and given.get("method") != "dialog"
    return is_sent or given.get("data-keep") == "no"


def _is_inside(value: str | None) -> bool:
    """Whether an address is a place in the page itself, or holds what it names."""
    return value is not None and value.startswith(("#", "data:image/"))
