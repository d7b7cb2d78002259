"""One frozen dataclass per command: defaults, choices, help, validation, recipe."""
