"""`volattn render`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from volattn.cli import exits
from volattn.cli.options import TrustGrid, organ_label

NAME = "render"


class _View(StrEnum):
    FRONT = "front"
    RIGHT = "right"
    TOP = "top"


@exits.verb(after_stop="nothing was written")
def command(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="A .png, or a page as .html.")],
    maps: Annotated[
        list[Path] | None, typer.Argument(metavar="LABELS", help="Label maps of the case, a column each.")
    ] = None,
    labels: Annotated[
        list[Path] | None, typer.Option("-l", "--labels", metavar="FILE", help="Label maps, as without -l.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("-i", "--input", metavar="CT", help="The CT; without it there are surfaces only."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("-r", "--reference", metavar="FILE", help="Shows which lesions are true, false and missed."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Titles of the label maps, in their order; their files' by default.")
    ] = None,
    kind: Annotated[
        Literal["all", "surfaces", "panels"], typer.Option(help="Surfaces in 3D, panels with slices, or all.")
    ] = "all",
    view: Annotated[
        list[_View] | None,
        typer.Option(help="Where surfaces are seen from; front by default, and all three in a page."),
    ] = None,
    organ: Annotated[
        str | None, typer.Option(help="Label of the organ, or none for masks of lesions only; 1 unless --lesion is.")
    ] = None,
    lesion: Annotated[int, typer.Option(help="Label of lesions.")] = 2,
    slices: Annotated[int, typer.Option(min=1, max=20, help="Slices at most.")] = 3,
    trust_grid: TrustGrid = False,
) -> None:
    """Draws label maps of a CT: surfaces in 3D, slices with outlines."""
    from volattn.cli.progress import shown
    from volattn.report.render import Rendering, render_case

    if not labels and not maps:
        raise ValueError("nothing to draw: give label maps")
    if image is not None and len(image) > 1:
        raise ValueError(f"{image[1]}: is a second CT; give the one that all label maps belong to")
    how = Rendering(
        pictures=kind,
        views=[one.value for one in view or ()],
        organ=organ_label(organ, lesion),
        lesion=lesion,
        slices=slices,
        trust_grid=trust_grid,
    )
    ct, drawn = image[0] if image else None, [*(labels or ()), *(maps or ())]
    with shown() as progress:
        done = render_case(ct, drawn, reference, out, names=name or (), how=how, progress=progress)
    for note in done.notes:
        exits.say(note)
    print(done.table.text(), end="")
    print(f"Picture: {out}")
