"""A text with each token coloured by its depth, as one HTML page that needs nothing beside itself.

The text is a stranger's: all of it is escaped, and the page's own policy forbids scripts and the network.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape

from orchestrator.inference.routing import SeenToken

COLOURS = ("#e8f1f8", "#b7d4ea", "#7db3da", "#4189c0", "#1d5e97", "#0b3a66")
"""From shallow to deep; the last ones carry white text."""
DARK_FROM = 3

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.2rem; } p { color: #444; }
pre { font: 14px/1.9 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
pre span { padding: 2px 0; border-radius: 2px; }
.window { color: #888; }
.key span { display: inline-block; padding: 2px 10px; margin-right: 4px; border-radius: 2px; }
"""


def routing_page(title: str, seen: Sequence[SeenToken], recursions: int) -> str:
    """The page's HTML."""
    counts = Counter(token.depth for token in seen)
    key = "".join(
        f'<span class="d{depth}">depth {depth}: {100 * counts[depth] / len(seen):.1f} %</span>'
        for depth in range(1, recursions + 1)
    )
    mean = sum(token.depth for token in seen) / len(seen)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{STYLE}{_colours(recursions)}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{len(seen)} tokens, {mean:.2f} recursions each on average. Hover over a token for its numbers.</p>
<p class="key">{key}</p>
<pre>{"".join(_token(token, first=i == 0) for i, token in enumerate(seen))}</pre>
</body>
</html>
"""


def _colours(recursions: int) -> str:
    rules = []
    for depth in range(1, recursions + 1):
        shade = round((depth - 1) * (len(COLOURS) - 1) / max(1, recursions - 1))
        text = "#fff" if shade >= DARK_FROM else "#111"
        rules.append(f".d{depth} {{ background: {COLOURS[shade]}; color: {text}; }}")
    return "\n".join(rules)


def _token(token: SeenToken, *, first: bool) -> str:
    facts = [f"depth {token.depth}", f"position {token.position}", token.token_class]
    if token.probabilities:
        facts.append("router " + " ".join(f"{probability:.3f}" for probability in token.probabilities))
    if token.next_loss is not None:
        facts.append(f"loss of the next token {token.next_loss:.2f}")
    window = "" if first or token.position else '\n<span class="window">⋯</span>\n'
    # A line break would end the coloured stretch unseen.
    shown = escape(token.text).replace("\n", "↵\n") or "∅"
    return f'{window}<span class="d{token.depth}" title="{escape("; ".join(facts))}">{shown}</span>'
