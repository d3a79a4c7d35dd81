"""The CNI plugin that container runtimes execute, and its installation."""
