"""Filled in below: the smallest model where each rule fires, and its repaired twin."""

TWINS: dict = {}
