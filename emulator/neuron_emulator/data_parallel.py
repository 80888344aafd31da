# TEMPORARY, by the lead, so that others can go on: helper H5 replaces this file.
import torch
class DataParallel:
    def __init__(self, model, device_ids=None, dim=0):
        from neuron_emulator.modules import copy_to_core
        self.copies = [copy_to_core(model, i) for i in device_ids]
    def disable_dynamic_batching(self): pass
    def __call__(self, x):
        parts = [c(p) for c, p in zip(self.copies, x.chunk(len(self.copies)))]
        return tuple(torch.cat(col) for col in zip(*parts))
