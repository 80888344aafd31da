"""The job of the benchmark as a model of Triton's Python backend: pictures in, ``{label: probability}`` as JSON out.

Triton imports it from ``MODEL/1/model.py`` of a repository, in the environment of the interpreter that the server was
given. It is written to be quick: a batch is normalised, run and sorted as one, and no request makes a line in a log.
"""

import io
import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton's own, in its backend only
from PIL import Image

_RUNS = 3  # of each batch size before the first request: TorchScript profiles one and compiles at the next
_Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


class TritonPythonModel:
    """What Triton's Python backend asks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model beside this file, for one thread, and run each batch size that may come."""
        torch.set_num_threads(1)
        folder = Path(args["model_repository"]) / args["model_version"]
        told = json.loads((folder / "settings.json").read_text())
        self._labels, self._size = told["labels"], (told["width"], told["height"])
        # (x / 255 - mean) / std as one multiplication and one addition, for each value of a row of pixels: over the
        # three channels alone torch's innermost loop would have three steps.
        mean, std = (torch.tensor(told[name]).repeat(told["width"]) for name in ("mean", "std"))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        config = json.loads(args["model_config"])
        # What the fuser compiles holds for the shapes that it sees first: each batch size has a module of its own.
        torch.jit.enable_onednn_fusion(config["parameters"]["fused"]["string_value"] == "true")
        self._models = {}
        for count in range(1, config["max_batch_size"] + 1):
            module = torch.jit.load(str(folder / "model.pt")).eval()  # type: ignore[no-untyped-call]
            self._models[count] = torch.jit.freeze(module)
            for _ in range(_RUNS):
                self._infer([np.zeros((told["height"], told["width"], 3), np.uint8)] * count)

    def execute(self, requests: list[Any]) -> list[Any]:  # Any: the backend's own types
        """Return a response for each request, in their order; a picture that cannot be read fails alone."""
        responses: list[Any] = [None] * len(requests)
        pictures, places = [], []
        for place, request in enumerate(requests):
            tensor = pb_utils.get_input_tensor_by_name(request, "PICTURE")
            try:
                pictures.append(self._decode(tensor.as_numpy().tobytes()))
                places.append(place)
            except (OSError, ValueError) as error:
                responses[place] = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"no picture: {error}"))
        if pictures:
            for place, answer in zip(places, self._infer(pictures), strict=True):
                encoded = np.frombuffer(json.dumps(answer).encode(), np.uint8).reshape(1, -1)
                responses[place] = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", encoded)])
        return responses

    def _decode(self, data: bytes) -> _Pixels:
        """Return the largest centred part of a picture that has the model's proportions, in the model's size."""
        image = Image.open(io.BytesIO(data))
        if image.mode != "RGB":
            image = image.convert("RGB")  # type: ignore[assignment]  # a file's picture and a plain one
        if image.size != self._size:
            scale = min(image.width / self._size[0], image.height / self._size[1])
            width, height = self._size[0] * scale, self._size[1] * scale
            left, top = (image.width - width) / 2, (image.height - height) / 2
            box = (left, top, left + width, top + height)
            image = image.resize(self._size, Image.Resampling.BILINEAR, box=box)  # type: ignore[assignment]
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)

    def _infer(self, pictures: list[_Pixels]) -> list[dict[str, float]]:
        """Return the five most probable labels of each picture."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(pictures))
            rows = pixels.float().view(-1, 3 * self._size[0]).mul_(self._scale).add_(self._shift)
            scores = self._models[len(pictures)](rows.view(pixels.shape).permute(0, 3, 1, 2))
            values, indices = torch.topk(torch.softmax(scores, dim=1), min(5, len(self._labels)), dim=1)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return [
            {self._labels[index]: value for index, value in zip(row, numbers, strict=True)} for row, numbers in pairs
        ]
