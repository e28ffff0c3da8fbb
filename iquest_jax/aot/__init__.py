"""Ahead-of-time compilation: what a stage costs on a pod, without having one."""
