"""What the default precision costs in COCO AP against fp32, on the same pictures with the same backend.

    python benchmarks/precision.py MODEL.onnx … --data coco_val/instances.json

Pictures lie in images/ beside the annotations. Confidence threshold 0.001, as COCO evaluation of detectors does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from faster_coco_eval import COCO, COCOeval_faster

import eyas
from eyas.coco import COCO91_IDS


def average_precision(model: eyas.Model, truth: COCO, folder: Path) -> tuple[float, float]:
    """AP at IoU .50:.95 and at .50, both 0…1."""
    images = truth.loadImgs(truth.getImgIds())
    results = []
    for image, found in zip(images, model.predict([folder / i["file_name"] for i in images], conf=0.001), strict=True):
        for (x1, y1, x2, y2), score, c in zip(found.xyxy.tolist(), found.confidence, found.class_id, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image["id"], "category_id": COCO91_IDS[c], "bbox": box, "score": float(score)})
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="*", default=["nanodet"])
    p.add_argument("--data", type=Path, required=True, help="COCO instances.json")
    p.add_argument("--backend")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()
    truth = COCO(str(args.data))
    table = []
    for name in args.models:
        row: dict[str, object] = {"model": Path(name).name}
        for precision in ("fp32", "auto"):
            with eyas.load(name, backend=args.backend, precision=precision, hint="throughput") as model:
                ap, ap50 = average_precision(model, truth, args.data.parent / "images")
                row |= {
                    precision: round(ap, 4),
                    f"{precision}_50": round(ap50, 4),
                    "engine": model.engine().description,
                }
        row["cost"] = round(row["fp32"] - row["auto"], 4)
        print(json.dumps(row), flush=True)
        table.append(row)
    if args.out:
        args.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
