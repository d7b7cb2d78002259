"""A synthetic cohort on disk: slides, the tables a user would have, and the truth about every slide."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gigacli.demo.anatomy import CLASSES, GLANDULAR, SOLID
from gigacli.demo.draw import LABS, check_size, draw_slide
from gigacli.demo.pyramid import write_pyramid
from gigacli.errors import InvalidInput, Mismatch
from gigacli.files import new_file
from gigacli.parallel import as_ready
from gigacli.progress import SILENT, Progress, audible
from gigacli.shown import Shown

_DRAWING = 1  # raised whenever the same seed draws other pixels, so that two drawings never share a folder
_VARY = 0.08  # of the width and height of a slide
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LABELS = ("slide_id", "label", "patient_id", "lab", "time", "event", "glandular_percent")
_MEDIAN_MONTHS = 24.0  # until the event, of a patient with as much glandular as solid tissue
_LOG_HAZARD = 4.0  # by how much the logarithm of the hazard grows from all glandular to all solid
_WATCHED_MONTHS = (6.0, 72.0)  # how long patients are watched, at least and at most


@dataclass(frozen=True)
class DemoCohort(Shown):
    """A cohort that `write_cohort` wrote, or found complete."""

    folder: Path  # everything is in here
    slides: Path  # folder of the slides, `<slide_id>.tif`
    cohort_csv: Path  # columns path (relative to the table's folder), slide_id, patient_id
    # columns slide_id, label, patient_id, lab; time (months) and event (1: seen, 0: last watched then without it), of a
    # patient, the sooner the more solid its slides are; glandular_percent of the patterned tissue of the slide
    labels_csv: Path
    truth: Path  # folder of `<slide_id>.npz`: tissue, tile_type, pen and downsample of `draw.Drawing`
    count: int  # number of slides


@dataclass(frozen=True)
class _Slide:
    slide_id: str
    patient_id: str
    lab: int  # index into LABS
    label: str
    index: int  # with the seed, the key of everything random in the slide


@audible
def write_cohort(
    folder: str | Path,
    *,
    slides: int = 24,
    patients: int = 12,
    labs: int = 3,
    seed: int = 0,
    size_px: tuple[int, int] = (4096, 3072),
    mpp: float = 0.5,
    site_effect: float = 0.0,
    workers: int = 2,
    progress: Progress = SILENT,
) -> DemoCohort:
    """Write a cohort of two classes that nothing but the architecture of the tissue tells apart.

    Every patient has one class, one lab and `slides / patients` slides; every lab has as many patients of one class as
    of the other, and the labs differ by at most one patient of each class. With a `site_effect` they do not: then the
    stain of the lab tells the class, too, as it does where hospitals are sent different patients. Finished slides are
    kept, so an interrupted call can be repeated. The bytes depend on neither `workers` nor on what was already there.

    Args:
        folder: Made if missing.
        slides: Number of slides, a multiple of `patients`.
        patients: Number of patients, even and at least two per lab.
        labs: Number of laboratories, 1 to `len(LABS)`; each stains and scans in its own way.
        seed: Slides are keyed by (seed, index of the slide).
        size_px: Mean (width, height) in pixels; a slide differs by up to 8 % in each.
        mpp: Microns per pixel.
        site_effect: How far the class goes with the lab, 0 not at all to 1 entirely: so large a share of the patients
            of one class in the first lab, the third, ... is of the other class instead, and the reverse in the second,
            the fourth, ...; of an odd number of labs the last stays balanced.
        workers: Threads that draw.
        progress: Receives progress, slide by slide.

    Raises:
        InvalidInput: The numbers cannot be balanced, or are out of range.
        Mismatch: The folder holds a cohort written with other arguments.
    """
    folder = Path(folder)
    _check(slides, patients, labs, seed, workers)
    if not 0 <= site_effect <= 1:
        raise InvalidInput(f"site_effect = {site_effect}, expected 0 to 1")
    check_size((int(size_px[0] * (1 - _VARY)), int(size_px[1] * (1 - _VARY))), mpp)
    plan = _plan(slides, patients, labs, seed, site_effect)
    cohort = DemoCohort(
        folder, folder / "slides", folder / "cohort.csv", folder / "labels.csv", folder / "truth", slides
    )
    recipe = {"drawing": _DRAWING, "slides": slides, "patients": patients, "labs": labs, "seed": seed}
    _claim(folder, recipe | {"size_px": list(size_px), "mpp": mpp, "site_effect": site_effect})
    _write_slides_table(cohort, plan)
    missing = [s for s in plan if not (_slide_path(cohort, s).exists() and _truth_path(cohort, s).exists())]
    progress.start("drawing slides", slides, done=slides - len(missing))
    for _, error in as_ready(lambda slide: _write_slide(cohort, slide, seed, size_px, mpp), missing, workers=workers):
        if error is not None:
            raise error
        progress.advance()
    _write_labels(cohort, plan, seed)
    return cohort


def _check(slides: int, patients: int, labs: int, seed: int, workers: int) -> None:
    if not 1 <= labs <= len(LABS):
        raise InvalidInput(f"labs = {labs}, expected 1 to {len(LABS)}")
    if patients % 2 or patients < 2 * labs:
        raise InvalidInput(
            f"patients = {patients} for {labs} labs, expected an even number of at least {2 * labs}",
            "Every lab needs as many patients of one class as of the other.",
        )
    if slides < patients or slides % patients or slides // patients > len(_LETTERS):
        raise InvalidInput(
            f"slides = {slides} for {patients} patients, expected 1 to {len(_LETTERS)} slides for each patient",
            f"Take a multiple of {patients}.",
        )
    if seed < 0:
        raise InvalidInput(f"seed = {seed}, expected 0 or more")
    if workers < 1:
        raise InvalidInput(f"workers = {workers}, expected 1 or more")


def _plan(slides: int, patients: int, labs: int, seed: int, site_effect: float) -> list[_Slide]:
    """Plan the slides. Patients come in pairs of one class each, dealt out to the labs in turn."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    lab_of = np.arange(patients) // 2 % labs
    label_of = np.empty(patients, object)
    for lab in range(labs):  # shuffled within the lab, or the number of a patient would tell the class
        here = np.flatnonzero(lab_of == lab)
        classes = np.resize(CLASSES, len(here))
        favoured = lab % 2 if lab < labs - labs % 2 else None
        if favoured is not None:
            others = np.flatnonzero(classes != CLASSES[favoured])
            classes[others[: round(site_effect * len(others))]] = CLASSES[favoured]
        label_of[here] = rng.permutation(classes)
    digits = max(2, len(str(patients)))
    plan = []
    for index in range(slides):
        patient, letter = index // (slides // patients), _LETTERS[index % (slides // patients)]
        patient_id = f"patient{patient + 1:0{digits}}"
        slide_id = f"lab{lab_of[patient] + 1}_{patient_id}_{letter}"
        plan.append(_Slide(slide_id, patient_id, int(lab_of[patient]), str(label_of[patient]), index))
    return plan


def _claim(folder: Path, recipe: dict[str, object]) -> None:
    """Leave the recipe in the folder, or refuse one that holds another."""
    path = folder / "demo.json"
    if path.exists():
        found = {"site_effect": 0.0} | json.loads(path.read_text())
        other = [f"{key} = {found.get(key)}, now {value}" for key, value in recipe.items() if found.get(key) != value]
        if other:
            raise Mismatch(
                f"{folder} holds a demo cohort with {'; '.join(other)}", "Take another folder, or delete it."
            )
    with new_file(path) as part:
        part.write_text(json.dumps(recipe, indent=1))


def _write_slides_table(cohort: DemoCohort, plan: list[_Slide]) -> None:
    paths = [_slide_path(cohort, slide).relative_to(cohort.folder).as_posix() for slide in plan]
    _write_csv(
        cohort.cohort_csv,
        ("path", "slide_id", "patient_id"),
        ((path, slide.slide_id, slide.patient_id) for path, slide in zip(paths, plan, strict=True)),
    )


def _write_labels(cohort: DemoCohort, plan: list[_Slide], seed: int) -> None:
    """Write the table of labels, when all slides are drawn: what it says of a slide is measured on its tissue."""
    glandular = [_glandular_share(cohort, slide) for slide in plan]
    of_patient: dict[str, list[float]] = {}  # in the order in which patients were planned
    for slide, share in zip(plan, glandular, strict=True):
        of_patient.setdefault(slide.patient_id, []).append(share)
    fate = {
        patient: _fate(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, i))), float(np.mean(shares)))
        for i, (patient, shares) in enumerate(of_patient.items())
    }
    rows = (
        (s.slide_id, s.label, s.patient_id, f"lab{s.lab + 1}", *fate[s.patient_id], f"{100 * share:.1f}")
        for s, share in zip(plan, glandular, strict=True)
    )
    _write_csv(cohort.labels_csv, _LABELS, rows)


def _glandular_share(cohort: DemoCohort, slide: _Slide) -> float:
    """Share of the patterned tissue of a slide that is glandular, 0 to 1."""
    with np.load(_truth_path(cohort, slide)) as truth:
        glandular, solid = (int((truth["tile_type"] == kind).sum()) for kind in (GLANDULAR, SOLID))
    return glandular / max(1, glandular + solid)


def _fate(rng: np.random.Generator, glandular: float) -> tuple[str, str]:
    """Time in months and whether the event was seen: an exponential of the hazard, cut off where watching ends."""
    hazard = np.log(2) / _MEDIAN_MONTHS * np.exp(_LOG_HAZARD * (0.5 - glandular))
    event, end = rng.exponential(1 / hazard), rng.uniform(*_WATCHED_MONTHS)
    return f"{max(0.1, min(event, end)):.1f}", str(int(event <= end))


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with new_file(path) as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _write_slide(cohort: DemoCohort, slide: _Slide, seed: int, size_px: tuple[int, int], mpp: float) -> None:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, slide.index)))
    width, height = (int(side * rng.uniform(1 - _VARY, 1 + _VARY)) for side in size_px)
    drawing = draw_slide(rng, label=slide.label, lab=LABS[slide.lab], size_px=(width, height), mpp=mpp)
    with new_file(_truth_path(cohort, slide)) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            tissue=drawing.tissue,
            tile_type=drawing.tile_type,
            pen=drawing.pen,
            downsample=np.array(drawing.downsample),
        )
    with new_file(_slide_path(cohort, slide)) as part:
        write_pyramid(part, drawing.image, mpp=mpp)


def _slide_path(cohort: DemoCohort, slide: _Slide) -> Path:
    return cohort.slides / f"{slide.slide_id}.tif"


def _truth_path(cohort: DemoCohort, slide: _Slide) -> Path:
    return cohort.truth / f"{slide.slide_id}.npz"
