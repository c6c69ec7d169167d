"""Catalogue, download, load, methods and memory estimate of base models.

Importing ``store``, ``fetch``, ``card``, ``memory`` and ``progress`` loads neither torch nor transformers, so that the
studio's page process stays light; ``load``, ``chat`` and ``methods`` import them inside their functions.
"""
