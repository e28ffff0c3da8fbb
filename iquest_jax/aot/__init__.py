"""Ahead-of-time compilation: what a stage costs on a pod, found out on a machine without one."""
