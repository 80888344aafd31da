"""What both reference recipes do beside their models: a 32x32 picture in, five of ten labels out, batches of 8."""

from tracing import Input

JOB = {
    "inputs": [Input(name="image", shape=("batch", 3, 32, 32))],
    "batch_sizes": [1, 2, 4, 8],
    "handler": "image_classifier",
    "settings": {
        "labels": [f"class_{number}" for number in range(10)],
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    },
    "golden": ["sand.png", "waves.png"],
}
