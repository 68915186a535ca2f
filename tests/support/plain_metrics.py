"""VOC's and KITTI's judgement of detections as plain loops over plain numbers, importing nothing of calibox.

A box is (x1, y1, x2, y2). A detection is (image, box, score).
"""

Box = tuple[float, float, float, float]
Detection = tuple[int, Box, float]


def area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def common(a: Box, b: Box) -> float:
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def overlap(a: Box, b: Box) -> float:
    union = area(a) + area(b) - common(a, b)
    return common(a, b) / union if union > 0 else 0.0


def voc_ap(objects: dict[int, list[tuple[Box, bool]]], detections: list[Detection]) -> tuple[float, float] | None:
    """11-point and all-point average precision of one class; None without an object that is not difficult."""
    total = sum(not difficult for own in objects.values() for _, difficult in own)
    if not total:
        return None
    taken: set[tuple[int, int]] = set()
    points: list[tuple[int, float]] = []  # hits, precision
    hits = counted = 0
    for image, box, _ in sorted(detections, key=lambda d: -d[2]):
        best, most = -1, 0.0
        for index, (other, _) in enumerate(objects.get(image, [])):
            if overlap(box, other) > most:
                best, most = index, overlap(box, other)
        if most >= 0.5 and objects[image][best][1]:
            continue
        counted += 1
        if most >= 0.5 and (image, best) not in taken:
            taken.add((image, best))
            hits += 1
        points.append((hits, hits / counted))
    eleven = sum(max((p for h, p in points if h * 10 >= step * total), default=0.0) for step in range(11)) / 11
    all_points = sum(max((p for h, p in points if h >= wanted), default=0.0) for wanted in range(1, total + 1)) / total
    return eleven, all_points


class KittiCar:
    """An object (Car or Van) or a DontCare region of one image."""

    def __init__(self, kind: str, box: Box, truncated: float, occluded: int) -> None:
        self.kind, self.box, self.truncated, self.occluded = kind, box, truncated, occluded

    def valid(self, limits: tuple[float, int, float]) -> bool:
        height, occluded, truncated = limits
        tall = self.box[3] - self.box[1] > height
        return self.kind == "Car" and tall and self.occluded <= occluded and self.truncated <= truncated


def kitti_precision(
    frames: list[tuple[list[KittiCar], list[tuple[Box, float]]]], limits: tuple[float, int, float]
) -> list[float] | None:
    """Precision at the 41 recall positions for one difficulty, made non-increasing."""
    total = sum(o.valid(limits) for objects, _ in frames for o in objects)
    if not total:
        return None
    found = [score for objects, detections in frames for score in _first_pass(objects, detections, limits)]
    found.sort(reverse=True)
    thresholds, recall = [], 0.0
    for i in range(len(found)):
        left = (i + 1) / total
        right = (i + 2) / total if i < len(found) - 1 else left
        if right - recall < recall - left and i < len(found) - 1:
            continue
        thresholds.append(found[i])
        recall += 1 / 40
    precision = [0.0] * 41
    for i, threshold in enumerate(thresholds[:41]):
        right_ones = wrong_ones = 0
        for objects, detections in frames:
            right, wrong = _second_pass(objects, [d for d in detections if d[1] >= threshold], limits)
            right_ones, wrong_ones = right_ones + right, wrong_ones + wrong
        precision[i] = right_ones / (right_ones + wrong_ones) if right_ones + wrong_ones else 0.0
    return [max(precision[i:]) for i in range(41)]


def _low(box: Box, limits: tuple[float, int, float]) -> bool:
    return int(box[3] - box[1]) < limits[0]


def _first_pass(
    objects: list[KittiCar], detections: list[tuple[Box, float]], limits: tuple[float, int, float]
) -> list[float]:
    """Scores at which valid objects are found: each object takes the best score among what is left."""
    used: set[int] = set()
    scores = []
    for item in objects:
        if item.kind == "DontCare":
            continue
        best = None
        for j, (box, score) in enumerate(detections):
            if j not in used and overlap(box, item.box) > 0.7 and (best is None or score > detections[best][1]):
                best = j
        if best is None:
            continue
        used.add(best)
        if item.valid(limits) and not _low(detections[best][0], limits):
            scores.append(detections[best][1])
    return scores


def _second_pass(
    objects: list[KittiCar], detections: list[tuple[Box, float]], limits: tuple[float, int, float]
) -> tuple[int, int]:
    """Right and wrong ones: each object takes the largest overlap, a detection that is too low only for want of one."""
    used: set[int] = set()
    right = 0
    for item in objects:
        if item.kind == "DontCare":
            continue
        best, low_one, most = None, None, 0.0
        for j, (box, _) in enumerate(detections):
            value = overlap(box, item.box)
            if j in used or value <= 0.7:
                continue
            if _low(box, limits):
                low_one = j if low_one is None else low_one
            elif value > most:
                best, most = j, value
        chosen = best if best is not None else low_one
        if chosen is None:
            continue
        used.add(chosen)
        if item.valid(limits) and best is not None:
            right += 1
    wrong = 0
    for j, (box, _) in enumerate(detections):
        regions = [o.box for o in objects if o.kind == "DontCare"]
        forgiven = any(common(box, region) / area(box) > 0.7 for region in regions if area(box) > 0)
        if j not in used and not _low(box, limits) and not forgiven:
            wrong += 1
    return right, wrong
