"""How the page of coloured tokens looks: its style rules, and no script."""

from __future__ import annotations

from text_envs.render.colours import INK, PROMPT, REPLY, Colour

__all__ = ["STYLE", "hex_of", "rules"]


def hex_of(colour: Colour) -> str:
    """Return a colour as style rules write it.

    >>> hex_of((0, 158, 115))
    '#009e73'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


STYLE = (
    "body{font:17px/1.9 Georgia,serif;max-width:54em;margin:2em auto;padding:0 1em;"
    f"color:{hex_of(INK)};background:#fff}}"
    "h1,h2,.top{font-family:system-ui,sans-serif;line-height:1.4}h1{font-size:1.5em}"
    "h2{margin:1.8em 0 .6em;font-size:1.1em}"
    # In sight while a long page is scrolled.
    ".top{position:sticky;top:0;background:#fff;font-size:14px;padding:.6em 0;"
    "border-bottom:1px solid #d8d8d8;z-index:1}"
    "fieldset{border:0;padding:0;margin:0 0 .4em}legend{float:left;margin-right:1em;padding:0}"
    "label{margin-right:1.2em;cursor:pointer}input{margin:0 .4em 0 0;vertical-align:-1px}"
    ".scale{display:none;align-items:center;gap:.6em}"
    ".bar{width:9em;height:1em;border:1px solid #d8d8d8}"
    f".key{{margin:.4em 0 0}}.key span{{margin-right:1.2em}}.p,.c{{color:{hex_of(PROMPT)}}}"
    ".e{white-space:pre-wrap;overflow-wrap:anywhere;margin:.7em 0}"
    ".c{font:13px system-ui,sans-serif;white-space:nowrap;margin-left:.8em}"
    # As much margin back as there is padding: the boxes must not move the letters.
    ".t{border-radius:3px;padding:2px;margin:0 -2px;print-color-adjust:exact}"
    ".n{padding-left:0;margin-left:0}"  # inside a word a box must not cover the letter before
    ".t:hover{outline:2px solid #1a1a1a}"
    ".g{text-decoration:underline dotted 2px;text-underline-offset:3px}"
    f".r{{color:{hex_of(REPLY)}}}"
)


def rules(count: int) -> str:
    """Return the style rules by which the checked choice decides the colour: no script needed."""
    return "".join(
        f'form:has(input[value="{n}"]:checked) .t{{background:var(--s{n},transparent)}}'
        f'form:has(input[value="{n}"]:checked) .l{n}{{display:flex}}'
        for n in range(count)
    )
