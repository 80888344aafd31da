"""Recipes written by tests: a small one in a folder of its own, with parts exchanged."""

from pathlib import Path

from tests.fakes import make_picture

MODEL = """
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
"""
RECIPE = """from tracing import Input, Recipe, Tolerances


def build_model(checkpoint):
    import torch
{model}

recipe = Recipe(
    name={name!r},
    build_model=build_model,
    inputs=[{inputs}],
    batch_sizes={batch_sizes},
    handler={handler!r},
    settings={settings!r},
    golden=["red.png", "green.png"],
    {more}
)
"""


def write_recipe(
    folder: Path,
    *,
    model: str = MODEL,
    name: str = "mine",
    inputs: str = "Input(name='image', shape=('batch', 3, 8, 8))",
    batch_sizes: str = "[1, 2]",
    handler: str = "image_classifier",
    settings: dict | None = None,
    more: str = "",
) -> Path:
    """Write ``recipe.py`` and the pictures it names into ``folder`` and return its path; ``model`` is Python code."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour in ("red", "green"):
        (folder / f"{colour}.png").write_bytes(make_picture(colour))
    path = folder / "recipe.py"
    settings = {"labels": ["a", "b", "c"]} if settings is None else settings
    path.write_text(
        RECIPE.format(
            model=model,
            name=name,
            inputs=inputs,
            batch_sizes=batch_sizes,
            handler=handler,
            settings=settings,
            more=more,
        )
    )
    return path
