"""``giga doctor``: whether giga works on this machine, and if not, why not."""
