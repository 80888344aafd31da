"""The console command ``torchserve-neuron``: the only part of the kit that prints and exits."""
