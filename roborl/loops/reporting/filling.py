"""What every page is made of: a template of this package, pictures that stand in the page itself, and figures in words."""

from __future__ import annotations

import base64
import math
from typing import Any


def fill(template: str, **values: Any) -> str:
    """Return the page of a template of this package; what the values say is text and never markup.

    Args:
        template: File name.
        values: All that the template names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("roborl.loops.reporting", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": _number,
        "seconds": _seconds,
        "counted": _counted,
    }
    return environment.get_template(template).render(**values)


def data_address(kind: str, content: bytes) -> str:
    """Return an address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def percent(share: float) -> str:
    """Return a share in words, a dash for none."""
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.1f} min"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
