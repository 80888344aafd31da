"""The half of the kit that travels in every archive: standard library, torch, numpy and pillow only, Python 3.8.

Nothing is imported here, because the entry of an archive imports this package before it has verified the rest.
"""
