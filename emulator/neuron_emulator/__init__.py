"""A stand-in, in software, for a host with AWS Neuron devices: its instances, its runtime, its arithmetic.

Everything here is emulated. It counts what a chip would care about and claims no speed.
"""
