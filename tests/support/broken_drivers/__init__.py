"""Drivers that are broken on purpose, each as a real one was or could be, and what the kit must find in each."""
