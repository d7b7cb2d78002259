"""The version of the program; the version of the store format is in :mod:`gigacli.store.layout`."""

__version__ = "0.2.0"
