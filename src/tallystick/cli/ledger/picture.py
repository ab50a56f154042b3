"""A plot as SVG (written here) or PNG (drawn by Pillow), with the same lines and texts."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Final, Protocol
from xml.sax.saxutils import escape

from tallystick.cli.ledger.series import Series, day, rising, since, span
from tallystick.kernel.money import in_units

WIDTH: Final = 960
HEIGHT: Final = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 130, 24, 48, 44
_INK, _GRID, _LINE = "#1f2933", "#d9dee4", "#1267b4"
_SIZE: Final = 14
_DIGIT: Final = 8.5  # what a digit of this size takes, in any of the fonts

Point = tuple[float, float]


class Canvas(Protocol):
    def line(self, points: list[Point], colour: str, width: float) -> None: ...
    def text(self, at: Point, text: str, anchor: str, *, bold: bool = False) -> None: ...
    def content(self) -> bytes: ...


def picture(series: Series, *, png: bool) -> bytes:
    """The content of the file."""
    canvas: Canvas = _Png() if png else _Svg(series.title)
    line = series.drawn()
    low, high = span([minor for _, minor in line])
    begin, end = line[0][0], line[-1][0]
    seconds = (end - begin).total_seconds()
    amounts = {tick: in_units(tick, series.currency) for tick in ticks(low, high)}
    left = max(_LEFT, _DIGIT * max(map(len, amounts.values())) + 20)

    def x(when: datetime) -> float:
        return left + (when - begin).total_seconds() / seconds * (WIDTH - left - _RIGHT)

    def y(minor: int) -> float:
        return HEIGHT - _BOTTOM - (minor - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    note = ", by effective time" if series.effective else ""
    canvas.text((left, 28), f"{series.title}, {series.currency}{note}, {since(begin, end)}", "start", bold=True)
    for tick, amount in amounts.items():
        canvas.line([(left, y(tick)), (WIDTH - _RIGHT, y(tick))], _INK if tick == 0 else _GRID, 1)
        canvas.text((left - 10, y(tick) + 5), amount, "end")
    for nth in range(5):
        when = begin + (end - begin) * nth / 4
        anchor = "start" if nth == 0 else "end" if nth == 4 else "middle"
        canvas.text((x(when), HEIGHT - 16), day(when, begin, end), anchor)
    canvas.line([(x(when), y(minor)) for when, minor in line], _LINE, 2)
    return canvas.content()


def ticks(low: int, high: int) -> list[int]:
    """Round numbers of minor units between the two, five to ten of them if there are that many."""
    step = next(each for each in rising() if (high - low) // each <= 8)
    first = -(-low // step) * step
    return list(range(first, high + 1, step))


class _Svg:
    def __init__(self, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
            f"<style>text {{ font: {_SIZE}px sans-serif }}</style>",
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        ]

    def line(self, points: list[Point], colour: str, width: float) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def text(self, at: Point, text: str, anchor: str, *, bold: bool = False) -> None:
        weight = ' style="font-weight: bold"' if bold else ""
        self._parts.append(
            f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" fill="{_INK}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def content(self) -> bytes:
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()


class _Png:
    """Drawn at twice the size, to be sharp on any screen."""

    _SCALE: Final = 2

    def __init__(self) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self._image = Image.new("RGB", (WIDTH * self._SCALE, HEIGHT * self._SCALE), "#ffffff")
        self._draw = ImageDraw.Draw(self._image)
        # Pillow's own font has no bold face, so the title is larger instead.
        self._fonts = {bold: ImageFont.load_default((_SIZE + 4 * bold) * self._SCALE) for bold in (False, True)}

    def line(self, points: list[Point], colour: str, width: float) -> None:
        scaled = [(x * self._SCALE, y * self._SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * self._SCALE))

    def text(self, at: Point, text: str, anchor: str, *, bold: bool = False) -> None:
        place = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        self._draw.text(
            (at[0] * self._SCALE, at[1] * self._SCALE),
            text,
            fill=_INK,
            font=self._fonts[bold],
            anchor=place,
        )

    def content(self) -> bytes:
        out = io.BytesIO()
        self._image.save(out, "PNG", optimize=True)
        return out.getvalue()
