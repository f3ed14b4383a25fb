"""One case as pictures: its label maps as surfaces and as slices, side by side and compared with a reference."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from volattn.datasets.case import LESION, ORGAN, label_values
from volattn.io.files import atomic_path
from volattn.io.names import count_of
from volattn.io.output import SIGNATURE, claim_file
from volattn.io.readers import read_labels, read_volume, volume_name
from volattn.provenance import versions
from volattn.report.outlines import draw_panels
from volattn.report.pages import Cell, Column, Page, Table
from volattn.report.scene import Scene
from volattn.report.style import PAPER
from volattn.report.surfaces import DIRECTIONS, Viewer, check_rendering, draw_surfaces
from volattn.scoring.lesions import detect
from volattn.scoring.lits import lits_scheme
from volattn.scoring.overlap import Contingency
from volattn.structures.geometry import Geometry, check_same_grid
from volattn.structures.lesions import label_components
from volattn.structures.volume import Volume, foreground_box
from volattn.workers import Progress

Pictures = Literal["all", "surfaces", "panels"]


@dataclass(frozen=True)
class Rendering:
    """The pictures of a case, and how they are drawn.

    Attributes:
        views: Of the surfaces; by default the front in a `.png`, and all in a `.html`.
        organ: Label of the organ; None for masks of lesions only.
        trust_grid: Takes label maps of the CT's shape as they lie, whatever their own grid says.
    """

    pictures: Pictures = "all"
    views: Sequence[Viewer] = ()
    organ: int | None = 1
    lesion: int = 2
    slices: int = 3
    trust_grid: bool = False

    def __post_init__(self) -> None:
        lits_scheme(self.organ, self.lesion)  # It knows what labels can be.


@dataclass(frozen=True)
class Rendered:
    """The contents of each label map as a table, and notes for the user."""

    table: Table
    notes: tuple[str, ...]


def render_case(
    image: Path | None,
    labels: Sequence[Path],
    reference: Path | None,
    out: Path,
    *,
    names: Sequence[str] = (),
    how: Rendering | None = None,
    progress: Progress = lambda *_: None,
) -> Rendered:
    """Draws the label maps of one case into a `.png`, or into a page (`.html`), atomically.

    Lesions are found, false or missed as `evaluate lits` counts them at any overlap (`scoring.lesions.detect`).

    Args:
        image: The CT; None to draw surfaces only.
        reference: The label map that they are compared with; it gets the last column.
        names: Titles of the label maps, in their order; their files' names by default, or their folders' where those
            are the same.

    Raises:
        ValueError: `out` is neither; names are missing or equal; a file cannot be read; the grids differ; slices are
            wanted and there is no CT; surfaces are wanted and cannot be rendered.
    """
    how = how or Rendering()
    if out.suffix not in (".png", ".html"):
        raise ValueError(f"{out}: is neither .png nor .html; name a file that ends in one of them")
    out = claim_file(out, inputs=(image, *labels, reference))
    titles = _titles(labels, names, reserved=() if reference is None else (_REFERENCE,))
    if how.pictures == "panels" and image is None:
        raise ValueError("slices cannot be drawn without a CT; give it with -i, or draw --kind surfaces")
    if how.pictures != "panels":
        check_rendering()

    case = _Case.read(image, dict(zip(titles, labels, strict=True)), reference, how, progress)
    pictures = list(case.draw(how, every_view=out.suffix == ".html", progress=progress))
    table = case.table(how.organ is not None)
    if out.suffix == ".png":
        with atomic_path(out) as temporary:
            temporary.write_bytes(_png([picture for _, picture in pictures]))
    else:
        _page(case.name, table, pictures).write(out)
    return Rendered(table, tuple(case.notes))


_REFERENCE = "Reference"


@dataclass(frozen=True, eq=False)
class _Case:
    """A case in canonical axes: a scene for each label map, that of the reference last."""

    name: str
    geometry: Geometry
    scenes: Mapping[str, Scene]
    has_image: bool
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(
        cls, image: Path | None, labels: Mapping[str, Path], reference: Path | None, how: Rendering, progress: Progress
    ) -> _Case:
        files = [*labels.values(), *([] if reference is None else [reference])]
        steps = len(files) + (image is not None)
        notes: list[str] = []
        first = image or files[0]
        volume = None if image is None else read_volume(image)
        maps: list[NDArray[np.uint8]] = []
        geometry = None if volume is None else volume.geometry
        for done, path in enumerate(files, start=steps - len(files)):
            progress("Reading", done, steps)
            found = read_labels(path)
            geometry = geometry or found.geometry
            note = check_same_grid(geometry, found.geometry, (str(first), str(path)), how.trust_grid)
            notes += [] if note is None else [note]
            maps.append(_organ_and_lesion(replace(found, geometry=geometry), how, path, notes))
        progress("Reading", steps, steps)
        assert geometry is not None
        grid = geometry.turned(geometry.turn())
        # Surfaces alone need no image: this one takes no memory.
        pixels = np.broadcast_to(np.int16(0), grid.shape) if volume is None else volume.canonical().array
        truth = None if reference is None else maps.pop()
        scenes = {title: _scene(pixels, its, truth, grid.spacing) for title, its in zip(labels, maps, strict=True)}
        if truth is not None:
            scenes[_REFERENCE] = _scene(pixels, truth, None, grid.spacing)
        return cls(volume_name(first), grid, scenes, volume is not None, notes)

    def draw(self, how: Rendering, *, every_view: bool, progress: Progress) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """The pictures, each with its title."""
        organ = None if how.organ is None else "organ"
        surfaces, panels = how.pictures != "panels", how.pictures != "surfaces" and self.has_image
        steps = surfaces + panels
        if surfaces:
            progress("Drawing", 0, steps)
            views = how.views or (tuple(DIRECTIONS) if every_view else ("front",))
            yield ("Surfaces", draw_surfaces(self.scenes, self.geometry, views=views, organ=organ, title=self.name))
        if panels:
            progress("Drawing", int(surfaces), steps)
            yield "Slices", draw_panels(self.scenes, organ=organ, title=self.name, slices=how.slices)
        progress("Drawing", steps, steps)

    def table(self, organ: bool) -> Table:
        compared = any(scene.truth is not None for scene in self.scenes.values())
        columns = [Column("Label map"), Column("Lesions"), Column("Lesions, ml", ".1f")]
        columns += [Column("Found"), Column("Missed"), Column("False")] if compared else []
        columns += [Column("Organ with lesions, ml", ".0f")] if organ else []
        voxel_ml = self.geometry.voxel_volume / 1000
        rows: list[tuple[Cell, ...]] = []
        for name, scene in self.scenes.items():
            row: list[Cell] = [name, len(scene.kinds), np.count_nonzero(scene.labels == LESION) * voxel_ml]
            if compared:
                counts = scene.counts()
                row += [None] * 3 if scene.truth is None else [len(scene.found), counts["missed"], counts["false"]]
            if organ:
                row.append(np.count_nonzero(scene.labels >= ORGAN) * voxel_ml)
            rows.append(tuple(row))
        return Table(self.name, tuple(columns), tuple(rows))


def _scene(
    image: NDArray[np.int16],
    labels: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
    spacing: tuple[float, float, float],
) -> Scene:
    """A label map, its lesions numbered and compared with the reference's."""
    box = foreground_box(*(its == LESION for its in (labels, truth) if its is not None))

    def placed(numbers: NDArray[np.uint32]) -> NDArray[np.unsignedinteger]:
        """Numbered lesions in the whole volume, in as few bytes as they need."""
        result = np.zeros(labels.shape, np.min_scalar_type(int(numbers.max(initial=0))))
        result[box] = numbers
        return result

    if truth is None:
        return Scene.compare(image, labels, placed(label_components(labels[box] == LESION)[0]), spacing)
    table = Contingency.of(truth[box] == LESION, labels[box] == LESION)
    matches = detect(table, 0.0).lesions
    hits = {number for match in matches for number in match.predictions}
    found = {number for match in matches for number in match.references}
    return Scene.matched(image, labels, placed(table.prediction), spacing, (), placed(table.reference), hits, found)


def _organ_and_lesion(volume: Volume, how: Rendering, path: Path, notes: list[str]) -> NDArray[np.uint8]:
    """(z, y, x) in canonical axes: 0 background, 1 organ, 2 lesion. Other labels are left out, and noted."""
    known = {0, how.lesion} | (set() if how.organ is None else {how.organ})
    others = sorted(set(label_values(volume.array)) - known)
    if others:
        shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
        notes.append(f"{path}: label {shown} is neither --organ nor --lesion and was left out")
    array = volume.canonical().array
    result = np.zeros(array.shape, np.uint8)
    if how.organ is not None:
        result[array == how.organ] = ORGAN
    result[array == how.lesion] = LESION
    return result


def _titles(labels: Sequence[Path], names: Sequence[str], reserved: Sequence[str]) -> list[str]:
    if names and len(names) != len(labels):
        raise ValueError(
            f"{count_of(len(labels), 'label map')} and {count_of(len(names), 'name')}; give each a --name, in order"
        )
    choices = [list(names)]
    if not names:
        files, folders = [volume_name(path) for path in labels], [path.resolve().parent.name for path in labels]
        choices = [files, folders, [f"{place}: {name}" for place, name in enumerate(files, start=1)]]
    for titles in choices:
        if len({*titles, *reserved}) == len(titles) + len(reserved):
            return titles
    raise ValueError(f"the names {', '.join((*names, *reserved))} are not all different; change --name")


def _png(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """A file of pictures, one below the other, in the middle."""
    width, height = max(one.shape[1] for one in pictures), sum(one.shape[0] for one in pictures)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = 0
    for one in pictures:
        sheet.paste(Image.fromarray(one), ((width - one.shape[1]) // 2, top))
        top += one.shape[0]
    software = PngInfo()
    software.add_text("Software", SIGNATURE)
    content = io.BytesIO()
    sheet.save(content, format="PNG", pnginfo=software)
    return content.getvalue()


def _page(name: str, table: Table, pictures: Sequence[tuple[str, NDArray[np.uint8]]]) -> Page:
    page = Page(name).lead("Not a medical device.").table(table)
    for what, picture in pictures:
        page.section(what).figure(_png([picture]), f"{what} of {name}", _CAPTIONS[what])
    return page.footer(f"volattn {versions()['volattn']}")


_CAPTIONS = {
    "Surfaces": "One scale and one camera for all columns of a row; rays are parallel. R, L, A and P are the patient's "
    "right, left, front and back.",
    "Slices": "Radiological display: the patient's right is on the left. The inset enlarges the dotted frame.",
}
