"""Measure the accuracy of a served CIFAR-10 archive: every test picture is sent over REST as a file.

make serve MODEL=cifar10
python tracing/recipes/cifar10/evaluate.py --data ../shared/data/cifar10_jpeg.npz
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent))

from dataset import CLASSES, encoded_images, load_split


def main() -> None:
    arguments = _parse_arguments()
    images = encoded_images(arguments.data, "test")
    labels = load_split(arguments.data, "test").labels
    with requests.Session() as session:
        # As many connections as threads, or requests would open and drop one for each picture.
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=arguments.concurrency))
        with ThreadPoolExecutor(arguments.concurrency) as pool:
            answers = pool.map(lambda image: _classify(session, arguments.url, image), images)
            right = 0
            for done, (answer, label) in enumerate(zip(answers, labels, strict=True), start=1):
                right += answer == CLASSES[label]
                if done % 100 == 0 or done == len(images):
                    print(f"\r{done}/{len(images)}  accuracy {right / done:.4f} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(json.dumps({"pictures": len(images), "right": right, "accuracy": right / len(images)}))


def _classify(session: requests.Session, url: str, image: bytes) -> str:
    response = session.post(url, data=image, timeout=60)
    response.raise_for_status()
    return next(iter(response.json()))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar-10-python.tar.gz, its folder, or an .npz")
    parser.add_argument("--url", default="http://127.0.0.1:8080/predictions/cifar10")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
