"""Where some public examples import ``trace`` from."""
