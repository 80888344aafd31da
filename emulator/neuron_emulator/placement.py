# TEMPORARY, by the lead, so that others can go on: helper H5 replaces this file.
def current_placement():
    return (-1, -1)
multicore_context = neuron_cores_context = set_multicore = set_neuron_cores = None
