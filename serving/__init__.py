"""One host: Java, starting and stopping TorchServe, readiness, and what is wrong with the machine."""
