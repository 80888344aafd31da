"""Measure how many words of rendered pictures a served archive finds: each picture is sent over REST as a file.

    make serve MODEL=craft_small
    python tracing/recipes/craft_small/evaluate.py --count 200

Pictures are in Pillow's own font unless ``--fonts`` names others; neither they nor the words were trained on. Without
a server, ``--weights FILE`` runs the network itself.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[2])]

from network import load_network  # noqa: E402  the recipe's folder is not a package
from recipe import recipe  # noqa: E402
from render import BUILT_IN, Scene, Style, list_fonts, render_scene  # noqa: E402
from scoring import Score, score_boxes  # noqa: E402

SIZES = ((256, 256), (512, 256), (480, 320), (384, 384), (512, 512))  # of pictures, in turn
_HEIGHTS = (12, 18, 24, 36, 48)  # of words in pixels: the groups of the report


def measure(scenes: list[Scene], answer: Callable[[bytes], dict]) -> dict[str, object]:
    """Return recall and precision over pictures, and the recall of words by their height."""
    total = Score()
    groups: dict[str, Score] = {}
    for done, scene in enumerate(scenes, start=1):
        stream = io.BytesIO()
        scene.image.save(stream, "PNG")
        boxes = [np.array(box["polygon"]) for box in answer(stream.getvalue())["boxes"]]
        total += score_boxes([word.polygon for word in scene.words], boxes)
        for word in scene.words:
            group = _name_group(float(np.hypot(*(word.polygon[3] - word.polygon[0]))))
            groups[group] = groups.get(group, Score()) + score_boxes([word.polygon], boxes)
        progress = f"{done}/{len(scenes)}  recall {total.recall:.4f}  precision {total.precision:.4f}"
        print(f"\r{progress} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    by_height = {name: [score.words, round(score.recall, 4)] for name, score in sorted(groups.items())}
    return {
        "pictures": len(scenes),
        "words": total.words,
        "recall": round(total.recall, 4),
        "precision": round(total.precision, 4),
        "by_height": by_height,
    }


def _name_group(height: float) -> str:
    below = [each for each in _HEIGHTS if each <= height]
    return f"from {below[-1]} px" if below else f"below {_HEIGHTS[0]} px"


def _run_network(path: Path) -> Callable[[bytes], dict]:
    import torch

    from handlers.text_detector import TextDetector
    from tracing.networks.craft import fold_normalisation
    from tracing.recipe import sorted_buckets, tensor_specs

    network = fold_normalisation(load_network(path))
    buckets = [tensor_specs(recipe.inputs, 1, bucket) for bucket in sorted_buckets(recipe)]
    handler = TextDetector(dict(recipe.settings), buckets, FOLDER)

    def answer(picture: bytes) -> dict:
        sample = handler.preprocess(picture)
        with torch.inference_mode():
            (maps,) = network(*handler.collate([sample.inputs]))
        return handler.answer((maps,), sample.note, {})

    return answer


def _ask_server(url: str) -> Callable[[bytes], dict]:
    import requests

    session = requests.Session()

    def answer(picture: bytes) -> dict:
        response = session.post(url, data=picture, timeout=60)
        response.raise_for_status()
        return response.json()

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/predictions/craft_small")
    parser.add_argument("--weights", type=Path, help="a .safetensors file to run here instead of asking a server")
    parser.add_argument("--fonts", type=Path, help="a folder of .ttf files; without it, Pillow's own font")
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    style = Style(fonts=list_fonts(arguments.fonts) if arguments.fonts else [BUILT_IN])
    generator = np.random.default_rng(arguments.seed)
    scenes = [render_scene(SIZES[index % len(SIZES)], style, generator) for index in range(arguments.count)]
    answer = _run_network(arguments.weights) if arguments.weights else _ask_server(arguments.url)
    print(json.dumps(measure(scenes, answer)))


if __name__ == "__main__":
    main()
