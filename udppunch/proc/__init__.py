"""Processes: joins roles to the loop, answers signals and the service manager."""
