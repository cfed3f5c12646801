"""Which class of a model is which category of a data set: by name, else by COCO's official numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eyas.coco import COCO80, COCO91_IDS
from eyas.errors import DataError, problem
from eyas.evaluation.dataset import Dataset

# The names of Pascal VOC and darknet, and what COCO calls the same things.
SYNONYMS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
    "tv monitor": "tv",
    "doughnut": "donut",
    "hair dryer": "hair drier",
    "cellphone": "cell phone",
    "mobile phone": "cell phone",
}


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The classes that are evaluated: those that model and data share.

    names: one for each. of_model: model class id → its number in `names`. of_data: the same of a category id.
    category_ids: what result files call each. only_model: the model's other classes. only_data: the data's other
    categories with their number of objects, those without objects left out.
    """

    names: tuple[str, ...]
    of_model: Mapping[int, int]
    of_data: Mapping[int, int]
    category_ids: tuple[int, ...]
    only_model: tuple[str, ...]
    only_data: Mapping[str, int]


def canonical(name: str) -> str:
    """One spelling of a class name: lower case, single spaces, COCO's word for it."""
    plain = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    return SYNONYMS.get(plain, plain)


def map_classes(names: Sequence[str], data: Dataset, also: Sequence[str] | None = None) -> ClassMap:
    """Pair a model's classes with the data's categories. also: the names of a second model, which must have them too.

    Categories that share a name are one class. By number only where the categories have no names of their own (YOLO
    labels without a names file), or where the model has COCO's 80 classes and the data COCO's 80 official ids.
    Raises DataError if they have no class in common, or none with an object.
    """
    ids = {canonical(name): i for i, name in reversed(list(enumerate(names)))}
    pairs = {c: i for c, i in _pairs(names, ids, data).items() if also is None or canonical(names[i]) in _set(also)}
    objects = Counter(label.category_id for label in data.labels if not label.iscrowd)
    _refuse_strangers(names, data, pairs, objects)
    order = sorted(set(pairs.values()))
    number = {i: n for n, i in enumerate(order)}
    best = {number[pairs[c]]: c for c in sorted(pairs, key=lambda c: objects[c])}  # of several, that with most objects
    return ClassMap(
        tuple(names[i] for i in order),
        number,
        {c: number[i] for c, i in pairs.items()},
        tuple(best[n] for n in range(len(order))),
        tuple(name for i, name in enumerate(names) if i not in number),
        {data.categories[c]: objects[c] for c in data.categories if c not in pairs and objects[c]},
    )


def _set(names: Sequence[str]) -> set[str]:
    return {canonical(name) for name in names}


def _pairs(names: Sequence[str], ids: Mapping[str, int], data: Dataset) -> dict[int, int]:
    """Category id → model class id."""
    if not data.named:
        return {c: c for c in data.categories if c < len(names)}
    pairs = {c: ids[canonical(name)] for c, name in data.categories.items() if canonical(name) in ids}
    if _set(names) == _set(COCO80) and set(data.categories) == set(COCO91_IDS):
        official = {c: ids[canonical(name)] for c, name in zip(COCO91_IDS, COCO80, strict=True)}
        pairs |= {c: official[c] for c in official if c not in pairs and official[c] not in pairs.values()}
    return pairs


def _refuse_strangers(
    names: Sequence[str], data: Dataset, pairs: Mapping[int, int], objects: Mapping[int, int]
) -> None:
    if any(objects[c] for c in pairs):
        return
    what = "the model and the data share no class with an object" if pairs else "the model and the data share no class"
    raise DataError(
        problem(
            what,
            got=f"the model's {_some(names)}; the data's {_some([data.categories[c] for c in objects])}",
            expected="at least one in common, by name",
            remedy="Give the model's class names in the data's words: --names FILE.",
        )
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")
