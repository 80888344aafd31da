"""The stock way that the benchmark compares with: a picture handler as TorchServe's documentation teaches them.

A subclass of ``BaseHandler`` that overrides ``preprocess`` and ``postprocess`` and leaves loading and inference to it
(TorchServe: docs/custom_service.md). It does the same job as the kit's image classifier, so that answers agree.
"""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler


class PictureHandler(BaseHandler):
    """Pictures in, ``{label: probability}`` out."""

    def initialize(self, context):
        super().initialize(context)
        folder = Path(context.system_properties["model_dir"])
        told = json.loads((folder / "settings.json").read_text())
        self.labels = told["labels"]
        self.size = (told["width"], told["height"])
        self.mean = torch.tensor(told["mean"]).reshape(3, 1, 1)
        self.std = torch.tensor(told["std"]).reshape(3, 1, 1)

    def preprocess(self, data):
        pictures = []
        for row in data:
            image = Image.open(io.BytesIO(row.get("data") or row.get("body"))).convert("RGB")
            image = image.resize(self.size, Image.Resampling.BILINEAR, box=self.find_crop(image))
            pixels = torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float() / 255
            pictures.append((pixels - self.mean) / self.std)
        return torch.stack(pictures).to(self.device)

    def find_crop(self, image):
        """Return the largest centred part of a picture that has the model's proportions."""
        scale = min(image.width / self.size[0], image.height / self.size[1])
        width, height = self.size[0] * scale, self.size[1] * scale
        left, top = (image.width - width) / 2, (image.height - height) / 2
        return (left, top, left + width, top + height)

    def postprocess(self, data):
        probabilities = torch.softmax(data, dim=1)
        values, indices = torch.topk(probabilities, min(5, len(self.labels)), dim=1)
        return [
            {self.labels[int(index)]: float(value) for index, value in zip(indices[row], values[row], strict=True)}
            for row in range(len(probabilities))
        ]
