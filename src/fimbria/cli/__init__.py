"""The command line: one file per noun, each only asks, renders and exits."""
