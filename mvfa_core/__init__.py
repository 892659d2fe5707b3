"""MVFA benchmark core: adapters on a frozen vision-language model, and the judges of what they find."""

__version__ = "0.1.0"
