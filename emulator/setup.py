"""The emulator as a distribution of its own: it is never installed beside the real SDK."""

from setuptools import setup

setup(
    name="torchserve-neuron-emulator",
    version="0.1.0",
    description="A stand-in, in software, for AWS Neuron devices: torch_neuron, torch_neuronx and the runtime",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["neuron_emulator", "torch_neuron", "torch_neuronx", "torch_neuronx.xla_impl"],
    # sitecustomize lets `import torch.neuron` work.
    py_modules=["sitecustomize"],
    package_data={"neuron_emulator": ["instances.json"], "torch_neuron": ["operators.json"]},
    scripts=["bin/neuron-ls", "bin/neuron-monitor"],
    install_requires=["torch"],
)
